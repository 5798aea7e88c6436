"""Symbols as binary words, and a loss that makes their softened words binary.

The words stand in a look-up table; a softened word is the mean of the words under the softmax of a
position, and so has a gradient, where looking up a rounded index has none.
"""

import math

import numpy as np
from keras import ops
from numpy.typing import NDArray


def binary_words(alphabet_size: int) -> NDArray[np.float32]:
    """Digits of each symbol, `(Q, ceil(log2 Q))`: words differ in 1 to log2 Q bits.

    Example:
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

    Example:
        >>> simplex_words(4).astype(int).tolist()
        [[0, 0, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0]]
    """
    size = 1 << (alphabet_size - 1).bit_length()
    shared = np.arange(alphabet_size)[:, None] & np.arange(1, size)[None, :]
    return (np.bitwise_count(shared) & 1).astype(np.float32)


def softened_words(soft, words):
    """Mean word of each position, `(B, M, Q)` and `(Q, L)` -> `(B, M, L)` in [0, 1]."""
    return ops.matmul(soft, ops.convert_to_tensor(words, soft.dtype))


def tanh_binarization(bits, *, slope):
    """Mean of (1 - |tanh(slope (2 w - 1))|)^2: the squared distance to -1 or 1.

    Args:
        bits: Softened words w, any shape, in [0, 1].
        slope: Steepness.
    """
    return ops.mean(ops.square(1.0 - ops.abs(ops.tanh(slope * (2.0 * bits - 1.0)))))


def sigmoid_binarization(bits, *, slope):
    """Mean cross-entropy of sigmoid(slope (2 w - 1)) to its nearer end, in units of log 2.

    Args:
        bits: Softened words w, any shape, in [0, 1].
        slope: Steepness.
    """
    return ops.mean(ops.softplus(-ops.abs(slope * (2.0 * bits - 1.0)))) / math.log(2)


WORDS = {"binary": binary_words, "one_hot": one_hot_words, "simplex": simplex_words}
BINARIZATIONS = {"tanh": tanh_binarization, "sigmoid": sigmoid_binarization}
