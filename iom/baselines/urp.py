"""URP-IoM: index of the largest entry in a window of Hadamard products (Jin et al., III-B)."""

import numpy as np
from numpy.typing import NDArray

from iom.baselines.keyed import keyed_orders
from iom.baselines.protection import HashedByKey, refuse_keep
from iom.config.hashing import HasherConfig
from iom.errors import ConfigError
from iom.keys import TransformKey

FACTORS = 2
"""Permuted vectors in a product; the paper's best value on faces."""


class UniformRandomPermutation(HashedByKey):
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
        refuse_keep(code, "URP")
        self.embedding_size = embedding_size
        self.code_length = code.code_length
        self.alphabet_size = code.alphabet_size

    def windows(self, key: TransformKey) -> NDArray[np.intp]:
        """Dimensions that are multiplied, `(P, M, q)`."""
        orders = keyed_orders(key, "urp", FACTORS * self.code_length, self.embedding_size)
        return orders[:, : self.alphabet_size].reshape(FACTORS, self.code_length, -1)

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.intp]:
        responses = np.ones((len(rows), self.code_length, self.alphabet_size), np.float32)
        for window in self.windows(key):
            responses *= rows[:, window]
        codes: NDArray[np.intp] = np.argmax(responses, axis=2)
        return codes
