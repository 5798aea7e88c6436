"""Dealt correlations of the full comparison: what they are, files of them, one-time use.

A dealer, who sees neither codes nor messages, prepares for every comparison two parts, one for each side:

- bits `a` and `b`, uniform, one for each bit that is compared; with `w = a xor b`, additive shares of each `Delta w_i`;
- additive shares of `Delta` and of a mask `R`, uniform;
- a one-time table over the values of `(d + R) mod N`, as shares: A computes any entry from a seed, B holds all.

Shares are numbers modulo `m = N P`, just below 2^64, where `N` is odd and above every distance, and `P` has no prime
factor up to `N`. `Delta` is 1 modulo `N` and uniform modulo `P`: modulo `N`, the shares of `Delta d` are shares of the
distance `d`; modulo `P`, they are a message authentication code of it. Sources: Beaver, CRYPTO 1991 (dealt
correlations); Ishai et al., TCC 2013 (one-time truth tables); Damgard et al., CRYPTO 2012 (the global key `Delta`).

A deal is two files, `deal_files`, one for each side. A side takes an index for good: the file's mark, below which all
indexes are gone, is on the disk before anything of it is used, and what is used is overwritten with zeros. So a thief
of the disk gets no correlation of past comparisons (but for old content that a file system which copies on write, or a
disk that moves sectors, keeps for some time). An index is used when *both* sides take it: a file of one side that was
restored from a backup brings none back; files of both sides that are restored together do. Leave the files out of
backups, and deal anew instead.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import hmac
import logging
import os
import secrets
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, Literal, Self, TypeVar

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from iom._files import SECRET_MODE, atomic_path
from iom.codes.packing import WORD_BITS, encoding_id, plane_count, word_count
from iom.errors import CodeError, CorrelationError, DataError, StoreError, StoreNotFoundError
from iom.split.shares import SECRET_BYTES, Random

SEED_BYTES = 32
DEAL_BYTES = 16
"""Bytes of the id of a deal."""
CHUNK = 32
"""Indexes that one write of the mark takes; those of them that are unused when a process ends are lost."""
LOW_SHARES = (10, 100)
"""A warning is logged when a tenth of a deal is left, and a hundredth."""
MAX_COUNT = 1 << 32
"""Correlations of one deal."""
Side = Literal["A", "B"]
_LOG = logging.getLogger("iom.split")
_BLOCK_BYTES = 16
_CHECK_BYTES = 16
_PAGE = 4096
_MAGIC = b"iom-deal/1\0"
_HEADER = struct.Struct(f">{len(_MAGIC)}s{DEAL_BYTES}scIHiQ")
_MARK = struct.Struct(f">Q{_CHECK_BYTES}s")
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

    def to_bytes(self) -> bytes:
        """The part as it is in a file."""
        return b"".join((self.shares.astype("<u8", copy=False).tobytes(), self.bits.tobytes(), self.table.tobytes()))

    @classmethod
    def from_bytes(cls, data: bytes, terms: Terms) -> "CorrelationB":
        """Read what `to_bytes` wrote."""
        count = terms.bits + 2
        table = np.frombuffer(data, np.uint8, offset=8 * count + terms.bits // 8).reshape(-1, SECRET_BYTES)
        bits = np.frombuffer(data, np.uint8, terms.bits // 8, offset=8 * count)
        return cls(bits, np.frombuffer(data, "<u8", count).astype(np.uint64, copy=False), table)

    def entry(self, opened: int) -> bytes:
        """B's share of the table's entry for the opened value, `SECRET_BYTES` bytes."""
        return bytes(self.table[opened % len(self.table)])


PartT = TypeVar("PartT", CorrelationA, CorrelationB)  # the part of one side


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


def deal_files(
    terms: Terms, count: int, path_a: Path, path_b: Path, *, step: Callable[[], object] = lambda: None
) -> bytes:
    """Deal `count` correlations into a file for each side, mode 0600, and return the id of the deal.

    Neither file is there, not even in part, if anything fails. `step` is called after each correlation.

    Raises:
        DataError: One of the files is there, both are one, or the disk is too small.
    """
    if not 1 <= count <= MAX_COUNT:
        raise DataError(f"correlations: expected 1 to {MAX_COUNT}, received {count}")
    if path_a.absolute() == path_b.absolute():
        raise DataError(f"{path_a}: expected a file for each side, received one for both")
    for path in (path_a, path_b):
        if os.path.lexists(path):
            raise DataError(f"{path}: is there already, and a deal never overwrites another; name another file")
    deal_id = secrets.token_bytes(DEAL_BYTES)
    headers = {side: _Header(deal_id, side, terms, count) for side in _SIDES}
    _check_space(path_a, path_b, headers)
    is_written = False
    try:
        with atomic_path(path_b, mode=SECRET_MODE, replace=False) as temporary_b:
            with (
                atomic_path(path_a, mode=SECRET_MODE, replace=False) as temporary_a,
                temporary_a.open("wb") as stream_a,
                temporary_b.open("wb") as stream_b,
            ):
                stream_a.write(headers["A"].first_pages())
                stream_b.write(headers["B"].first_pages())
                for index in range(count):
                    a, b = deal(terms)
                    stream_a.write(headers["A"].block(index, a.seed))
                    stream_b.write(headers["B"].block(index, b.to_bytes()))
                    step()
            is_written = True
    except BaseException:
        if is_written:
            path_a.unlink()
        raise
    return deal_id


_SIDES: tuple[Side, Side] = ("A", "B")


def _check_space(path_a: Path, path_b: Path, headers: "dict[Side, _Header]") -> None:
    for path, header in ((path_a, headers["A"]), (path_b, headers["B"])):
        path.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(path.parent).free) < header.file_bytes:
            raise DataError(
                f"{path}: {header.count} correlations take {header.file_bytes / 1e9:.3g} GB, and {free / 1e9:.3g} GB "
                "are free; deal fewer, or into another folder"
            )


@dataclasses.dataclass(frozen=True)
class _Header:
    """First page of a file: what was dealt, to which side."""

    deal: bytes
    side: Side
    terms: Terms
    count: int

    @functools.cached_property
    def payload_bytes(self) -> int:
        """Bytes of one correlation, without its check."""
        if self.side == "A":
            return SEED_BYTES
        return self.terms.bits // 8 + 8 * (self.terms.bits + 2) + SECRET_BYTES * self.terms.entries

    @functools.cached_property
    def block_bytes(self) -> int:
        """Bytes of one correlation in the file."""
        return self.payload_bytes + _CHECK_BYTES

    @property
    def file_bytes(self) -> int:
        """Bytes of the file."""
        return self.offset(self.count)

    def offset(self, index: int) -> int:
        """Place of a correlation in the file."""
        return 2 * _PAGE + index * self.block_bytes

    def to_bytes(self) -> bytes:
        """The header with its check."""
        terms = (self.terms.code_length, self.terms.alphabet_size, self.terms.threshold)
        packed = _HEADER.pack(_MAGIC, self.deal, self.side.encode(), *terms, self.count)
        return packed + hashlib.sha256(packed).digest()

    def first_pages(self) -> bytes:
        """Header and mark of a file of which nothing is used."""
        return self.to_bytes().ljust(_PAGE, b"\0") + self.mark_bytes(0).ljust(_PAGE, b"\0")

    @classmethod
    def from_bytes(cls, page: bytes) -> "_Header":
        """Read what `to_bytes` wrote; a `ValueError` for anything else."""
        packed = page[: _HEADER.size]
        if page[_HEADER.size :][:32] != hashlib.sha256(packed).digest():
            raise ValueError
        magic, deal_id, letter, code_length, alphabet_size, threshold, count = _HEADER.unpack(packed)
        side: Side = "A" if letter == b"A" else "B"
        if magic != _MAGIC or letter not in (b"A", b"B") or not 1 <= count <= MAX_COUNT:
            raise ValueError
        return cls(deal_id, side, Terms(code_length, alphabet_size, threshold), count)

    def mark_bytes(self, mark: int) -> bytes:
        """The mark with its check."""
        return _MARK.pack(mark, self._check(b"mark", mark))

    def mark_of(self, data: bytes) -> int:
        """The mark in what `mark_bytes` wrote; a `ValueError` for anything else."""
        if len(data) != _MARK.size:
            raise ValueError
        mark, check = _MARK.unpack(data)
        if check != self._check(b"mark", mark) or mark > self.count:
            raise ValueError
        return int(mark)

    def block(self, index: int, payload: bytes) -> bytes:
        """A correlation as it is in the file."""
        return payload + self._check(payload, index)

    def payload(self, index: int, block: bytes) -> bytes:
        """The correlation in what `block` gave; a `ValueError` for anything else."""
        payload = block[: self.payload_bytes]
        if len(block) != self.block_bytes or not hmac.compare_digest(block, self.block(index, payload)):
            raise ValueError
        return payload

    def _check(self, content: bytes, number: int) -> bytes:
        bound = self.deal + self.side.encode() + number.to_bytes(8, "big")
        return hashlib.sha256(bound + content).digest()[:_CHECK_BYTES]


class _DealtFile:
    """One side's file of a deal, held by one process; its threads may share it.

    With `terms`, a file of another shape or threshold is refused.

    Raises:
        StoreNotFoundError: There is no file.
        StoreError: It is damaged, the other side's, of other terms, or another process has it open.
    """

    side: Side

    def __init__(self, path: Path, terms: Terms | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._process = os.getpid()
        if not path.is_file():
            raise StoreNotFoundError(f"no dealt correlations at {path}; make them with iom deal", place=str(path))
        with self._explained():
            self._file = os.open(path, os.O_RDWR)
        try:
            self._take_lock()
            self._header = self._read_header()
            if terms is not None and terms != self._header.terms:
                raise StoreError(f"{path}: dealt for {self._header.terms}, expected {terms}; run iom deal for these")
            self._mark = self._read_mark()
            with self._explained():  # a power cut may have brought some of these back
                for index in range(max(0, self._mark - 2 * CHUNK), self._mark):
                    self._read(index)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the file."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1

    @property
    def deal(self) -> bytes:
        """Id of the deal, which both sides' files have."""
        return self._header.deal

    @property
    def terms(self) -> Terms:
        """What the correlations were dealt for."""
        return self._header.terms

    @property
    def count(self) -> int:
        """Correlations of the deal, used ones among them."""
        return self._header.count

    @property
    def mark(self) -> int:
        """The lowest index from which on none was taken on this side."""
        return self._mark

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self.path}: cannot read or write: {error.strerror or error}") from error

    def _check_open(self) -> None:
        if self._file < 0:
            raise StoreError(f"{self.path}: closed")
        if os.getpid() != self._process:
            raise StoreError(f"{self.path}: opened by another process; open it after the fork")

    def _advance(self, mark: int) -> None:
        """Put a higher mark on the disk."""
        os.pwrite(self._file, self._header.mark_bytes(mark), _PAGE)
        os.fsync(self._file)
        before, after = self.count - self._mark, self.count - mark
        self._mark = mark
        if any(before > self.count // share >= after for share in LOW_SHARES):
            _LOG.warning(
                "%s: %d of %d correlations left; run iom deal for new ones, for both sides",
                self.path,
                after,
                self.count,
            )

    def _read(self, index: int) -> bytes:
        """The block of an index; zeros are left of it."""
        place, size = self._header.offset(index), self._header.block_bytes
        block = os.pread(self._file, size, place)
        os.pwrite(self._file, bytes(size), place)
        return block

    def _payload(self, index: int, block: bytes) -> bytes:
        try:
            return self._header.payload(index, block)
        except ValueError:
            raise CorrelationError(
                f"{self.path}: correlation {index} is damaged; verify again, or run iom deal for new ones",
                mark=self._mark,
            ) from None

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"{self.path}: another process has it open; one share server uses a file") from error

    def _read_header(self) -> _Header:
        try:
            header = _Header.from_bytes(os.pread(self._file, _PAGE, 0))
        except (ValueError, CodeError, struct.error) as error:
            raise StoreError(
                f"{self.path}: expected correlations dealt by iom deal, received another file or a damaged one"
            ) from error
        size = os.fstat(self._file).st_size
        if size != header.file_bytes:
            raise StoreError(f"{self.path}: expected {header.file_bytes} bytes, received {size}; it is cut, deal anew")
        if header.side != self.side:
            raise StoreError(f"{self.path}: expected the file of side {self.side}, received that of {header.side}")
        return header

    def _read_mark(self) -> int:
        try:
            return self._header.mark_of(os.pread(self._file, _MARK.size, _PAGE))
        except ValueError as error:
            raise StoreError(
                f"{self.path}: the mark of used correlations is damaged, so that none can be used; deal anew"
            ) from error


