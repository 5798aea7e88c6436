"""Dealt correlations of the full comparison: what they are, files of them, one-time use.

A dealer, who sees neither codes nor messages, prepares for every comparison two parts, one for each side:

- bits `a` and `b`, uniform, one for each bit that is compared; with `w = a xor b`, additive shares of each `Delta w_i`;
- additive shares of `Delta` and of a mask `R`, uniform;
- a one-time table over the values of `(d + R) mod N`, as shares: A computes any entry from a seed, B holds all.

Shares are numbers modulo `m = N P`, just below 2^64, where `N` is odd and above every distance, and `P` has no prime
factor up to `N`. `Delta` is 1 modulo `N` and uniform modulo `P`: modulo `N`, the shares of `Delta d` are shares of the
distance `d`; modulo `P`, they are a message authentication code of it. Sources: Beaver, CRYPTO 1991 (dealt
correlations); Ishai et al., TCC 2013 (one-time truth tables); Damgard et al., CRYPTO 2012 (the global key `Delta`).
"""

import dataclasses
import functools
import secrets
from typing import Generic, TypeVar

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from iom.codes.packing import WORD_BITS, encoding_id, plane_count, word_count
from iom.errors import CodeError
from iom.split.shares import SECRET_BYTES, Random

SEED_BYTES = 32
DEAL_BYTES = 16
"""Bytes of the id of a deal."""
_BLOCK_BYTES = 16
_TABLE_DOMAIN = 1 << 127
"""Blocks of the cipher that are entries of the table; the lower ones are the stream of bits and shares."""


@dataclasses.dataclass(frozen=True)
class Terms:
    """Shape of the codes and the threshold of comparisons, on which dealer and both sides agree.

    A match is a distance of at most `threshold`, -1 (none is) to the code length (each is).
    """

    code_length: int
    alphabet_size: int
    threshold: int

    def __post_init__(self) -> None:
        word_count(self.code_length)
        plane_count(self.alphabet_size)
        if not -1 <= self.threshold <= self.code_length:
            raise CodeError(f"threshold: expected -1 to {self.code_length} positions, received {self.threshold}")

    @property
    def encoding(self) -> str:
        """Encoding id of the codes."""
        return encoding_id(self.code_length, self.alphabet_size)

    @property
    def planes(self) -> int:
        """Bit planes of a code."""
        return plane_count(self.alphabet_size)

    @property
    def bits(self) -> int:
        """Bits that are compared: of each position, the XOR of every non-empty subset of its planes."""
        return ((1 << self.planes) - 1) * word_count(self.code_length) * WORD_BITS

    @property
    def weight(self) -> int:
        """Compared bits in which two different symbols differ: half of the subsets, whatever the symbols."""
        return 1 << (self.planes - 1)

    @property
    def entries(self) -> int:
        """Entries of the table, `N`: odd, more than the code length."""
        return (self.code_length + 1) | 1

    @property
    def modulus(self) -> int:
        """Modulus `m` of the shares."""
        return self.entries * int(_cofactor(self.entries))


@functools.cache
def _cofactor(entries: int) -> int:
    """The largest P with `entries * P < 2^64` that no number from 2 to `entries` divides."""
    divisors = np.arange(2, entries + 1, dtype=np.uint64)
    candidate = (2**64 - 1) // entries
    while not np.all(np.uint64(candidate) % divisors):
        candidate -= 1
    return candidate


