"""Similarity distillation: collision probability, or asymmetric cosine, follows the cosine of the embeddings."""

import functools
import math

import numpy as np
from keras import ops
from numpy.typing import NDArray

from iom.nn.losses.code.pairs import cosine_distance

WEIGHT_FLOOR = 1e-7
SCATTER_FLOOR = 1e-4


def similarity_distillation(code_length, alphabet_size, *, centre, width, floor):
    """Measure of embeddings `(B, D)` against collisions `(B, B)`.

    The target of a pair of rows is the collision curve of GRP, which any projection follows on average; what is trained
    away is the scatter around it. Pairs near the decision count most: weight = floor + exp(-(cosine - centre)^2 / (2
    width^2)). The value is the mean squared error over the variance that independent positions would have at the
    centre, p (1 - p) / M: about 1 is the scatter of a random projection.
    """
    curve = collision_curve(alphabet_size)
    chance = collision_at(centre, alphabet_size)
    scatter = chance * (1.0 - chance) / code_length

    def measure(embeddings, collisions):
        cosines = 1.0 - cosine_distance(embeddings, embeddings)
        bins = ops.clip(ops.round((cosines + 1.0) * (BINS / 2)), 0, BINS)
        targets = ops.take(ops.convert_to_tensor(curve), ops.cast(bins, "int32"))
        return _weighted_error(collisions, targets, cosines, centre=centre, width=width, floor=floor) / scatter

    return measure


def cosine_distillation(*, centre, width, floor):
    """Measure of embeddings `(B, D)` against asymmetric cosines `(B, B)`, stored side and probe.

    A code that makes a cosine of rho with its own row has, on average, rho times the cosine of the embeddings with the
    row of another one; that is the target, rho being the batch's mean, without a gradient. Pairs weigh as in
    `similarity_distillation`. The value is the mean squared error over (1 - rho^2) / D, the variance of a remainder in
    a random direction.
    """

    def measure(embeddings, similarities):
        cosines = 1.0 - cosine_distance(embeddings, embeddings)
        held = ops.stop_gradient(ops.mean(ops.diagonal(similarities)))
        scatter = ops.maximum(1.0 - ops.square(held), SCATTER_FLOOR) / embeddings.shape[1]
        targets = held * cosines
        return _weighted_error(similarities, targets, cosines, centre=centre, width=width, floor=floor) / scatter

    return measure


def _weighted_error(values, targets, cosines, *, centre, width, floor):
    """Mean squared error over pairs of different rows, `(B, B)` each, weighed around a cosine."""
    rows = ops.arange(ops.shape(values)[0])
    others = ops.cast(ops.not_equal(rows[:, None], rows[None, :]), cosines.dtype)
    weights = others * (floor + ops.exp(-0.5 * ops.square((cosines - centre) / width)))
    return ops.sum(weights * ops.square(values - targets)) / ops.maximum(ops.sum(weights), WEIGHT_FLOOR)


def collision_at(cosine: float, alphabet_size: int) -> float:
    """Collision probability of GRP codes at one cosine."""
    return float(collision_curve(alphabet_size)[math.floor((cosine + 1.0) * BINS / 2 + 0.5)])


GRID_STEP = 0.04
GRID_REACH = 6.0
COSINE_LIMIT = 0.96
"""Beyond it the density is a ridge narrower than the grid; the curve is joined to its end."""
BINS = 2000
"""Cosine bins of the table: a step of 0.001."""


@functools.cache
def collision_curve(alphabet_size: int) -> NDArray[np.float32]:
    """Probability that codes of q = `alphabet_size` symbols agree at a position, at cosines -1, -0.999, ..., 1.

    With r and s the responses of two embeddings of cosine c to Gaussian vectors, each pair
    `(r_j, s_j)` is bivariate normal with correlation c, and the pairs are independent. Hence
    P(agree) = q * integral of phi(u, v; c) Phi(u, v; c)^(q-1), taken here on a grid. For q = 2 this
    is 1 - angle / pi.

    Returns:
        `(BINS + 1,)`, from 0 at cosine -1, over 1/q at cosine 0, to 1 at cosine 1.

    Examples:
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