class CorrelationsA(_DealtFile):
    """A's correlations, which it takes one after the other."""

    side = "A"

    def __init__(self, path: Path, terms: Terms | None = None) -> None:
        super().__init__(path, terms)
        self._chunk: list[tuple[int, bytes]] = []

    @property
    def left(self) -> int:
        """Correlations that can be taken."""
        return self.count - self._mark + len(self._chunk)

    def take(self) -> Claimed[CorrelationA]:
        """The next correlation, which no other call and no later process gets.

        Raises:
            CorrelationError: None is left, or it is damaged.
        """
        with self._lock, self._explained():
            self._check_open()
            while True:
                if not self._chunk:
                    self._take_chunk()
                index, block = self._chunk.pop()
                if any(block):  # zeros: used before a crash
                    break
            seed = self._payload(index, block)
        return Claimed(self.deal, index, CorrelationA.from_seed(seed, self.terms))

    def skip_to(self, mark: int) -> None:
        """Go on at B's mark, below which B refuses all: after a crash of B, or where this file is an older copy."""
        with self._lock, self._explained():
            self._check_open()
            if not isinstance(mark, int) or not 0 <= mark <= self.count:
                raise CorrelationError(
                    f"{self.path}: expected a mark of 0 to {self.count} from the other side; do both have one deal?",
                    mark=self._mark,
                )
            self._chunk = [(index, block) for index, block in self._chunk if index >= mark]
            if mark > self._mark:
                self._advance(mark)

    def _take_chunk(self) -> None:
        first, stop = self._mark, min(self._mark + CHUNK, self.count)
        if first == stop:
            raise CorrelationError(
                f"{self.path}: all {self.count} correlations are used; run iom deal for new ones, for both sides",
                mark=self._mark,
            )
        blocks = [(index, self._read(index)) for index in range(first, stop)]
        self._advance(stop)
        self._chunk = blocks[::-1]


