"""Inversion of IFO, whose symbols are the places of the first one in products of bits."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import expit

from iom.attacks.base import Embeddings, Templates
from iom.attacks.sphere_optimizer import Rows, best_of_starts, descend_sharpening, differing, sharpened

STARTS = 2
SMALLEST = 1e-3
"""Probabilities are kept so far from 0 and 1, which bounds the gradient."""


class FirstOneGradient:
    """Descent on minus the log probability of the symbols, with bits that are probably one.

    With p_j the product of the probabilities of its bits, a symbol t has the probability `p_t prod_{j < t} (1 - p_j)`,
    and a void one `prod_j (1 - p_j)`.

    Args:
        directions: What the bits are the signs of, `(D, bits)`.
        windows: Places of the bits that are multiplied, `(P, M, q)`.
    """

    def __init__(self, directions: NDArray[np.float32], windows: NDArray[np.intp]) -> None:
        self._directions = directions.astype(np.float64)
        self._windows = windows
        self._sums = csr_array(
            (np.ones(windows.size), (np.arange(windows.size), windows.ravel())),
            shape=(windows.size, directions.shape[1]),
        )

    def descend(self, codes: Templates, start: Embeddings, *, steps: int) -> Embeddings:
        """Unit vectors `(N, D)` whose symbols approach `codes` `(N, M)`, q being void."""
        places = np.arange(self._windows.shape[2])
        is_first = codes[:, :, None] == places
        is_zero = codes[:, :, None] > places
        return best_of_starts(
            lambda rows: descend_sharpening(
                lambda at, sharpness: self._gradient(at, is_first, is_zero, sharpness), rows, steps=steps
            ),
            lambda rows: differing(self._symbols(rows), codes),
            start,
            starts=STARTS,
        )

    def _symbols(self, rows: Rows) -> NDArray[np.intp]:
        ones = (rows @ self._directions > 0)[:, self._windows].all(axis=1)
        void = self._windows.shape[2]
        return np.asarray(np.where(np.any(ones, axis=2), np.argmax(ones, axis=2), void))

    def _gradient(self, rows: Rows, is_first: NDArray[np.bool_], is_zero: NDArray[np.bool_], sharpness: float) -> Rows:
        values = rows @ self._directions
        scale = sharpened(values, sharpness)
        bits = expit(scale * values)[:, self._windows]
        ones = np.clip(bits.prod(axis=1), SMALLEST, 1 - SMALLEST)
        by_one = is_zero / (1 - ones) - is_first / ones
        slope = (by_one * ones)[:, None] * (1 - bits)
        by_bit = slope.reshape(len(rows), -1) @ self._sums
        return np.asarray((by_bit * scale) @ self._directions.T)
