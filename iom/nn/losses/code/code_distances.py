"""Distances between all codes of a batch, each from the part of the training graph it needs."""

import math

from keras import ops

from iom.nn.losses.code.code_loss import COLLISIONS, RELAXED
from iom.nn.losses.code.pairs import cosine_distance, euclidean_distance


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
    """Cosine of two codes less the code that has every symbol in equal parts.

    0 for unrelated codes and 1 for equal ones, whatever Q is. Unrelated codes scatter around 0 as
    unit vectors of M (Q - 1) dimensions do.

    Args:
        collisions: Collision probability, any shape.
        alphabet_size: Q.
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
"""Name -> what it reads, and the function."""
