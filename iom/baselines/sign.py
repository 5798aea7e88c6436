"""Random-projection sign hashing: one bit for each random half-space (Charikar, STOC 2002).

Also what a float embedding goes through before methods that were made for binary templates.
"""

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.baselines.protection import HashedByKey, stored_bits
from iom.config.hashing import HasherConfig
from iom.errors import ConfigError
from iom.keys import TransformKey


class PublicSigns:
    """Signs of public Gaussian projections behind the keyed permutation.

    P(two bits agree) = 1 - angle / pi (Goemans and Williamson, 1995).

    Args:
        embedding_size: D.
        bits: How many.
        keep: Dimensions kept after the permutation; 0 keeps all.
        seed: Of the public projection.
        purpose: Label of its stream.

    Raises:
        ConfigError: More dimensions kept than there are.
    """

    def __init__(self, embedding_size: int, bits: int, *, keep: int, seed: int, purpose: str) -> None:
        if keep > embedding_size:
            raise ConfigError(f"code.keep: expected at most {embedding_size}, received {keep}")
        self.embedding_size = embedding_size
        self.keep = keep or embedding_size
        stream = numpy_stream(seed, purpose)
        self.projection = stream.standard_normal((self.keep, bits)).astype(np.float32)

    def directions(self, key: TransformKey) -> NDArray[np.float32]:
        """What the bits are the signs of under a key, `(D, bits)`; zeros where not kept."""
        full = np.zeros((self.embedding_size, self.projection.shape[1]), np.float32)
        full[key.permutation(self.embedding_size)[: self.keep]] = self.projection
        return full

    def bits(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.bool_]:
        """`(n, D)` -> `(n, bits)`."""
        order = key.permutation(self.embedding_size)[: self.keep]
        return np.asarray(rows[:, order] @ self.projection > 0)


class RandomProjectionSigns(HashedByKey):
    """Sign hashing at the stored bits of the wanted code shape; the key permutes, as in GRP.

    Args:
        embedding_size: D.
        code: Shape of the code; as many bits are taken as it stores.
        seed: Of the public projection.
    """

    alphabet_size = 2

    def __init__(self, embedding_size: int, code: HasherConfig, seed: int = 0) -> None:
        self.embedding_size = embedding_size
        self.code_length = stored_bits(code)
        self._signs = PublicSigns(embedding_size, self.code_length, keep=code.keep, seed=seed, purpose="baselines/sign")

    @property
    def public_projection(self) -> NDArray[np.float32]:
        """Each bit as two opposite vectors, `(K, M, 2)`."""
        return vectors_of_signs(self._signs.projection)

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.bool_]:
        return self._signs.bits(rows, key)


def vectors_of_signs(columns: NDArray[np.floating]) -> NDArray[np.float32]:
    """Directions of bits `(D, M)` as vectors of symbols 0 and 1, `(D, M, 2)`."""
    return np.stack([-columns, columns], axis=2).astype(np.float32)