@dataclasses.dataclass(frozen=True, eq=False)
class CorrelationA:
    """A's part of one correlation.

    Attributes:
        bits: `a`, packed, `(bits / 8,)` uint8.
        shares: Shares modulo `m`, `(bits + 2,)` uint64: of `Delta w_i`, of `Delta`, of `R`.
        seed: Key of the table's entries.
    """

    bits: NDArray[np.uint8] = dataclasses.field(repr=False)
    shares: NDArray[np.uint64] = dataclasses.field(repr=False)
    seed: bytes = dataclasses.field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes, terms: Terms) -> "CorrelationA":
        """All of it from 32 bytes: AES-256 in counter mode gives the shares, then the bits."""
        count = terms.bits + 2
        stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(_BLOCK_BYTES))).encryptor()
        octets = stream.update(bytes(8 * count + terms.bits // 8))
        shares = np.frombuffer(octets, "<u8", count).astype(np.uint64, copy=False)
        return cls(np.frombuffer(octets, np.uint8, offset=8 * count), shares, seed)

    def entry(self, opened: int) -> bytes:
        """A's share of the table's entry for the opened value, `SECRET_BYTES` bytes."""
        return table_entries(self.seed, [opened])


@dataclasses.dataclass(frozen=True, eq=False)
class CorrelationB:
    """B's part of one correlation.

    Attributes:
        bits: `b`, packed, `(bits / 8,)` uint8.
        shares: Shares modulo `m`, `(bits + 2,)` uint64: of `Delta w_i`, of `Delta`, of `R`.
        table: B's shares of the table's entries, `(N, 16)` uint8.
    """

    bits: NDArray[np.uint8] = dataclasses.field(repr=False)
    shares: NDArray[np.uint64] = dataclasses.field(repr=False)
    table: NDArray[np.uint8] = dataclasses.field(repr=False)

    def entry(self, opened: int) -> bytes:
        """B's share of the table's entry for the opened value, `SECRET_BYTES` bytes."""
        return bytes(self.table[opened % len(self.table)])


PartT = TypeVar("PartT", CorrelationA, CorrelationB)


@dataclasses.dataclass(frozen=True)
class Claimed(Generic[PartT]):
    """A side's part of a correlation that nothing else gets: the id of its deal, its index."""

    deal: bytes
    index: int
    correlation: PartT


def table_entries(seed: bytes, opened: list[int]) -> bytes:
    """A's shares of the table's entries for opened values, 16 bytes each: AES-256 under the seed, a block a value."""
    blocks = b"".join((_TABLE_DOMAIN | value).to_bytes(_BLOCK_BYTES, "big") for value in opened)
    # ECB is the bare cipher here, a pseudo-random function of distinct blocks.
    return bytes(Cipher(algorithms.AES(seed), modes.ECB()).encryptor().update(blocks))  # noqa: S305


def deal(terms: Terms, *, random: Random = secrets.token_bytes) -> tuple[CorrelationA, CorrelationB]:
    """One correlation: both sides' parts. Whoever has both can read what is compared with it.

    `random` gives uniform bytes.
    """
    modulus = terms.modulus
    while True:  # a share of 64 uniform bits is uniform below m; about one seed in 2^30 has one that is not below
        a = CorrelationA.from_seed(random(SEED_BYTES), terms)
        if int(a.shares.max()) < modulus:
            break
    entries = terms.entries
    delta = 1 + entries * _uniform(modulus // entries, random)
    mask = _uniform(modulus, random)
    b_bits = np.frombuffer(random(terms.bits // 8), np.uint8)
    differs = np.unpackbits(np.bitwise_xor(a.bits, b_bits), bitorder="little")
    whole = np.empty(terms.bits + 2, np.uint64)
    np.multiply(differs, np.uint64(delta), out=whole[:-2])
    whole[-2:] = delta, mask
    shares = np.where(whole >= a.shares, whole - a.shares, whole + (np.uint64(modulus) - a.shares))
    table = np.frombuffer(bytearray(random(SECRET_BYTES * entries)), np.uint8).reshape(entries, SECRET_BYTES)
    matching = [(mask + distance * delta) % modulus for distance in range(terms.threshold + 1)]
    if matching:
        rows = np.array(matching, np.uint64) % np.uint64(entries)
        table[rows] = np.frombuffer(table_entries(a.seed, matching), np.uint8).reshape(-1, SECRET_BYTES)
    return a, CorrelationB(b_bits, shares, table)


def _uniform(bound: int, random: Random) -> int:
    """A number below `bound`, at a statistical distance from uniform of at most 2^-64."""
    return int.from_bytes(random(_BLOCK_BYTES), "little") % bound
