"""GRP-IoM: index of the largest of q Gaussian random projections (Jin et al., TIFS 2018, III-A)."""

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.baselines.protection import HashedByKey
from iom.config.hashing import HasherConfig
from iom.errors import ConfigError
from iom.keys import TransformKey

BLOCK = 1024


class GaussianRandomProjection(HashedByKey):
    """A public Gaussian projection behind the keyed permutation, not trained.

    A permuted Gaussian projection is again a Gaussian projection, hence this is GRP-IoM whose matrix follows from the
    key.

    Args:
        embedding_size: D.
        code: Shape of the code; `keep` is honoured, what is about learning is not.
        seed: Of the public projection.
    """

    def __init__(self, embedding_size: int, code: HasherConfig, seed: int = 0) -> None:
        if code.keep > embedding_size:
            raise ConfigError(f"code.keep: expected at most {embedding_size}, received {code.keep}")
        self.embedding_size = embedding_size
        self.code_length = code.code_length
        self.alphabet_size = code.alphabet_size
        self.keep = code.keep or embedding_size
        shape = (self.keep, self.code_length * self.alphabet_size)
        stream = numpy_stream(seed, "baselines/grp")
        self._projection = stream.standard_normal(shape).astype(np.float32)

    @property
    def public_projection(self) -> NDArray[np.float32]:
        """Projection vectors, `(K, M, Q)`."""
        return self._projection.reshape(-1, self.code_length, self.alphabet_size)

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.intp]:
        order = key.permutation(self.embedding_size)[: self.keep]
        blocks = [
            (rows[start : start + BLOCK, order] @ self._projection)
            .reshape(-1, self.code_length, self.alphabet_size)
            .argmax(axis=2)
            for start in range(0, len(rows), BLOCK)
        ]
        return np.concatenate(blocks) if blocks else np.empty((0, self.code_length), np.intp)
