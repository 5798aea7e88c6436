"""Losses on the symbols of a position: balance, decorrelation, quantization, binarization; reconstruction error."""

import math

import numpy as np
import scipy.linalg
from keras import ops
from numpy.typing import NDArray

from iom.nn.layers import unit_length

PROBABILITY_FLOOR = 1e-7
VARIANCE_FLOOR = 1e-4
"""A position that hardly changes is not blown up to unit variance."""


def relative_entropy(probabilities):
    """Entropy over the last axis in units of log Q, `(..., Q)` -> `(...)` in [0, 1]."""
    logarithms = ops.log(ops.maximum(probabilities, PROBABILITY_FLOOR))
    return -ops.sum(probabilities * logarithms, axis=-1) / math.log(probabilities.shape[-1])


def symbol_imbalance(relaxed):
    """How far the symbols of each position of `(B, M, Q)` are from being used equally, in [0, 1].

    1 - H(mean over the batch) / log Q, for each position on its own and then averaged: a position that never changes
    cannot hide among the others.
    """
    return 1.0 - ops.mean(relative_entropy(ops.mean(relaxed, axis=0)))


def position_correlation(relaxed):
    """Mean squared correlation of two positions of relaxed codes `(B, M, Q)` over the batch, in [0, 1].

    With C_mn the covariance of the symbols of positions m and n, each position scaled so that tr C_mm = 1, this is the
    mean of ||C_mn||^2 over m != n. The sum over all m, n is the squared norm of the `(B, B)` Gram matrix, so that no
    `(M Q, M Q)` matrix is formed. A batch of B rows leaves at least about 1 / B even where positions are independent.
    It is 0, with a zero gradient, for a single position and for equal rows.
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


def one_max_quantization(soft):
    """Mean of 1 - max_j p_j of softmax responses `(B, M, Q)`: zero where every position is decided."""
    return ops.mean(1.0 - ops.max(soft, axis=-1))


def entropy_quantization(soft):
    """Mean entropy of a position of `(B, M, Q)`, in units of log Q: zero where every position is decided."""
    return ops.mean(relative_entropy(soft))


def rounding_quantization(soft):
    """Mean of (round(z) - z)^2 of the soft index z of `(B, M, Q)`, as deep rank hashing has it; for comparison.

    Symbols are names, and z averages over them: split evenly between symbols 2 and 4 a position has z = 3 and no loss,
    though it is decided for neither.
    """
    index = ops.sum(soft * ops.arange(soft.shape[-1], dtype=soft.dtype), axis=-1)
    return ops.mean(ops.square(ops.stop_gradient(ops.round(index)) - index))


QUANTIZATIONS = {"one_max": one_max_quantization, "entropy": entropy_quantization, "rounding": rounding_quantization}


def reconstruction_error(codes, rows, *, parallel_weight):
    """Mean squared length of the remainder rows - codes, both `(B, K)`, what is parallel to a row weighing more.

    The anisotropic loss of Guo et al. (ICML 2020): what is parallel to a row changes its largest products, with rows
    alike, the most. `codes` are read back; `rows` of unit length; a `parallel_weight` of 1 is the plain squared error.
    """
    remainder = rows - codes
    squares = ops.sum(ops.square(remainder), axis=-1)
    along = ops.square(ops.sum(remainder * unit_length(rows), axis=-1))
    return ops.mean(squares + (parallel_weight - 1.0) * along)


def binary_words(alphabet_size: int) -> NDArray[np.float32]:
    """Digits of each symbol, `(Q, ceil(log2 Q))`: words differ in 1 to log2 Q bits.

    Examples:
        >>> binary_words(3).astype(int).tolist()
        [[0, 0], [0, 1], [1, 0]]
    """
    length = (alphabet_size - 1).bit_length()
    digits = np.arange(alphabet_size)[:, None] >> np.arange(length)[::-1]
    return (digits & 1).astype(np.float32)


def one_hot_words(alphabet_size: int) -> NDArray[np.float32]:
    """One bit a symbol, `(Q, Q)`: all words differ in 2 bits."""
    return np.eye(alphabet_size, dtype=np.float32)


def simplex_words(alphabet_size: int) -> NDArray[np.float32]:
    """Rows of a Hadamard matrix without their first column: all words differ in half their bits.

    The length is the next power of two less one; the matrix is Sylvester's.

    Examples:
        >>> simplex_words(4).astype(int).tolist()
        [[0, 0, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0]]
    """
    size = 1 << (alphabet_size - 1).bit_length()
    return (scipy.linalg.hadamard(size)[:alphabet_size, 1:] < 0).astype(np.float32)


def softened_words(soft, words):
    """Mean word of each position, `(B, M, Q)` and `(Q, L)` -> `(B, M, L)` in [0, 1]; it has a gradient."""
    return ops.matmul(soft, ops.convert_to_tensor(words, soft.dtype))


def tanh_binarization(bits, *, slope):
    """Mean of (1 - |tanh(slope (2 w - 1))|)^2 of softened words w in [0, 1]: the squared distance to -1 or 1."""
    return ops.mean(ops.square(1.0 - ops.abs(ops.tanh(slope * (2.0 * bits - 1.0)))))


def sigmoid_binarization(bits, *, slope):
    """Mean cross-entropy of sigmoid(slope (2 w - 1)), w in [0, 1], to its nearer end, in units of log 2."""
    return ops.mean(ops.softplus(-ops.abs(slope * (2.0 * bits - 1.0)))) / math.log(2)


WORDS = {"binary": binary_words, "one_hot": one_hot_words, "simplex": simplex_words}
BINARIZATIONS = {"tanh": tanh_binarization, "sigmoid": sigmoid_binarization}
