"""MLP-Hash: signs of a secret random multi-layer perceptron (Otroshi Shahreza et al., 2204.11054).

The weights of all layers follow from the key.
"""

import numpy as np
from numpy.typing import NDArray

from iom.baselines.keyed import SecretSigns, keyed_blocks, keyed_orthonormal
from iom.keys import TransformKey

HIDDEN_LAYERS = 2


class MlpHash(SecretSigns):
    """Hidden layers of random orthonormal weights and a non-linearity, then a layer of signs.

    Choices of ours: tanh, on values brought to unit variance (on a unit-length embedding it would be all but linear), a
    threshold of 0, and as many hidden units as the embedding has dimensions. As with BioHash, more than D bits take
    several orthonormal blocks in the last layer.
    """

    title = "MLP-Hash"

    def layers(self, key: TransformKey) -> list[NDArray[np.float64]]:
        """The secret weights: each hidden layer `(D, D)`, then the last one `(M, D)`."""
        size = self.embedding_size
        hidden = [keyed_orthonormal(key, f"mlphash/hidden/{layer}", size, size) for layer in range(HIDDEN_LAYERS)]
        return [*hidden, keyed_blocks(key, "mlphash/out", self.code_length, size)]

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.bool_]:
        *hidden, last = self.layers(key)
        values = rows.astype(np.float64)
        for weights in hidden:
            values = values @ weights.T
            scale = np.sqrt(np.mean(np.square(values), axis=1, keepdims=True))
            values = np.tanh(values / np.maximum(scale, np.finfo(np.float64).tiny))
        return np.asarray(values @ last.T > 0)
