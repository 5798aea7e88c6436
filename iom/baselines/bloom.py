"""Bloom filters of a binarised embedding (Rathgeb, Breitinger, Busch and Baier, ICB 2013)."""

import numpy as np
from numpy.typing import NDArray

from iom.baselines.protection import HashedByKey, stored_bits
from iom.baselines.signs import PublicSigns
from iom.codes.comparators import BlockSetComparator
from iom.config import CodeConfig
from iom.errors import ConfigError
from iom.keys import TransformKey

WORD_BITS = 4
BLOCK_WORDS = 8


class BloomFilter(HashedByKey):
    """In each block, the set of words that occur, in any order; as many bits are binarised as the code shape stores.

    How it is adapted. The method was made for binary iris codes, whose columns are the words: here bits are signs of
    public Gaussian projections, words of 4 bits, and a block holds 8 words, so a filter has 16 bits. The original's
    key, a string added to every word, only renames the bits of a filter (Hermans et al., 2014): here the key permutes
    the embedding first, as in GRP.
    """

    takes_keep = True

    def __init__(self, embedding_size: int, code: CodeConfig, seed: int = 0) -> None:
        super().__init__(embedding_size, code)
        self.blocks = stored_bits(code) // (WORD_BITS * BLOCK_WORDS)
        if self.blocks < 1:
            raise ConfigError(
                f"code: Bloom filters take {WORD_BITS * BLOCK_WORDS} bits or more, received {stored_bits(code)}"
            )
        self.code_length, self.alphabet_size = self.blocks << WORD_BITS, 2
        self._signs = PublicSigns(
            embedding_size, self.blocks * BLOCK_WORDS * WORD_BITS, keep=code.keep, seed=seed, purpose="baselines/bloom"
        )

    @property
    def comparator(self) -> BlockSetComparator:
        return BlockSetComparator(1 << WORD_BITS)

    def directions(self, key: TransformKey) -> NDArray[np.float32]:
        """Projections whose signs are the bits of words, `(D, blocks, words, bits)`."""
        columns = self._signs.directions(key)
        return columns.reshape(-1, self.blocks, BLOCK_WORDS, WORD_BITS)

    def _hash_rows(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.uint8]:
        bits = self._signs.bits(rows, key)
        bits = bits.reshape(len(rows), self.blocks, BLOCK_WORDS, WORD_BITS)
        words = bits @ (1 << np.arange(WORD_BITS))
        filters = np.zeros((len(rows), self.blocks, 1 << WORD_BITS), np.uint8)
        np.put_along_axis(filters, words, 1, axis=2)
        return filters.reshape(len(rows), self.code_length)
