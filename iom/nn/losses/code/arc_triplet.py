"""Arc triplet: mated angles to zero, non-mated ones to a right angle.

The formula is that of deep rank hashing (Dong et al., Pattern Recognition 2022, 108886), with unit
rows, a mean over the batch, and the margin on the side where it raises the loss.
"""

import math

from keras import ops

from iom.nn.losses.code.pairs import cosine_distance, masked_mean, mated_mask, non_mated_mask
from iom.nn.losses.code.triplet import hardest_pairs

COSINE_LIMIT = 1.0 - 1e-6
"""The slope of arccos is infinite at +-1."""
RIGHT_ANGLE = math.pi / 2
"""The largest angle between codes: they have no negative part."""


def code_angles(relaxed):
    """Angle between all codes of a batch, `(B, M, Q)` -> `(B, B)` in radians."""
    rows = ops.reshape(relaxed, (-1, relaxed.shape[1] * relaxed.shape[2]))
    cosines = 1.0 - cosine_distance(rows, rows)
    return ops.arccos(ops.clip(cosines, -COSINE_LIMIT, COSINE_LIMIT))


def batch_hard_arc_triplet(angles, labels, *, margin):
    """Farthest mated and nearest non-mated angle of each row.

    Args:
        angles: All pairs of a batch, `(B, B)`, radians from 0 to pi / 2.
        labels: Dense subject indices, `(B,)`.
        margin: Radians that a mated angle counts more and a non-mated one less.

    Returns:
        Scalar: mean over the rows that have both a mated and a non-mated partner; 0 with a zero
        gradient where no row has both.
    """
    farthest, nearest, usable = hardest_pairs(angles, labels)
    farthest = ops.where(usable, farthest, 0.0)
    nearest = ops.where(usable, nearest, 0.0)
    return masked_mean(_mated(farthest, margin) + _non_mated(nearest, margin), usable)


def batch_all_arc_triplet(angles, labels, *, margin):
    """All triplets. Each is a sum of two parts, so that no `(B, B, B)` is needed.

    Args:
        angles: All pairs of a batch, `(B, B)`, radians from 0 to pi / 2.
        labels: Dense subject indices, `(B,)`.
        margin: Radians that a mated angle counts more and a non-mated one less.

    Returns:
        Scalar: mean over the triplets; 0 with a zero gradient where there is none.
    """
    mated = ops.cast(mated_mask(labels), angles.dtype)
    non_mated = ops.cast(non_mated_mask(labels), angles.dtype)
    mates = ops.sum(mated, axis=1)
    others = ops.sum(non_mated, axis=1)
    total = others * ops.sum(mated * _mated(angles, margin), axis=1)
    total = total + mates * ops.sum(non_mated * _non_mated(angles, margin), axis=1)
    return ops.sum(total) / ops.maximum(ops.sum(mates * others), 1.0)


def _mated(angles, margin):
    """e^sin(t+m) / (e^sin(t+m) + e^cos(t)): rises with the angle and with the margin."""
    return ops.sigmoid(ops.sin(ops.minimum(angles + margin, RIGHT_ANGLE)) - ops.cos(angles))


def _non_mated(angles, margin):
    """e^cos(t-m) / (e^cos(t-m) + e^sin(t)): falls with the angle, rises with the margin."""
    return ops.sigmoid(ops.cos(ops.maximum(angles - margin, 0.0)) - ops.sin(angles))


ARC_TRIPLET_MININGS = {"batch_hard": batch_hard_arc_triplet, "batch_all": batch_all_arc_triplet}
