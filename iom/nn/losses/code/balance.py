"""How evenly symbols are used, and how much positions tell of each other."""

import math

from keras import ops

PROBABILITY_FLOOR = 1e-7
VARIANCE_FLOOR = 1e-4
"""A position that hardly changes is not blown up to unit variance."""


def relative_entropy(probabilities):
    """Entropy over the last axis in units of log Q, `(..., Q)` -> `(...)` in [0, 1]."""
    logarithms = ops.log(ops.maximum(probabilities, PROBABILITY_FLOOR))
    return -ops.sum(probabilities * logarithms, axis=-1) / math.log(probabilities.shape[-1])


def symbol_imbalance(relaxed):
    """How far the symbols of each position are from being used equally, in [0, 1].

    1 - H(mean over the batch) / log Q, for each position on its own and then averaged: a position
    that never changes cannot hide among the others.

    Args:
        relaxed: Relaxed codes, `(B, M, Q)`.
    """
    return 1.0 - ops.mean(relative_entropy(ops.mean(relaxed, axis=0)))


def position_correlation(relaxed):
    """Mean squared correlation of two positions over the batch, in [0, 1].

    With C_mn the covariance of the symbols of positions m and n, each position scaled so that
    tr C_mm = 1, this is the mean of ||C_mn||^2 over m != n. The sum over all m, n is the squared
    norm of the `(B, B)` Gram matrix, so that no `(M Q, M Q)` matrix is formed.

    A batch of B rows leaves at least about 1 / B even where positions are independent.

    Args:
        relaxed: Relaxed codes, `(B, M, Q)`.

    Returns:
        Scalar; 0 with a zero gradient for a single position, and for rows that are all the same.
    """
    length, alphabet_size = relaxed.shape[1:]
    centred = relaxed - ops.mean(relaxed, axis=0, keepdims=True)
    variance = ops.mean(ops.sum(ops.square(centred), axis=2, keepdims=True), axis=0, keepdims=True)
    scaled = centred * ops.rsqrt(ops.maximum(variance, VARIANCE_FLOOR))
    count = ops.cast(ops.shape(relaxed)[0], relaxed.dtype)
    rows = ops.reshape(scaled, (-1, length * alphabet_size))
    everything = ops.sum(ops.square(ops.matmul(rows, ops.transpose(rows)) / count))
    positions = ops.transpose(scaled, (1, 2, 0))
    own = ops.matmul(positions, ops.transpose(positions, (0, 2, 1))) / count
    return (everything - ops.sum(ops.square(own))) / max(length * (length - 1), 1)
