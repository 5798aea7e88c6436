"""Indexing-First-One hashing of a binarised embedding (Lai et al., Pattern Recognition 64, 2017)."""

import numpy as np
from numpy.typing import NDArray

from iom.baselines.keyed import keyed_orders
from iom.baselines.protection import HashedByKey, stored_bits
from iom.baselines.signs import PublicSigns
from iom.codes.comparators import CollisionComparator
from iom.config import CodeConfig
from iom.errors import ConfigError
from iom.keys import TransformKey

FACTORS = 2
"""P, permuted bit strings in a product; more hide more and match worse."""


class IndexingFirstOne(HashedByKey):
    """At each position: permute the bits P times, multiply, take the place of the first one.

    Only the first q bits of a product are looked at; where they are all zero the symbol is void, q. How it is adapted:
    the bits are signs of public Gaussian projections, as many as the code stores, instead of an iris code; the
    original's modulo threshold is left at its neutral value.
    """

    title = "IFO"

    def __init__(self, embedding_size: int, code: CodeConfig, seed: int = 0) -> None:
        super().__init__(embedding_size, code)
        if code.alphabet_size > 255:
            raise ConfigError(f"code.alphabet_size: IFO takes at most 255, received {code.alphabet_size}")
        self.window = code.alphabet_size
        self.alphabet_size = code.alphabet_size + 1
        self._bits = max(stored_bits(code), self.window)
        # Permuting bits is the key here, so the embedding before them stays as it is.
        self._signs = PublicSigns(embedding_size, self._bits, keep=0, seed=seed, purpose="baselines/ifo")

    @property
    def comparator(self) -> CollisionComparator:
        return CollisionComparator(void=self.window)

    @property
    def directions(self) -> NDArray[np.float32]:
        """Projections whose signs are the bits, `(D, bits)`; the same for all keys."""
        return self._signs.projection

    def windows(self, key: TransformKey) -> NDArray[np.intp]:
        """Places of the bits that are multiplied, `(P, M, q)`."""
        orders = keyed_orders(key, "ifo", FACTORS * self.code_length, self._bits)
        return orders[:, : self.window].reshape(FACTORS, self.code_length, self.window)

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.intp]:
        bits = np.asarray(rows @ self._signs.projection > 0)
        symbols = np.empty((len(rows), self.code_length), np.intp)
        windows = self.windows(key)
        for start in range(0, len(rows), 256):  # bounds the products to some megabytes
            part = bits[start : start + 256]
            product = np.logical_and.reduce([part[:, window] for window in windows])
            first = np.argmax(product, axis=2)
            symbols[start : start + 256] = np.where(product.any(axis=2), first, self.window)
        return symbols
