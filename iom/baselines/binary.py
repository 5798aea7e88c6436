"""Protections of binary templates: bits are the signs of public or secret projections of the embedding.

`sign`: one bit for each random half-space (Charikar, STOC 2002); also what a float embedding goes through before
methods that were made for binary templates: Bloom filters (Rathgeb, Breitinger, Busch and Baier, ICB 2013) and
Indexing-First-One (Lai et al., Pattern Recognition 64, 2017). BioHash: signs of a secret orthonormal projection (Jin,
Ling and Goh, Pattern Recogn. 2004). MLP-Hash: signs of a secret random multi-layer perceptron (Otroshi Shahreza et al.,
2204.11054). Of these two the key *is* the projection: with the key stolen they are sign hashing, no more.
"""

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.baselines.protection import Protection, keyed_blocks, keyed_orders, keyed_orthonormal, stored_bits
from iom.codes.comparators import BlockSetComparator, CollisionComparator
from iom.config import CodeConfig
from iom.errors import ConfigError
from iom.keys import TransformKey

HIDDEN_LAYERS = 2
"""Hidden layers of MLP-Hash."""


class PublicSigns:
    """Signs of public Gaussian projections behind the keyed permutation, which keeps `keep` dimensions (0: all).

    P(two bits agree) = 1 - angle / pi (Goemans and Williamson, 1995).
    """

    def __init__(self, embedding_size: int, bits: int, *, keep: int, seed: int, purpose: str) -> None:
        self.embedding_size = embedding_size
        self.keep = keep or embedding_size
        stream = numpy_stream(seed, purpose)
        self.projection = stream.standard_normal((self.keep, bits)).astype(np.float32)

    def directions(self, key: TransformKey) -> NDArray[np.float32]:
        """Projections whose signs are the bits under a key, `(D, bits)`; zeros where not kept."""
        full = np.zeros((self.embedding_size, self.projection.shape[1]), np.float32)
        full[key.permutation(self.embedding_size)[: self.keep]] = self.projection
        return full

    def bits(self, rows: NDArray[np.float32], key: TransformKey) -> NDArray[np.bool_]:
        """`(n, D)` -> `(n, bits)`."""
        order = key.permutation(self.embedding_size)[: self.keep]
        return np.asarray(rows[:, order] @ self.projection > 0)


class SignHash(Protection):
    """Binary codes of as many bits as the wanted code shape stores."""

    def __init__(self, embedding_size: int, code: CodeConfig, seed: int = 0) -> None:
        super().__init__(embedding_size, code)
        self.code_length, self.alphabet_size = stored_bits(code), 2


class RandomProjectionSigns(SignHash):
    """Sign hashing; the key permutes, as in GRP."""

    takes_keep = True

    def __init__(self, embedding_size: int, code: CodeConfig, seed: int = 0) -> None:
        super().__init__(embedding_size, code)
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


class BioHash(SignHash):
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


class MlpHash(SignHash):
    """Hidden layers of random orthonormal weights and a non-linearity, then a layer of signs.

    Adaptations: tanh, on values brought to unit variance (on a unit-length embedding it would be nearly linear), a
    threshold of 0, and D hidden units. As with BioHash, more than D bits take several orthonormal blocks in the last
    layer.
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


WORD_BITS = 4
BLOCK_WORDS = 8


class BloomFilter(Protection):
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


FACTORS = 2
"""P, permuted bit strings in a product; more hide more and match worse."""


class IndexingFirstOne(Protection):
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
