"""Inversion of URP-IoM, whose symbols are places of the largest of products of entries."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from iom.attacks.base import Embeddings, Templates
from iom.attacks.closed_form import one_hot
from iom.attacks.sphere_optimizer import Rows, best_of_starts, descend_sharpening, differing, sharpened

STARTS = 6


class ProductGradient:
    """Softmax cross-entropy of products of entries, through the windows that the key discloses.

    A product of an even number of entries is the same for a row and its negative, under every key: which of the two is
    found is left to chance, and makes no difference to any matcher.

    Args:
        windows: Dimensions that are multiplied, `(P, M, q)`.
        size: D.
    """

    def __init__(self, windows: NDArray[np.intp], size: int) -> None:
        self._windows = windows
        count = windows[0].size
        places = np.arange(count)
        self._sums = [csr_array((np.ones(count), (places, window.ravel())), shape=(count, size)) for window in windows]

    def descend(self, codes: Templates, start: Embeddings, *, steps: int) -> Embeddings:
        """Unit vectors `(N, D)` whose symbols approach `codes` `(N, M)`, from `start`."""
        wanted = one_hot(codes, self._windows.shape[2]).astype(np.float64)
        return best_of_starts(
            lambda rows: descend_sharpening(
                lambda at, sharpness: self._gradient(at, wanted, sharpness), rows, steps=steps
            ),
            lambda rows: differing(np.argmax(self._products(rows), axis=2), codes),
            start,
            starts=STARTS,
        )

    def _products(self, rows: Rows) -> Rows:
        return np.asarray(np.prod([rows[:, window] for window in self._windows], axis=0))

    def _gradient(self, rows: Rows, wanted: Rows, sharpness: float) -> Rows:
        factors = [rows[:, window] for window in self._windows]
        products = np.prod(factors, axis=0)
        scaled = products * sharpened(products, sharpness)
        shares = np.exp(scaled - scaled.max(axis=2, keepdims=True))
        errors = shares / shares.sum(axis=2, keepdims=True) - wanted
        slope = np.zeros_like(rows)
        for number, sums in enumerate(self._sums):
            others = np.prod([f for n, f in enumerate(factors) if n != number], axis=0)
            slope += (errors * others).reshape(len(rows), -1) @ sums
        return slope
