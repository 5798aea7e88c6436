"""BioHashing: signs of a secret orthonormal projection (Jin, Ling and Goh, Pattern Recogn. 2004).

The key *is* the projection. With the key stolen this is sign hashing, no more.
"""

import numpy as np
from numpy.typing import NDArray

from iom.baselines.keyed import keyed_orthonormal
from iom.baselines.protection import Keys, hash_by_key, refuse_keep, stored_bits
from iom.config.hashing import HasherConfig
from iom.keys import TransformKey


class BioHash:
    """Bit i is 1 where `<r_i, x> > 0`, with orthonormal rows r_i that follow from the key.

    The original has at most D bits. To be compared at equal storage, more bits are made of several
    such projections, each orthonormal within itself. Its threshold tau is 0 here, the mean of a
    projection of embeddings whose mean is close to 0.

    Args:
        embedding_size: D.
        code: Shape of the code; as many bits are taken as it stores.
        seed: Unused, as nothing is public here; part of the common signature.

    Raises:
        ConfigError: `keep` is set.
    """

    alphabet_size = 2

    def __init__(self, embedding_size: int, code: HasherConfig, seed: int = 0) -> None:
        refuse_keep(code, "BioHash")
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

    def projection(self, key: TransformKey) -> NDArray[np.float64]:
        """The secret rows, `(M, D)`."""
        size = self.embedding_size
        blocks = [
            keyed_orthonormal(key, f"biohash/{start}", min(size, self.code_length - start), size)
            for start in range(0, self.code_length, size)
        ]
        return np.concatenate(blocks)

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.bool_]:
        return np.asarray(rows @ self.projection(key).T > 0)
