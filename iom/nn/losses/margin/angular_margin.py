"""Angles of cosines, and adding to them, with values and slopes that stay finite at +-1."""

import math

from keras import ops

COSINE_LIMIT = 1.0 - 1e-6
"""Beyond it the slopes of arccos and of sqrt(1 - cos^2), infinite at +-1, are held."""
STEEPEST = -1.0 / math.sqrt(1.0 - COSINE_LIMIT**2)


def angles(cosines):
    """Arc cosine in radians; a straight line beyond +-`COSINE_LIMIT`, within 7e-4 of the angle."""
    inside = ops.clip(cosines, -COSINE_LIMIT, COSINE_LIMIT)
    return ops.arccos(inside) + STEEPEST * (cosines - inside)


def add_angle(cosines, margin):
    """`cos(theta + m)`, and `cos(theta) - m sin(m)` where theta + m > pi: it falls everywhere.

    Args:
        cosines: Of theta.
        margin: m in radians, a number or a tensor of the same shape.

    Returns:
        The shape of `cosines`.
    """
    if isinstance(margin, int | float):
        cosine, sine, limit = math.cos(margin), math.sin(margin), math.cos(math.pi - margin)
    else:
        cosine, sine, limit = ops.cos(margin), ops.sin(margin), ops.cos(math.pi - margin)
    height = ops.sqrt(ops.maximum(1.0 - ops.square(cosines), 1.0 - COSINE_LIMIT**2))
    moved = cosines * cosine - height * sine
    return ops.where(cosines > limit, moved, cosines - margin * sine)


def falling_cosine(angle):
    """`(-1)^k cos(a) - 2k`, k = floor(a / pi): falls for all a (Liu et al., CVPR 2017, eq. 7)."""
    turns = ops.stop_gradient(ops.floor(angle / math.pi))
    sign = 1.0 - 2.0 * ops.mod(turns, 2.0)
    return sign * ops.cos(angle) - 2.0 * turns
