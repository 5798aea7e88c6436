"""Scalar quantisation behind a secret rotation: the compression of vector databases, with a key.

Each value of the rotated embedding is rounded to one of 2^b levels, those of Max and Lloyd (IEEE Trans. Inf. Theory 6,
1960, and 28, 1982) for a normal distribution, and quantised vectors are compared by their cosine. The rotation is the
key, so with the key stolen this is a compressed embedding, no more.
"""

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from iom.baselines.protection import Protection, keyed_orthonormal
from iom.codes.comparators import CosineComparator
from iom.config import CodeConfig
from iom.keys import TransformKey

ITERATIONS = 2000


class ScalarQuantiser(Protection):
    """`b D` bits: the rotated embedding, at length sqrt(D), rounded to the levels; a template holds the levels' values.

    The code shape is without effect: the length of a template follows from D.
    """

    title = "scalar quantisation"
    dtype = np.float32

    def __init__(self, embedding_size: int, code: CodeConfig, seed: int = 0, *, bits: int) -> None:
        super().__init__(embedding_size, code)
        self.code_length, self.alphabet_size = embedding_size, 0
        self._levels = normal_levels(1 << bits)

    @property
    def comparator(self) -> CosineComparator:
        return CosineComparator()

    def rotation(self, key: TransformKey) -> NDArray[np.float64]:
        """The secret rotation, `(D, D)`."""
        return keyed_orthonormal(key, "scalar", self.embedding_size, self.embedding_size)

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.float64]:
        values = rows @ self.rotation(key).T
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        values *= np.sqrt(self.embedding_size) / np.maximum(lengths, np.finfo(np.float64).tiny)
        edges = (self._levels[:-1] + self._levels[1:]) / 2
        return np.asarray(self._levels[np.searchsorted(edges, values)])


@functools.cache
def normal_levels(count: int) -> NDArray[np.float64]:
    """Levels of least mean square error for a standard normal variable, ascending, `(count,)`.

    Lloyd's iteration: a level is the mean of the values between the midpoints to its neighbours.
    """
    levels = norm.ppf((np.arange(count) + 0.5) / count)
    for _ in range(ITERATIONS):
        edges = np.concatenate([[-np.inf], (levels[:-1] + levels[1:]) / 2, [np.inf]])
        levels = -np.diff(norm.pdf(edges)) / np.diff(norm.cdf(edges))
    levels.flags.writeable = False
    return np.asarray(levels)


def scalar(bits: int) -> Callable[[int, CodeConfig, int], ScalarQuantiser]:
    """Builder of a quantiser of so many bits a dimension, for the table of baselines."""
    return functools.partial(ScalarQuantiser, bits=bits)
