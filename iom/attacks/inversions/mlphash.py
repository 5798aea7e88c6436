"""Descent on the embedding through MLP-Hash, whose weights follow from the disclosed key."""

import numpy as np
from numpy.typing import NDArray

from iom.attacks.base import Embeddings, Templates
from iom.attacks.sphere_optimizer import descend_on_sphere

SHARPNESS = 6.0


class PerceptronGradient:
    """Logistic descent through layers of `tanh(W v / rms)` and a last layer of signs.

    Args:
        layers: Weights of the hidden layers, `(D, D)`, then of the last, `(M, D)`.
    """

    def __init__(self, layers: list[NDArray[np.float64]]) -> None:
        *self._hidden, self._last = layers

    def descend(self, codes: Templates, start: Embeddings, *, steps: int) -> Embeddings:
        """Unit vectors `(N, D)` whose bits approach `codes` `(N, M)`, from `start`."""
        signs = 2.0 * codes - 1.0
        found = descend_on_sphere(lambda rows: self._gradient(rows, signs), start, steps=steps)
        return found.astype(np.float32)

    def _gradient(self, rows: NDArray[np.float64], signs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the mean logistic loss, `(N, D)`."""
        values, kept = rows, []
        for weights in self._hidden:
            inner = values @ weights.T
            scale = np.sqrt(np.mean(inner**2, axis=1, keepdims=True))
            values = np.tanh(inner / scale)
            kept.append((inner / scale, scale, values))
        outputs = values @ self._last.T
        sharpness = SHARPNESS / np.sqrt(np.mean(outputs**2, axis=1, keepdims=True))
        wrong = -signs / (1 + np.exp(np.clip(sharpness * outputs * signs, -50, 50)))
        slope = wrong @ self._last
        for weights, (scaled, scale, value) in zip(reversed(self._hidden), reversed(kept), strict=True):
            slope = slope * (1 - value**2)
            mean = np.mean(slope * scaled, axis=1, keepdims=True)
            slope = ((slope - mean * scaled) / scale) @ weights
        return np.asarray(slope)
