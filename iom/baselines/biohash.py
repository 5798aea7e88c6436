"""BioHashing: signs of a secret orthonormal projection (Jin, Ling and Goh, Pattern Recogn. 2004).

The key *is* the projection. With the key stolen this is sign hashing, no more.
"""

import numpy as np
from numpy.typing import NDArray

from iom.baselines.keyed import SecretSigns, keyed_blocks
from iom.keys import TransformKey


class BioHash(SecretSigns):
    """Bit i is 1 where `<r_i, x> > 0`, with orthonormal rows r_i that follow from the key.

    The original has at most D bits. To be compared at equal storage, more bits are made of several such projections,
    each orthonormal within itself. Its threshold tau is 0 here, the mean of a projection of embeddings whose mean is
    close to 0.
    """

    title = "BioHash"

    def projection(self, key: TransformKey) -> NDArray[np.float64]:
        """The secret rows, `(M, D)`."""
        return keyed_blocks(key, "biohash", self.code_length, self.embedding_size)

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.bool_]:
        return np.asarray(rows @ self.projection(key).T > 0)
