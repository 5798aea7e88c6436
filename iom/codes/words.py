"""Codes as binary words, for databases that compare bits: Hamming distance is code distance.

Each symbol is written as a word; any two words are equally far apart, so that no pair of symbols
counts more than another (plain binary numbers differ in 1 to log2 q bits). The words are those of
the simplex code, 2^b - 1 bits with b = ceil(log2 q), which differ in 2^(b-1) bits: bit p, 1 to
2^b - 1, is the parity of `symbol AND p` (MacWilliams and Sloane, The Theory of Error-Correcting
Codes, 1977, chapter 1). Where q is just above a power of two, one-hot words of q bits that differ
in two are shorter.
"""

import numpy as np
from numpy.typing import NDArray

from iom.codes.packing import PackedCodes, plane_count, unpack

_ROWS_AT_A_TIME = 1024  # bounds the unpacked bits to some megabytes


def word_table(alphabet_size: int) -> NDArray[np.uint8]:
    """Bits of the word of each symbol, `(Q, L)`, zeros and ones.

    Example:
        >>> word_table(4).tolist()
        [[0, 0, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0]]
    """
    length = 2 ** plane_count(alphabet_size) - 1
    if length > alphabet_size:
        return np.eye(alphabet_size, dtype=np.uint8)
    common = np.arange(alphabet_size)[:, None] & np.arange(1, length + 1)
    return (np.bitwise_count(common.astype(np.uint16)) & 1).astype(np.uint8)


def bits_apart(alphabet_size: int) -> int:
    """Bits in which the words of two different symbols differ."""
    table = word_table(alphabet_size)
    return int((table[0] != table[1]).sum())


def dimension(code_length: int, alphabet_size: int) -> int:
    """Bits of the words of a code, up to whole bytes.

    Example:
        >>> dimension(512, 8)
        3584
    """
    return 8 * -(-code_length * len(word_table(alphabet_size)[0]) // 8)


def words_of(packed: PackedCodes) -> NDArray[np.uint8]:
    """Words of codes, `(N, dimension / 8)` bytes; bits behind the last symbol are zero."""
    table = word_table(packed.alphabet_size)
    codes = unpack(packed)
    width = dimension(packed.code_length, packed.alphabet_size) // 8
    words = np.empty((len(codes), width), np.uint8)
    for start in range(0, len(codes), _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        bits = table[codes[rows]].reshape(len(codes[rows]), -1)
        words[rows] = np.packbits(bits, axis=1)
    return words