class CorrelationsB(_DealtFile):
    """B's correlations, which it gives up by the index that A took."""

    side = "B"

    def __init__(self, path: Path, terms: Terms | None = None) -> None:
        super().__init__(path, terms)
        self._first = self._mark
        self._used = bytearray(0)

    @property
    def left(self) -> int:
        """Correlations that can be claimed."""
        return self.count - self._mark + self._used.count(0)

    def claim(self, deal_id: bytes, index: int) -> Claimed[CorrelationB]:
        """The correlation of an index, which no other call and no later process gets.

        Raises:
            CorrelationError: It was claimed, or may have been before a crash; it is damaged, or of another deal.
        """
        with self._lock, self._explained():
            self._check_open()
            if not hmac.compare_digest(deal_id, self.deal) or not 0 <= index < self.count:
                raise CorrelationError(
                    f"{self.path}: expected an index below {self.count} of deal {self.deal.hex()[:8]}, received "
                    f"{index} of {deal_id.hex()[:8]}; give both sides the files of one deal",
                    mark=self._mark,
                )
            place = index - self._first
            if place < 0 or (place < len(self._used) and self._used[place]):
                raise CorrelationError(
                    f"{self.path}: correlation {index} is used, or was taken before a crash; go on at {self._mark}",
                    mark=self._mark,
                )
            if index >= self._mark:
                stop = min((index // CHUNK + 1) * CHUNK, self.count)
                self._advance(stop)
                self._used.extend(bytes(stop - self._first - len(self._used)))
            self._used[place] = 1
            block = self._read(index)
            payload = self._payload(index, block)
        return Claimed(self.deal, index, CorrelationB.from_bytes(payload, self.terms))
