"""How often two GRP codes agree at a position, as a function of the cosine of the embeddings."""

import functools

import numpy as np
from numpy.typing import NDArray

GRID_STEP = 0.04
GRID_REACH = 6.0
COSINE_LIMIT = 0.96
"""Beyond it the density is a ridge narrower than the grid; the curve is joined to its end."""
BINS = 2000
"""Cosine bins of the table: a step of 0.001."""


@functools.cache
def collision_curve(alphabet_size: int) -> NDArray[np.float32]:
    """Probability of agreement at cosines -1, -0.999, ..., 1.

    With r and s the responses of two embeddings of cosine c to Gaussian vectors, each pair
    `(r_j, s_j)` is bivariate normal with correlation c, and the pairs are independent. Hence
    P(agree) = q * integral of phi(u, v; c) Phi(u, v; c)^(q-1), taken here on a grid. For q = 2 this
    is 1 - angle / pi.

    Args:
        alphabet_size: q.

    Returns:
        `(BINS + 1,)`, from 0 at cosine -1, over 1/q at cosine 0, to 1 at cosine 1.

    Example:
        >>> table = collision_curve(2)
        >>> [round(float(table[i]), 2) for i in (0, 500, 1000, 1500, 2000)]
        [0.0, 0.33, 0.5, 0.67, 1.0]
    """
    axis = np.arange(-GRID_REACH, GRID_REACH + GRID_STEP / 2, GRID_STEP)
    u, v = np.meshgrid(axis, axis)
    cosines = np.linspace(-COSINE_LIMIT, COSINE_LIMIT, 97)
    values = [_agreement(u, v, float(cosine), alphabet_size) for cosine in cosines]
    ends = np.concatenate([[-1.0], cosines, [1.0]]), np.concatenate([[0.0], values, [1.0]])
    return np.interp(np.linspace(-1, 1, BINS + 1), *ends).astype(np.float32)


def _agreement(u: NDArray[np.float64], v: NDArray[np.float64], cosine: float, alphabet_size: int) -> float:
    rest = 1.0 - cosine**2
    density = np.exp(-(u * u - 2 * cosine * u * v + v * v) / (2 * rest))
    mass = density * GRID_STEP**2 / (2 * np.pi * np.sqrt(rest))
    # Probability below the middle of each cell: its own row and column count half.
    below = _centred_sum(_centred_sum(mass, 0), 1)
    return float(alphabet_size * np.sum(mass * below ** (alphabet_size - 1)))


def _centred_sum(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.cumsum(values, axis=axis) - values / 2
