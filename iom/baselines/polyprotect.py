"""PolyProtect: secret polynomials of embedding entries (Krivokuca Hahn and Marcel, 2110.00434), compared by cosine."""

import numpy as np
from numpy.typing import NDArray

from iom.baselines.protection import Protection, keyed_orders
from iom.codes.comparators import CosineComparator
from iom.config import CodeConfig
from iom.errors import ConfigError
from iom.keys import TransformKey

TERMS = 5
"""m, the entries of one polynomial; exponents are an order of 1..m."""
OVERLAP = 4
"""Entries that two neighbouring polynomials share: the most, best for accuracy in the paper."""
MAX_COEFFICIENT = 50
"""Coefficients are distinct integers between minus this and this, 0 excluded."""


class PolyProtect(Protection):
    """Entry i is `sum_j c_j v_{i s + j}^{e_j}` over a window of m entries, s = m - overlap.

    As in the paper, the embedding has unit length, so entries are far below 1 and high powers count little.
    Coefficients and exponents are the key. The length of a template follows from D.
    """

    title = "PolyProtect"
    dtype = np.float64

    def __init__(self, embedding_size: int, code: CodeConfig, seed: int = 0) -> None:
        super().__init__(embedding_size, code)
        if embedding_size < TERMS:
            raise ConfigError(f"PolyProtect: expected embeddings of {TERMS} entries or more, received {embedding_size}")
        self.alphabet_size = 0
        step = TERMS - OVERLAP
        # A last window that sticks out is filled with zeros, as in the paper.
        self.code_length = 1 + -(-(embedding_size - TERMS) // step)
        self._padding = (self.code_length - 1) * step + TERMS - embedding_size

    @property
    def comparator(self) -> CosineComparator:
        return CosineComparator()

    def polynomial(self, key: TransformKey) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Coefficients `(m,)`, distinct and not zero, and exponents `(m,)`, an order of 1..m."""
        values = np.delete(np.arange(-MAX_COEFFICIENT, MAX_COEFFICIENT + 1), MAX_COEFFICIENT)
        coefficients = values[keyed_orders(key, "polyprotect/c", 1, len(values))[0, :TERMS]]
        return coefficients, keyed_orders(key, "polyprotect/e", 1, TERMS)[0] + 1

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.float64]:
        coefficients, exponents = self.polynomial(key)
        wide = rows.astype(np.float64)
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        unit = wide / np.maximum(lengths, np.finfo(np.float64).tiny)
        padded = np.pad(unit, ((0, 0), (0, self._padding)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, TERMS, axis=1)
        return np.asarray((windows[:, :: TERMS - OVERLAP] ** exponents) @ coefficients)
