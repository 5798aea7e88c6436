"""Exact search by asymmetric distance: codes in blocks of 64, interleaved by words, and the nearest to keyed rows.

Each probe becomes tables of 8 bits, over groups of positions with 16 values together, which byte shuffles look up for
many codes at once (Andre, Kermarrec and Le Scouarnec, VLDB 2015). Table entries are rounded up, so that their sum
bounds the exact one; the few codes that may be among the nearest are compared exactly. The distances are those of
`iom.codes.asymmetric`, to the last unit.
"""

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom.codes._kernels import kernels
from iom.codes._kernels.portable import NIBBLE, SCAN_ROWS
from iom.codes.asymmetric import MAX_DISTANCE, UNIT, CodeVectors, row_lengths
from iom.codes.distances import Neighbours, merged, split
from iom.codes.packing import PackedCodes, plane_count, unpack
from iom.errors import CodeError

_VOID = 1e300
"""Length of a code that was cleared: its distance is that of a right angle, whatever the probe."""
_SORTED = 1024
"""Neighbours up to which a scan keeps them in order; of more, all distances are sorted."""
_EXACT: NDArray[np.int32] = np.zeros(0, np.int32)
_COLUMNS = 64
_SAMPLE_BLOCKS = 32
_ROOM = 1 << 12
_ROWS_AT_A_TIME = 4096


class Cut(NamedTuple):
    """First stage of a search in two: only codes that score well in their first bytes are compared exactly.

    Attributes:
        code_bytes: First bytes of a code that are looked at, a multiple of 4.
        share: Share of the codes that is left, about.
    """

    code_bytes: int
    share: float


