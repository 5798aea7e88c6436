"""MLP-Hash: signs of a secret random multi-layer perceptron (Otroshi Shahreza et al., 2204.11054).

The weights of all layers follow from the key.
"""

import numpy as np
from numpy.typing import NDArray

from iom.baselines.keyed import keyed_orthonormal
from iom.baselines.protection import Keys, hash_by_key, refuse_keep, stored_bits
from iom.config.hashing import HasherConfig
from iom.keys import TransformKey

HIDDEN_LAYERS = 2


class MlpHash:
    """Hidden layers of random orthonormal weights and a non-linearity, then a layer of signs.

    Choices of ours: tanh, on values brought to unit variance (on a unit-length embedding it would
    be all but linear), a threshold of 0, and as many hidden units as the embedding has dimensions.
    As with BioHash, more than D bits take several orthonormal blocks in the last layer.

    Args:
        embedding_size: D.
        code: Shape of the code; as many bits are taken as it stores.
        seed: Unused, as nothing is public here; part of the common signature.

    Raises:
        ConfigError: `keep` is set.
    """

    alphabet_size = 2

    def __init__(self, embedding_size: int, code: HasherConfig, seed: int = 0) -> None:
        refuse_keep(code, "MLP-Hash")
        self.embedding_size = embedding_size
        self.code_length = stored_bits(code)

    def hash(self, embeddings: NDArray[np.float32], keys: Keys) -> NDArray[np.uint8]:
        """Bits `(N, M)` of embeddings `(N, D)` under one key for all, or one for each."""
        return hash_by_key(
            embeddings,
            keys,
            embedding_size=self.embedding_size,
            code_length=self.code_length,
            hash_rows=self._hash_rows,
        )

    def layers(self, key: TransformKey) -> list[NDArray[np.float64]]:
        """The secret weights: each hidden layer `(D, D)`, then the last one `(M, D)`."""
        size = self.embedding_size
        hidden = [
            keyed_orthonormal(key, f"mlphash/hidden/{layer}", size, size)
            for layer in range(HIDDEN_LAYERS)
        ]
        last = [
            keyed_orthonormal(
                key, f"mlphash/out/{start}", min(size, self.code_length - start), size
            )
            for start in range(0, self.code_length, size)
        ]
        return [*hidden, np.concatenate(last)]

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.bool_]:
        *hidden, last = self.layers(key)
        values = rows.astype(np.float64)
        for weights in hidden:
            values = values @ weights.T
            scale = np.sqrt(np.mean(np.square(values), axis=1, keepdims=True))
            values = np.tanh(values / np.maximum(scale, np.finfo(np.float64).tiny))
        return np.asarray(values @ last.T > 0)
