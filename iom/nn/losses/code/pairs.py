"""Pairwise distances of embeddings and codes, and masks of mated and non-mated pairs."""

import math

from keras import ops

from iom.nn.losses.code.base import COLLISIONS, RELAXED

DISTANCE_FLOOR = 1e-12
"""A square root has an infinite slope at zero; squared distances are kept above this."""


def expected_collision(a, b):
    """Probability `(A, B)` that relaxed codes, `(A, M, Q)` and `(B, M, Q)`, agree at a position; 1/Q if unrelated."""
    flat_a = ops.reshape(a, (-1, a.shape[1] * a.shape[2]))
    flat_b = ops.reshape(b, (-1, b.shape[1] * b.shape[2]))
    return ops.matmul(flat_a, ops.transpose(flat_b)) / a.shape[1]


def cosine_distance(a, b):
    """1 - cosine of every row pair, `(A, D)`, `(B, D)` -> `(A, B)`; a zero row has cosine 0."""
    return 1.0 - ops.matmul(_unit(a), ops.transpose(_unit(b)))


def euclidean_distance(a, b):
    """Euclidean distance of every row pair, `(A, D)`, `(B, D)` -> `(A, B)`; finite slope at 0."""
    squares = (
        ops.sum(ops.square(a), axis=1)[:, None]
        + ops.sum(ops.square(b), axis=1)[None, :]
        - 2.0 * ops.matmul(a, ops.transpose(b))
    )
    return ops.sqrt(ops.maximum(squares, DISTANCE_FLOOR))


def mated_mask(labels):
    """True for pairs of different rows of one subject, `(B,)` -> `(B, B)`."""
    labels = ops.reshape(labels, (-1,))
    same = ops.equal(labels[:, None], labels[None, :])
    rows = ops.arange(ops.shape(labels)[0])
    return ops.logical_and(same, ops.not_equal(rows[:, None], rows[None, :]))


def non_mated_mask(labels):
    """True for pairs of different subjects, `(B,)` -> `(B, B)`."""
    labels = ops.reshape(labels, (-1,))
    return ops.not_equal(labels[:, None], labels[None, :])


def masked_mean(values, mask):
    """Mean of `values` where `mask` is true; zero, with a zero gradient, where it never is."""
    weights = ops.cast(mask, values.dtype)
    return ops.sum(values * weights) / ops.maximum(ops.sum(weights), 1.0)


def _unit(rows):
    square = ops.sum(ops.square(rows), axis=-1, keepdims=True)
    return rows * ops.rsqrt(ops.maximum(square, DISTANCE_FLOOR))


def expected_difference(collisions):
    """Expected share of differing positions, from collision probabilities `(B, B)`."""
    return 1.0 - collisions


def euclidean_code_distance(relaxed):
    """Euclidean distance, 1 for hard codes that differ everywhere; `(B, M, Q)` -> `(B, B)`."""
    rows = _flat(relaxed)
    return euclidean_distance(rows, rows) / math.sqrt(2.0 * relaxed.shape[1])


def cosine_code_distance(relaxed):
    """1 - cosine, 1 for hard codes that differ everywhere; `(B, M, Q)` -> `(B, B)`."""
    rows = _flat(relaxed)
    return cosine_distance(rows, rows)


def code_cosine(collisions, alphabet_size):
    """Cosine of two codes less the code that has every symbol in equal parts, from their collision probability.

    0 for unrelated and 1 for equal codes, whatever Q is; unrelated ones scatter as unit vectors of M (Q - 1)
    dimensions.
    """
    chance = 1.0 / alphabet_size
    return (collisions - chance) / (1.0 - chance)


def _flat(relaxed):
    return ops.reshape(relaxed, (-1, relaxed.shape[1] * relaxed.shape[2]))


CODE_DISTANCES = {
    "collision": (COLLISIONS, expected_difference),
    "euclidean": (RELAXED, euclidean_code_distance),
    "cosine": (RELAXED, cosine_code_distance),
}
"""Name to the part of the graph it reads, and its function."""