class InterleavedCodes:
    """Codes in memory, in the order of their rows, for searches by asymmetric distance; changed in place.

    A row takes its code, in whole words of 32 bits, and 8 bytes for its length. Positions of up to 4 bits are grouped
    to half bytes, larger ones take a byte each. Unused capacity is address space only.

    Args:
        vectors: What the symbols of the codes stand for.
        capacity: Rows to make room for.
    """

    def __init__(self, vectors: CodeVectors, *, capacity: int = 0) -> None:
        self.vectors = vectors
        self._shape = (vectors.code_length, vectors.alphabet_size)
        self._layout = _Layout.of(*self._shape)
        self._size = 0
        blocks = -(-capacity // SCAN_ROWS)
        self._words: NDArray[np.uint32] = np.empty((blocks, self._layout.words, SCAN_ROWS), np.uint32)
        self._lengths: NDArray[np.float64] = np.empty(blocks * SCAN_ROWS)
        self._edges: NDArray[np.float64] = np.empty((blocks, 2))

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that there is room for."""
        return self._words.nbytes + self._lengths.nbytes + self._edges.nbytes

    def append(self, codes: PackedCodes) -> None:
        """Add codes behind the last row."""
        if (codes.code_length, codes.alphabet_size) != self._shape:
            raise CodeError(
                f"asymmetric distance: expected codes {self._shape[0]}x{self._shape[1]}, received "
                f"{codes.code_length}x{codes.alphabet_size}"
            )
        self._make_room(len(codes))
        parts = [codes[start : start + _ROWS_AT_A_TIME] for start in range(0, len(codes), _ROWS_AT_A_TIME)]
        words = np.concatenate([self._layout.words_of(unpack(part)) for part in parts or [codes]])
        self._put(self._size, words, self._code_lengths(words))
        self._size += len(codes)

    def clear(self, row: int) -> None:
        """Overwrite a row; it stays, at the distance of a right angle."""
        self._words[row // SCAN_ROWS, :, row % SCAN_ROWS] = 0
        self._lengths[row] = _VOID
        self._find_edges(row, row + 1)

    def keep(self, rows: NDArray[np.intp]) -> None:
        """Keep some rows, in this order; word by word, since a whole copy would double the memory."""
        before, self._size = self._size, len(rows)
        blocks = -(-before // SCAN_ROWS)
        for word in range(self._words.shape[1]):
            column = self._words[:blocks, word].reshape(-1)[rows]
            column = np.concatenate([column, np.zeros(blocks * SCAN_ROWS - len(rows), np.uint32)])
            self._words[:blocks, word] = column.reshape(blocks, SCAN_ROWS)
        self._lengths[: len(rows)] = self._lengths[rows]
        self._lengths[len(rows) : blocks * SCAN_ROWS] = _VOID
        self._find_edges(0, before)

    def nearest(self, rows: ArrayLike, k: int, *, cut: Cut | None = None, threads: int = 0) -> Neighbours:
        """The `k` nearest codes of each keyed row and their distances, `(B, k)`, nearest first; ties go to low rows.

        Args:
            rows: Keyed rows of the probes, `(B, K)` int32 (`iom.codes.asymmetric.keyed_rows`).
            k: At most the number of codes.
            cut: A first stage, which may miss some of them; `None` finds all. Codes whose symbols take more than half
                a byte, and kernels without byte shuffles, have none.
            threads: 0 takes the cores of this process.

        Raises:
            CodeError: Rows of another size or type, or another `k`.
        """
        rows = self.vectors.checked_rows(rows)
        probes = self._layout.probes(self.vectors, rows)
        if not 1 <= k <= len(self):
            raise CodeError(f"nearest: expected 1 <= k <= {len(self)} codes, received {k}")
        if k > _SORTED:
            found = [self._sorted(rows[n : n + 1], k, threads) for n in range(len(probes))]
            return Neighbours(*(np.concatenate(each) for each in zip(*found, strict=True)))
        work = self._work * max(len(probes), 1)
        kernel = kernels(work).scan_kernel(self._layout.bits, queries=len(probes))
        blocks: list[tuple[int, Neighbours]] = []
        arrays, unset = self._arrays(probes, cut), MAX_DISTANCE + 1

        def search(start: int, stop: int) -> None:
            found = Neighbours(np.full((len(probes), k), -1, np.int64), np.full((len(probes), k), unset, np.int32))
            kernel(*arrays, found.distances, found.rows, start, stop, len(self))
            blocks.append((start, found))

        split(search, self._blocks, work, threads)
        best = merged(blocks, k)
        missing = np.flatnonzero(best.distances[:, -1] == unset)
        if len(missing):  # a cut left too few
            exact = self.nearest(rows[missing], k, threads=threads)
            best.rows[missing], best.distances[missing] = exact
        return best

    def within(self, row: ArrayLike, threshold: float, *, cut: Cut | None = None, threads: int = 0) -> Neighbours:
        """Every code at a distance of at most `threshold` from one keyed row `(1, K)`, in the order of `nearest`.

        With a `cut`, some may be missed.
        """
        probe = self._probes(row)
        if len(probe) != 1:
            raise CodeError(f"within: expected one row, received {len(probe)}")
        below = int(np.floor(np.clip(threshold, -1.0, MAX_DISTANCE))) + 1
        kernel = kernels(self._work).scan_within_kernel(self._layout.bits)
        blocks: list[tuple[int, Neighbours]] = []
        arrays = self._arrays(probe, cut)

        def search(start: int, stop: int) -> None:
            room = _ROOM
            while True:
                found = Neighbours(np.empty((1, room), np.int64), np.empty((1, room), np.int32))
                count = kernel(*arrays, below, found.distances, found.rows, start, stop, len(self))
                if count <= room:
                    break
                room = count
            blocks.append((start, Neighbours(found.rows[:, :count], found.distances[:, :count])))

        split(search, self._blocks, self._work, threads)
        found = merged(blocks, len(self))
        return Neighbours(found.rows[0], found.distances[0])

    def distances(self, rows: ArrayLike, *, threads: int = 0) -> NDArray[np.int32]:
        """Distance of every code to every keyed row, `(B, N)`."""
        probes = self._probes(rows)
        work = self._work * max(len(probes), 1)
        kernel = kernels(work).scan_table_kernel(self._layout.bits)
        out = np.zeros((len(probes.scales), len(self)), np.int32)
        words, lengths, *_ = self._arrays(probes, None)

        def compare(start: int, stop: int) -> None:
            kernel(words, lengths, probes.sums, probes.scales, out, start, stop, len(self))

        split(compare, self._blocks, work, threads)
        return out

    def _sorted(self, row: NDArray[np.int32], k: int, threads: int) -> Neighbours:
        distances = self.distances(row, threads=threads)
        best = np.argsort(distances, axis=1, kind="stable")[:, :k]
        return Neighbours(best, np.take_along_axis(distances, best, axis=1))

    @property
    def _blocks(self) -> int:
        return -(-self._size // SCAN_ROWS)

    @property
    def _work(self) -> int:
        return self._size * self._layout.words // 2

    def _arrays(self, probes: "_Probes", cut: Cut | None) -> tuple[NDArray[Any], ...]:
        """Arguments of a kernel that say which codes are compared with which probes."""
        words, lengths = self._words[: self._blocks], self._lengths[: self._blocks * SCAN_ROWS]
        stored = (words, lengths, self._edges[: self._blocks])
        if cut is None or self._layout.bits != NIBBLE or not len(self):
            return (*stored, *probes, _EXACT)
        size = cut.code_bytes // 4
        if cut.code_bytes % 4 or not (1 <= size <= self._layout.words and 0 < cut.share < 1):
            raise CodeError(
                f"cut: expected 4 to {4 * self._layout.words} bytes, a multiple of 4, and a share between 0 and 1, "
                f"received {cut.code_bytes} and {cut.share}"
            )
        limits = self._limits(probes, size, cut.share)
        return (*stored, probes.tables[:, :size].copy(), probes.sums, probes.scales, limits)

    def _limits(self, probes: "_Probes", size: int, share: float) -> NDArray[np.int32]:
        """Sums of entries of the first `size` words that about a `share` of the codes reach, by those of a sample."""
        chosen = np.unique(np.linspace(0, self._blocks - 1, _SAMPLE_BLOCKS).astype(int))
        rows = (chosen[:, None] * SCAN_ROWS + np.arange(SCAN_ROWS)).reshape(-1)
        lengths, sums = self._lengths[rows], np.ascontiguousarray(probes.sums[:, : 8 * size])
        distances = np.zeros((len(probes), len(rows)), np.int32)
        kernel = kernels(self._work).scan_table_kernel(NIBBLE)
        words = np.ascontiguousarray(self._words[chosen, :size])
        kernel(words, lengths, sums, probes.scales, distances, 0, len(chosen), len(rows))
        known = lengths < _VOID
        if not known.any():
            return np.zeros(len(probes), np.int32)
        cosines = 1 - distances[:, known] / UNIT
        least = cosines.mean(axis=1) + NormalDist().inv_cdf(1 - share) * cosines.std(axis=1)
        steps, _, row_length = probes.scales.T
        lowest = sums.min(axis=2).sum(axis=1, dtype=np.int64)
        limits: NDArray[np.float64] = (least * row_length * lengths[known].mean() - lowest) / steps
        return limits.clip(0, 2**31 - 1).astype(np.int32)

    def _code_lengths(self, words: NDArray[np.uint32]) -> NDArray[np.float64]:
        """|V(c)| of codes `(N, words)`."""
        size, work = self.vectors.row_size, words.size * _COLUMNS
        kernel = kernels(work).length_kernel(self._layout.bits)
        squares = np.zeros(len(words), np.int64)
        for start in range(0, size if len(words) else 0, _COLUMNS):
            vectors = self.vectors.kernel[start : start + _COLUMNS].reshape(-1, *self._shape)
            table = np.ascontiguousarray(self._layout.sums(vectors).transpose(1, 2, 0))

            def add(first: int, stop: int, table: NDArray[np.int32] = table) -> None:
                kernel(words[first:stop], table, squares[first:stop])

            split(add, len(words), work, 0)
        return np.sqrt(squares.astype(np.float64))

    def _make_room(self, count: int) -> None:
        needed = -(-(self._size + count) // SCAN_ROWS)
        if needed <= len(self._words):
            return
        blocks, used = max(needed, 2 * len(self._words)), self._blocks
        self._words = grown(self._words, used, blocks)
        self._edges = grown(self._edges, used, blocks)
        self._lengths = grown(self._lengths, used * SCAN_ROWS, blocks * SCAN_ROWS)

    def _put(self, start: int, words: NDArray[np.uint32], lengths: NDArray[np.float64]) -> None:
        rows = np.arange(start, start + len(words))
        first = -(-start // SCAN_ROWS)
        stop = -(-(start + len(words)) // SCAN_ROWS)
        self._words[first:stop] = 0  # rows of a new block that are not there yet
        self._lengths[first * SCAN_ROWS : stop * SCAN_ROWS] = _VOID
        self._words[rows // SCAN_ROWS, :, rows % SCAN_ROWS] = words
        self._lengths[rows] = lengths
        self._find_edges(start, start + len(words))

    def _find_edges(self, start: int, stop: int) -> None:
        """Least and largest length in the blocks of some rows."""
        first, last = start // SCAN_ROWS, -(-stop // SCAN_ROWS)
        lengths = self._lengths[first * SCAN_ROWS : last * SCAN_ROWS].reshape(-1, SCAN_ROWS)
        self._edges[first:last, 0], self._edges[first:last, 1] = lengths.min(axis=1), lengths.max(axis=1)

    def _probes(self, rows: ArrayLike) -> "_Probes":
        return self._layout.probes(self.vectors, self.vectors.checked_rows(rows))


def grown(array: NDArray[Any], used: int, rows: int) -> NDArray[Any]:
    """An array of so many rows that begins with the first `used` ones of another."""
    new = np.empty((rows, *array.shape[1:]), array.dtype)
    new[:used] = array[:used]
    return new


class _Probes(NamedTuple):
    """Keyed rows as tables.

    Attributes:
        tables: For each word two tables of 64 entries: of the low half bytes of its four bytes, and of the high ones;
            `(B, words, 128)`.
        sums: Exact sums of responses `(B, groups, values)`; half bytes in the order of `tables`.
        scales: Step of an entry, what a sum of no entries stands for, and length of the row, `(B, 3)`.
    """

    tables: NDArray[np.uint8]
    sums: NDArray[np.int32]
    scales: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scales)


class _Layout(NamedTuple):
    """Arrangement of the positions of a code in words of 32 bits."""

    bits: int
    symbol_bits: int
    per_group: int
    words: int

    @classmethod
    def of(cls, code_length: int, alphabet_size: int) -> "_Layout":
        symbol_bits = plane_count(alphabet_size)
        bits = NIBBLE if symbol_bits <= NIBBLE else 8
        per_group = bits // symbol_bits
        groups = -(-code_length // per_group)
        return cls(bits, symbol_bits, per_group, -(-groups * bits // 32))

    def words_of(self, symbols: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """Words `(N, words)` of codes `(N, M)`."""
        per_byte = self.per_group * 8 // self.bits
        padded = np.zeros((len(symbols), 4 * self.words * per_byte), np.uint8)
        padded[:, : symbols.shape[1]] = symbols
        octets = np.zeros((len(symbols), 4 * self.words), np.uint8)
        for place in range(per_byte):
            group, position = divmod(place, self.per_group)
            octets |= padded[:, place::per_byte] << np.uint8(group * self.bits + position * self.symbol_bits)
        return octets.view("<u4").astype(np.uint32, copy=False)

    def sums(self, responses: NDArray[np.int32]) -> NDArray[np.int32]:
        """Sums of responses `(B, M, Q)` by the value of a group, `(B, groups, values)`."""
        count, code_length, alphabet_size = responses.shape
        groups = self.words * 32 // self.bits
        known = responses
        if known.shape[1:] != (groups * self.per_group, 1 << self.symbol_bits):
            known = np.zeros((count, groups * self.per_group, 1 << self.symbol_bits), np.int32)
            known[:, :code_length] = responses[:, :, :1]  # values that are no symbol widen no range
            known[:, :code_length, :alphabet_size] = responses
        grouped = known.reshape(count, groups, self.per_group, -1)
        sums: NDArray[np.int32] = grouped[:, :, 0]
        for place in range(1, self.per_group):
            sums = (grouped[:, :, place, :, None] + sums[:, :, None, :]).reshape(count, groups, -1)
        unused = (1 << self.bits) // sums.shape[2]  # bits that change nothing
        return np.ascontiguousarray(sums) if unused == 1 else np.tile(sums, (1, 1, unused))

    def probes(self, vectors: CodeVectors, rows: NDArray[np.int32]) -> _Probes:
        """Tables of keyed rows `(B, K)`."""
        sums = self.sums(vectors.responses(rows))
        count = len(rows)
        scales = np.stack([np.ones(count), np.zeros(count), row_lengths(rows)], axis=1)
        if self.bits != NIBBLE:
            return _Probes(np.zeros((count, 0, 128), np.uint8), sums, scales)
        ordered, tables = np.empty_like(sums), np.empty((count, self.words, 128), np.uint8)
        kernels(sums.size).probe_kernel()(sums, ordered, tables, scales)
        return _Probes(tables, ordered, scales)
