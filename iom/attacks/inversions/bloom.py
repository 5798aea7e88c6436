"""Inversion of Bloom filters: which words occur in a block is known, not where."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from iom.attacks.base import Embeddings, Templates
from iom.attacks.sphere_optimizer import Rows, best_of_starts, descend_sharpening, differing, sharpened

STARTS = 4
SMALLEST = 1e-3
"""Probabilities are kept so far from 0 and 1, which bounds the gradient."""


class WordSetGradient:
    """Descent on minus the log probability of the filters, with bits that are probably one.

    With p_wv the probability that word w of a block has the value v, the bit v of its filter is zero with the
    probability `prod_w (1 - p_wv)`.

    Args:
        directions: What the bits of words are the signs of, `(D, blocks, words, bits)`.
    """

    def __init__(self, directions: NDArray[np.float32]) -> None:
        self._shape = directions.shape[1:]
        self._columns = directions.reshape(len(directions), -1).astype(np.float64)
        bits = self._shape[-1]
        values = np.arange(1 << bits)[:, None] >> np.arange(bits) & 1
        self._is_one = values.astype(np.float64)
        """Whether bit b of the value v is one, `(2^bits, bits)`."""

    def descend(self, codes: Templates, start: Embeddings, *, steps: int) -> Embeddings:
        """Unit vectors `(N, D)` whose filters approach `codes` `(N, blocks * 2^bits)`."""
        occurs = codes.reshape(len(codes), self._shape[0], -1).astype(bool)
        return best_of_starts(
            lambda rows: descend_sharpening(
                lambda at, sharpness: self._gradient(at, occurs, sharpness), rows, steps=steps
            ),
            lambda rows: differing(self._filters(rows), codes),
            start,
            starts=STARTS,
        )

    def _values(self, rows: Rows) -> Rows:
        return np.asarray((rows @ self._columns).reshape(len(rows), *self._shape))

    def _filters(self, rows: Rows) -> NDArray[np.bool_]:
        words = (self._values(rows) > 0) @ (1 << np.arange(self._shape[-1]))
        filters = (words[..., None] == np.arange(len(self._is_one))).any(axis=2)
        return np.asarray(filters.reshape(len(rows), -1))

    def _gradient(self, rows: Rows, occurs: NDArray[np.bool_], sharpness: float) -> Rows:
        values = self._values(rows)
        scale = sharpened(values, sharpness)
        bits = expit(scale * values)
        # log p_wv is linear in the logarithms of the bits' probabilities: (N, blocks, words, 2^b).
        logs = np.log(np.clip(bits, 1e-12, 1)) @ self._is_one.T
        logs += np.log(np.clip(1 - bits, 1e-12, 1)) @ (1 - self._is_one).T
        words = np.clip(np.exp(logs), 0, 1 - SMALLEST)
        absent = np.prod(1 - words, axis=2, keepdims=True)
        present = absent / np.maximum(1 - absent, SMALLEST)
        by_word = np.where(occurs[:, :, None], -present, 1.0) * words / (1 - words)
        # Of log p_wv by the value behind bit b: 1 - sigma where v has a one, else - sigma.
        slope = by_word @ self._is_one - by_word.sum(axis=3, keepdims=True) * bits
        return np.asarray((slope * scale).reshape(len(rows), -1) @ self._columns.T)
