"""URP-IoM: index of the largest entry in a window of Hadamard products (Jin et al., III-B)."""

import numpy as np
from numpy.typing import NDArray

from iom.baselines.protection import Keys, hash_by_key
from iom.config.hashing import HasherConfig
from iom.errors import ConfigError
from iom.keys import TransformKey

FACTORS = 2
"""Permuted vectors in a product; the paper's best value on faces."""


class UniformRandomPermutation:
    """At each position: permute the vector p times, multiply, argmax of the first q entries.

    All permutations come from the key's stream.

    Args:
        embedding_size: D.
        code: Shape of the code; q is the length of the window.
        seed: Unused, as nothing is public here; part of the common signature.

    Raises:
        ConfigError: The window is longer than the embedding, or `keep` is set.
    """

    def __init__(self, embedding_size: int, code: HasherConfig, seed: int = 0) -> None:
        if code.alphabet_size > embedding_size:
            raise ConfigError(
                f"code.alphabet_size: URP takes at most the {embedding_size} entries of an "
                f"embedding, received {code.alphabet_size}"
            )
        if code.keep:
            raise ConfigError("code.keep: URP has no such step; set it to 0")
        self.embedding_size = embedding_size
        self.code_length = code.code_length
        self.alphabet_size = code.alphabet_size

    def hash(self, embeddings: NDArray[np.float32], keys: Keys) -> NDArray[np.uint8]:
        """Codes `(N, M)` of embeddings `(N, D)` under one key for all, or one for each."""
        return hash_by_key(
            embeddings,
            keys,
            embedding_size=self.embedding_size,
            code_length=self.code_length,
            hash_rows=self._hash_rows,
        )

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.intp]:
        count = FACTORS * self.code_length
        words = np.frombuffer(key.stream("urp", 8 * count * self.embedding_size), dtype="<u8")
        orders = np.argsort(words.reshape(count, self.embedding_size), axis=1, kind="stable")
        windows = orders[:, : self.alphabet_size].reshape(FACTORS, -1)
        products = np.ones((len(rows), windows.shape[1]), np.float32)
        for window in windows:
            products *= rows[:, window]
        responses = products.reshape(len(rows), self.code_length, self.alphabet_size)
        codes: NDArray[np.intp] = np.argmax(responses, axis=2)
        return codes
