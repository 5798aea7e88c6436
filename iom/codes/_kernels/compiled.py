"""Compiled loops over bit planes (LLVM), explained in `docs/kernels.md`; used through `iom.codes.distances`.

The vectors are written out (`<8 x i64>`) since the automatic vectoriser easily picks a slower loop; other CPUs get them
lowered. Codes of a usual length get kernels with the word loop unrolled, which keeps a query in registers; every other
length shares one kernel per number of planes. With many queries, the distances of a few of them to a block of gallery
rows are computed at once, summed by one tree of shuffles.

numba knows a stored kernel to be stale by the file its function stands in, so all that a kernel inlines is in this
file.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from iom.codes._kernels.portable import NIBBLE, PAIR, SCAN_ROWS, Kernel
from iom.codes.asymmetric import UNIT

UNROLLED_WORDS = (1, 2, 4, 8, 16, 24, 32)
ANY_WORDS = 0
_TILE_BYTES = 1 << 17  # a tile of rows stays in the second-level cache while all queries pass it
_AHEAD_BYTES = 8192  # the hardware's own prefetcher stops at pages; one query is bound by memory
_LINE_BYTES = 64
QUERIES = 2
"""Queries of a block that share what is loaded; their vectors stay in registers."""
_BLOCK_TILE_BYTES = 1 << 15  # a tile of rows stays in the first-level cache while all queries pass it
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_ROWS = types.Array(types.uint64, 3, "C", readonly=True)
_DISTANCES = types.Array(types.int32, 2, "C")
_IDS = types.Array(types.int64, 2, "C")

SCAN_QUERIES = 4
"""Queries of a scan that share what is loaded."""
_WORDS = types.Array(types.uint32, 3, "C", readonly=True)
_LENGTHS = types.Array(types.float64, 1, "C", readonly=True)
_EDGES = types.Array(types.float64, 2, "C", readonly=True)
_TABLES = types.Array(types.uint8, 3, "C", readonly=True)
_SUMS = types.Array(types.int32, 3, "C", readonly=True)
_SCALES = types.Array(types.float64, 2, "C", readonly=True)
_FIXED = types.Array(types.int32, 1, "C", readonly=True)


def paired_kernel(planes: int, words: int) -> Kernel:
    """`(a, b, out, start, stop)`: distance of row i of `a` and row i of `b` into `out[0, i]`."""
    return _paired(planes, _unrolled(words))


def table_kernel(planes: int, words: int, *, queries: int = 0, rows: int = 0) -> Kernel:
    """`(a, b, out, a_start, a_stop, b_start, b_stop)`: a part of all pairs into `out[i, j]`.

    Of one query, memory sets the pace and `b` is fetched ahead; of many, rows of `b` are taken by blocks.
    """
    if _fills_blocks(words, queries, rows):
        return _block_table(planes, words)
    return _table(planes, _unrolled(words), queries == 1)


def nearest_kernel(planes: int, words: int, *, queries: int = 0, rows: int = 0) -> Kernel:
    """`(queries, gallery, distances, ids, start, stop)`: the best among some gallery rows.

    `distances` and `ids` are `(queries, k)` and hold the best so far, nearest first.
    """
    if _fills_blocks(words, queries, rows):
        return _block_nearest(planes, words)
    return _nearest(planes, _unrolled(words), queries == 1)


def _fills_blocks(words: int, queries: int, rows: int) -> bool:
    return queries > 1 and words in UNROLLED_WORDS and rows >= block_rows(words)


def block_rows(unrolled: int) -> int:
    """Gallery rows of a block of codes with `unrolled` words a plane."""
    return 2 * min(8, unrolled)


def _unrolled(words: int) -> int:
    return words if words in UNROLLED_WORDS else ANY_WORDS


def _compiled(*arguments: Any, result: Any = types.void) -> Callable[[Kernel], Kernel]:
    """Decorator: compile for these argument types, without the interpreter's lock, and keep the code on disk."""

    def decorate(function: Kernel) -> Kernel:
        options = {"nogil": True, "boundscheck": False}
        signature = result(*arguments)
        try:
            return numba.njit(signature, cache=True, **options)(function)  # type: ignore[no-any-return]
        except RuntimeError as error:
            # An installation without any writable folder has no place for numba's cache.
            if "cannot cache" not in str(error):
                raise
            return numba.njit(signature, **options)(function)  # type: ignore[no-any-return]

    return decorate


@intrinsic  # type: ignore[untyped-decorator]
def _row_distance(typing_context: Any, first: Any, second: Any, words: Any, planes: Any, unrolled: Any) -> Any:
    """Mismatches of two rows given by address; `planes` and `unrolled` are known when compiling."""
    if not isinstance(planes, types.IntegerLiteral) or not isinstance(unrolled, types.IntegerLiteral):
        return None
    plane_count, fixed_words = planes.literal_value, unrolled.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, right, row_words = arguments[:3]

        def mismatches(word: Any, width: int) -> Any:
            """Population count of `width` words from index `word`, summed to one i64."""
            kind = ir.VectorType(_I64, width) if width > 1 else _I64
            suffix = f"v{width}i64" if width > 1 else "i64"
            differing = None
            stride = row_words if fixed_words == ANY_WORDS else ir.Constant(_I64, fixed_words)
            for plane in range(plane_count):
                index = builder.add(word, builder.mul(stride, ir.Constant(_I64, plane)))
                offset = builder.shl(index, ir.Constant(_I64, 3))
                loaded = []
                for base in (left, right):
                    address = builder.inttoptr(builder.add(base, offset), kind.as_pointer())
                    value = builder.load(address)
                    value.align = 8
                    loaded.append(value)
                bits = builder.xor(*loaded)
                differing = bits if differing is None else builder.or_(differing, bits)
            count = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(kind, [kind]), f"llvm.ctpop.{suffix}"
            )
            return builder.call(count, [differing])

        def total(vector: Any, width: int) -> Any:
            reduce = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(_I64, [ir.VectorType(_I64, width)]),
                f"llvm.vector.reduce.add.v{width}i64",
            )
            return builder.call(reduce, [vector])

        if fixed_words != ANY_WORDS:
            width = min(8, fixed_words)
            parts = [mismatches(ir.Constant(_I64, word), width) for word in range(0, fixed_words, width)]
            summed = functools.reduce(builder.add, parts)
            return total(summed, width) if width > 1 else summed

        accumulator = cgutils.alloca_once_value(builder, ir.Constant(ir.VectorType(_I64, 8), [0] * 8))
        chunks = builder.lshr(row_words, ir.Constant(_I64, 3))
        with cgutils.for_range(builder, chunks) as loop:
            word = builder.shl(loop.index, ir.Constant(_I64, 3))
            builder.store(builder.add(builder.load(accumulator), mismatches(word, 8)), accumulator)
        rest = cgutils.alloca_once_value(builder, total(builder.load(accumulator), 8))
        vectorised = builder.shl(chunks, ir.Constant(_I64, 3))
        with cgutils.for_range(builder, builder.sub(row_words, vectorised)) as loop:
            word = builder.add(vectorised, loop.index)
            builder.store(builder.add(builder.load(rest), mismatches(word, 1)), rest)
        return builder.load(rest)

    signature = types.int64(types.uint64, types.uint64, types.int64, planes, unrolled)
    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(typing_context: Any, address: Any, planes: Any, unrolled: Any) -> Any:
    """Ask for the row `_AHEAD_BYTES` behind `address`; an address past the end does no harm."""
    if not isinstance(planes, types.IntegerLiteral) or not isinstance(unrolled, types.IntegerLiteral):
        return None
    # A row of unknown length gets its first lines fetched, and the hardware goes on from there.
    row_bytes = 8 * planes.literal_value * (unrolled.literal_value or 8)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for offset in range(_AHEAD_BYTES, _AHEAD_BYTES + row_bytes, _LINE_BYTES):
            _fetch(builder, builder.add(arguments[0], ir.Constant(_I64, offset)))
        return context.get_dummy_value()

    return types.void(types.uint64, planes, unrolled), generate


def _fetch(builder: Any, address: Any) -> None:
    """Emit a request for the line at an address."""
    read, once, data = (ir.Constant(_I32, value) for value in (0, 0, 1))
    line = builder.inttoptr(address, _I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [line.type, _I32, _I32, _I32])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [line, read, once, data])


@intrinsic  # type: ignore[untyped-decorator]
def _block_distances(
    typing_context: Any, queries: Any, gallery: Any, out: Any, out_stride: Any, planes: Any, unrolled: Any, count: Any
) -> Any:
    """Distances of `count` queries to the next `block_rows` rows, as int32 from address `out` on.

    `queries` and `gallery` are addresses, `out_stride` is in bytes; the last three arguments are compile-time
    constants.
    """
    if not all(isinstance(each, types.IntegerLiteral) for each in (planes, unrolled, count)):
        return None
    plane_count, words = planes.literal_value, unrolled.literal_value
    query_count, width = count.literal_value, min(8, words)
    chunks, row_bytes = words // width, 8 * plane_count * words
    vector = ir.VectorType(_I64, width)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first_query, first_row, place, stride = arguments[:4]

        def load(base: Any, row: int, plane: int, chunk: int) -> Any:
            offset = row * row_bytes + 8 * (plane * words + chunk * width)
            address = builder.add(base, ir.Constant(_I64, offset))
            value = builder.load(builder.inttoptr(address, vector.as_pointer()))
            value.align = 8
            return value

        def counts(row: int) -> list[Any]:
            """Vector of counts of a gallery row, for each query."""
            totals: list[Any] = [None] * query_count
            for chunk in range(chunks):
                differing: list[Any] = [None] * query_count
                for plane in range(plane_count):
                    stored = load(first_row, row, plane, chunk)
                    for query in range(query_count):
                        bits = builder.xor(stored, probes[query, plane, chunk])
                        known = differing[query]
                        differing[query] = bits if known is None else builder.or_(known, bits)
                for query in range(query_count):
                    found = builder.call(population, [differing[query]])
                    known = totals[query]
                    totals[query] = found if known is None else builder.add(known, found)
            return totals

        population = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector]), f"llvm.ctpop.v{width}i64"
        )
        probes = {
            (query, plane, chunk): load(first_query, query, plane, chunk)
            for query in range(query_count)
            for plane in range(plane_count)
            for chunk in range(chunks)
        }
        trees = [_LaneSums(builder, width) for _ in range(query_count)]
        half = ir.Constant(vector, [32] * width)
        for row in range(0, block_rows(words), 2):
            for tree, low, high in zip(trees, counts(row), counts(row + 1), strict=True):
                # No count reaches 2^32: two rows share a lane.
                tree.push(builder.add(low, builder.shl(high, half)))
        kind = ir.VectorType(_I32, 2 * width)
        for query, tree in enumerate(trees):
            sums = builder.bitcast(tree.total, kind)
            address = builder.add(place, builder.mul(stride, ir.Constant(_I64, query)))
            builder.store(sums, builder.inttoptr(address, kind.as_pointer())).align = 4
        return context.get_dummy_value()

    signature = types.void(types.uint64, types.uint64, types.uint64, types.uint64, planes, unrolled, count)
    return signature, generate


class _LaneSums:
    """Sums across the lanes of as many vectors as they have lanes, in order, as one vector; few stay alive."""

    def __init__(self, builder: Any, width: int) -> None:
        self._builder, self._width = builder, width
        self._waiting: list[tuple[int, Any]] = []

    def push(self, vector: Any) -> None:
        level = 0
        while self._waiting and self._waiting[-1][0] == level:
            vector = self._merged(self._waiting.pop()[1], vector, level)
            level += 1
        self._waiting.append((level, vector))

    @property
    def total(self) -> Any:
        ((_, vector),) = self._waiting
        return vector

    def _merged(self, first: Any, second: Any, level: int) -> Any:
        """Each lane of `first` added to its neighbour, then the same of `second`; a shuffle costs one instruction."""
        width = self._width
        if not level:
            picks = [
                [lane + side + source * width for lane in range(0, width, 2) for source in (0, 1)] for side in (0, 1)
            ]
        else:
            picks = [
                [source * width + pair + word for source in (0, 1)
                 for pair in range(2 * side, width, 4) for word in (0, 1)]
                for side in (0, 1)
            ]  # fmt: skip
        sides = [
            self._builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(_I32, width), pick)) for pick in picks
        ]
        return functools.reduce(self._builder.add, sides)


@functools.cache
def _paired(planes: int, unrolled: int) -> Kernel:
    @_compiled(_ROWS, _ROWS, _DISTANCES, types.int64, types.int64)
    def paired(a: Any, b: Any, out: Any, start: int, stop: int) -> None:
        words = a.shape[2]
        stride = np.uint64(8 * words * planes)
        first, second = np.uint64(a.ctypes.data), np.uint64(b.ctypes.data)
        for i in range(start, stop):
            offset = np.uint64(i) * stride
            out[0, i] = _row_distance(first + offset, second + offset, words, planes, unrolled)

    return paired


@functools.cache
def _table(planes: int, unrolled: int, alone: bool) -> Kernel:
    @_compiled(_ROWS, _ROWS, _DISTANCES, types.int64, types.int64, types.int64, types.int64)
    def table(a: Any, b: Any, out: Any, a_start: int, a_stop: int, b_start: int, b_stop: int) -> None:
        words = a.shape[2]
        stride = np.uint64(8 * words * planes)
        first, second = np.uint64(a.ctypes.data), np.uint64(b.ctypes.data)
        tile = max(1, _TILE_BYTES // (8 * words * planes))
        for tile_start in range(b_start, b_stop, tile):
            tile_stop = min(b_stop, tile_start + tile)
            for i in range(a_start, a_stop):
                row = first + np.uint64(i) * stride
                for j in range(tile_start, tile_stop):
                    place = second + np.uint64(j) * stride
                    if alone:
                        _prefetch(place, planes, unrolled)
                    out[i, j] = _row_distance(row, place, words, planes, unrolled)

    return table


@numba.njit(nogil=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _insert(distances: Any, ids: Any, query: int, distance: int, row: int) -> None:
    """Put a row among the best of a query; rows come in rising order, so a tie never displaces the lower id."""
    place = distances.shape[1] - 1
    while place > 0 and distances[query, place - 1] > distance:
        distances[query, place] = distances[query, place - 1]
        ids[query, place] = ids[query, place - 1]
        place -= 1
    distances[query, place] = distance
    ids[query, place] = row


@functools.cache
def _nearest(planes: int, unrolled: int, alone: bool) -> Kernel:
    @_compiled(_ROWS, _ROWS, _DISTANCES, _IDS, types.int64, types.int64)
    def nearest(queries: Any, gallery: Any, distances: Any, ids: Any, start: int, stop: int) -> None:
        words = queries.shape[2]
        stride = np.uint64(8 * words * planes)
        first, second = np.uint64(queries.ctypes.data), np.uint64(gallery.ctypes.data)
        last = distances.shape[1] - 1
        tile = max(1, _TILE_BYTES // (8 * words * planes))
        for tile_start in range(start, stop, tile):
            tile_stop = min(stop, tile_start + tile)
            for i in range(queries.shape[0]):
                row = first + np.uint64(i) * stride
                worst = distances[i, last]
                for j in range(tile_start, tile_stop):
                    address = second + np.uint64(j) * stride
                    if alone:
                        _prefetch(address, planes, unrolled)
                    distance = _row_distance(row, address, words, planes, unrolled)
                    if distance < worst:
                        _insert(distances, ids, i, distance, j)
                        worst = distances[i, last]

    return nearest


@functools.cache
def _block_table(planes: int, words: int) -> Kernel:
    rows, pair = block_rows(words), QUERIES

    @_compiled(_ROWS, _ROWS, _DISTANCES, types.int64, types.int64, types.int64, types.int64)
    def table(a: Any, b: Any, out: Any, a_start: int, a_stop: int, b_start: int, b_stop: int) -> None:
        stride, out_stride = np.uint64(8 * words * planes), np.uint64(4 * out.shape[1])
        first, second = np.uint64(a.ctypes.data), np.uint64(b.ctypes.data)
        place = np.uint64(out.ctypes.data)
        tile = max(1, _BLOCK_TILE_BYTES // (8 * words * planes * rows)) * rows
        for tile_start in range(b_start, b_stop, tile):
            tile_stop = min(b_stop, tile_start + tile)
            for i in range(a_start, a_stop, pair):
                row, line = first + np.uint64(i) * stride, place + np.uint64(i) * out_stride
                for j in range(tile_start, tile_stop, rows):
                    # The last block reaches back over rows that are written a second time.
                    at = max(0, min(j, tile_stop - rows))
                    block = second + np.uint64(at) * stride
                    cell = line + np.uint64(4 * at)
                    if i + pair <= a_stop:
                        _block_distances(row, block, cell, out_stride, planes, words, pair)
                    else:
                        _block_distances(row, block, cell, out_stride, planes, words, 1)

    return table


@functools.cache
def _block_nearest(planes: int, words: int) -> Kernel:
    rows, pair = block_rows(words), QUERIES

    @_compiled(_ROWS, _ROWS, _DISTANCES, _IDS, types.int64, types.int64)
    def nearest(queries: Any, gallery: Any, distances: Any, ids: Any, start: int, stop: int) -> None:
        stride = np.uint64(8 * words * planes)
        first, second = np.uint64(queries.ctypes.data), np.uint64(gallery.ctypes.data)
        last = distances.shape[1] - 1
        found = np.empty((pair, rows), np.int32)
        place, out_stride = np.uint64(found.ctypes.data), np.uint64(4 * rows)
        tile = max(1, _BLOCK_TILE_BYTES // (8 * words * planes * rows)) * rows
        for tile_start in range(start, stop, tile):
            tile_stop = min(stop, tile_start + tile)
            for i in range(0, queries.shape[0], pair):
                row, count = first + np.uint64(i) * stride, min(pair, queries.shape[0] - i)
                for j in range(tile_start, tile_stop, rows):
                    at = max(0, min(j, tile_stop - rows))
                    block = second + np.uint64(at) * stride
                    if count == pair:
                        _block_distances(row, block, place, out_stride, planes, words, pair)
                    else:
                        _block_distances(row, block, place, out_stride, planes, words, 1)
                    # The last block reaches back, over rows that were seen and maybe over the
                    # rows in front of `start`; the first one reaches beyond `stop` if there are
                    # few.
                    seen, until = j - at, min(rows, tile_stop - at)
                    for n in range(count):
                        worst = distances[i + n, last]
                        is_near = False
                        for m in range(rows):
                            is_near |= found[n, m] < worst
                        if not is_near:
                            continue
                        for m in range(seen, until):
                            if found[n, m] < distances[i + n, last]:
                                _insert(distances, ids, i + n, found[n, m], at + m)

    return nearest


def scan_kernel(bits: int, *, queries: int = 0) -> Kernel:
    """`(words, lengths, edges, tables, sums, scales, fixed, distances, ids, start, stop, count)`: the nearest codes.

    By asymmetric distance, among the rows below `count` of the blocks `start` to `stop`; see `iom.codes.scan` for the
    arrays. `distances` and `ids` `(queries, k)` hold the best so far, nearest first. If there are `fixed` limits
    `(queries,)`, codes whose entries in `tables`, which may be those of the first words alone, sum up to less are left
    out; else none that may be among the nearest.
    """
    return _scan_nearest(bits, shuffles() if bits == NIBBLE else "", queries == 1)


def scan_within_kernel(bits: int) -> Kernel:
    """`(words, lengths, edges, tables, sums, scales, fixed, below, distances, ids, start, stop, count)`: near codes.

    Of those of one query at distances below `below`, as many as there is room for go into `distances` and `ids`
    `(1, room)`; returns their number. The rest is as of `scan_kernel`.
    """
    return _scan_within(bits, shuffles() if bits == NIBBLE else "")


def scan_table_kernel(bits: int) -> Kernel:
    """`(words, lengths, sums, scales, out, start, stop, count)`: distances of all codes of some blocks.

    They go into `out[query, row]`.
    """
    return _scan_table(bits)


def probe_kernel() -> Kernel:
    """`(sums, ordered, tables, scales)`: tables of probes from their sums of responses `(B, groups, 16)`.

    `ordered` gets the sums by word, half and byte, `tables` their entries, and the first two columns of `scales` the
    step of an entry and the sum of the least ones; see `iom.codes.scan`.
    """
    return _probes()


def length_kernel(bits: int) -> Kernel:
    """`(words, table, squares)`: square lengths of codes `(N, words)`, over some columns of the vectors.

    `table` `(groups, values, columns)` has the sum of the vectors that a value of a group stands for.
    """
    return _lengths(bits)


class Shuffle(NamedTuple):
    """Byte shuffle of some CPUs: the features it needs, bytes of a vector, and LLVM's name of it."""

    features: frozenset[str]
    width: int
    name: str


_PERMUTED, _NEON = "vpermb", "tbl"
SHUFFLES = {
    _PERMUTED: Shuffle(frozenset({"avx512bw", "avx512vbmi", "avx512vnni"}), 64, "llvm.x86.avx512.permvar.qi.512"),
    "vpshufb 512": Shuffle(frozenset({"avx512bw"}), 64, "llvm.x86.avx512.pshuf.b.512"),
    "vpshufb": Shuffle(frozenset({"avx2"}), 32, "llvm.x86.avx2.pshuf.b"),
    "pshufb": Shuffle(frozenset({"ssse3"}), 16, "llvm.x86.ssse3.pshuf.b.128"),
    _NEON: Shuffle(frozenset({_NEON}), 16, "llvm.aarch64.neon.tbl1.v16i8"),
}
"""Byte shuffles by name, the best first."""


@functools.cache
def features() -> frozenset[str]:
    """Features of the CPU that numba compiles for, as far as they are told by name; every 64-bit ARM has `tbl`."""
    if llvm.get_default_triple().startswith(("aarch64", "arm64")):
        return frozenset({_NEON})
    told = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return frozenset(each[1:] for each in told.split(",") if each.startswith("+"))


@functools.cache
def shuffles() -> str:
    """Byte shuffle to compile for, a name of `SHUFFLES`; empty where there is none."""
    here = features()
    return next((name for name, kind in SHUFFLES.items() if kind.features <= here), "")


@intrinsic  # type: ignore[untyped-decorator]
def _candidates(
    typing_context: Any,
    block: Any,
    words: Any,
    tables: Any,
    limits: Any,
    out: Any,
    ahead: Any,
    queries: Any,
    shuffle: Any,
) -> Any:
    """Which of the 64 codes of a block reach the limits of `queries` queries: 64 bits each from address `out` on.

    `words` is the number of words of a code that are looked at. `tables` has two tables of 64 bytes for each of them,
    query by query; `limits` is the address of 32-bit numbers. One query is bound by memory, so that lines `ahead` bytes
    behind are asked for. The last two arguments are compile-time constants.
    """
    if not all(isinstance(each, types.Literal) for each in (queries, shuffle)):
        return None
    query_count, kind = queries.literal_value, SHUFFLES[shuffle.literal_value]
    is_ahead = query_count == 1
    octets, halves, full = (ir.VectorType(each, 512 // each.width) for each in (_I8, _I16, _I32))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first_word, word_count, first_table, limit_place, place, distance = arguments[:6]
        table_stride = builder.mul(word_count, ir.Constant(_I64, 128))

        def at(address: Any, offset: Any) -> Any:
            return builder.add(address, ir.Constant(_I64, offset) if isinstance(offset, int) else offset)

        def load(address: Any, kind: Any) -> Any:
            value = builder.load(builder.inttoptr(address, kind.as_pointer()))
            value.align = 4
            return value

        def every(kind: Any, value: int) -> Any:
            return ir.Constant(kind, [value] * kind.count)

        def picked(first: Any, second: Any, lanes: Sequence[int]) -> Any:
            return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes)))

        def function(name: str, result: Any, *taken: Any) -> Any:
            return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, taken), name)

        def add_to(total: Any, value: Any) -> None:
            builder.store(builder.add(builder.load(total), value), total)

        def permuted_sums() -> Callable[[int, int], Any]:
            """Sums by tables of 64: each byte of a word looks into its quarter; four bytes are added by one product."""
            look_up = function(kind.name, octets, octets, octets)
            add_bytes = function("llvm.x86.avx512.vpdpbusd.512", full, full, full, full)
            totals = [
                [cgutils.alloca_once_value(builder, every(full, 0)) for _ in range(4)] for _ in range(query_count)
            ]
            nibbles, quarters, ones = every(full, 0x0F0F0F0F), every(full, 0x30201000), every(full, 0x01010101)
            with cgutils.for_range(builder, word_count) as loop:
                line = at(first_word, builder.mul(loop.index, ir.Constant(_I64, 256)))
                table = at(first_table, builder.mul(loop.index, ir.Constant(_I64, 128)))
                of_query = [at(table, builder.mul(table_stride, ir.Constant(_I64, n))) for n in range(query_count)]
                tables = [[load(at(each, 64 * half), octets) for half in range(2)] for each in of_query]
                for unit in range(4):
                    if is_ahead:
                        _fetch(builder, at(at(line, distance), 64 * unit))
                    both = load(at(line, 64 * unit), full)
                    indexes = [
                        builder.bitcast(builder.or_(builder.and_(each, nibbles), quarters), octets)
                        for each in (both, builder.lshr(both, every(full, 4)))
                    ]
                    for query in range(query_count):
                        found = [builder.call(look_up, pair) for pair in zip(tables[query], indexes, strict=True)]
                        total = totals[query][unit]
                        both_found = builder.bitcast(builder.add(*found), full)
                        builder.store(builder.call(add_bytes, [builder.load(total), both_found, ones]), total)
            return lambda query, unit: builder.load(totals[query][unit])

        def shuffled_sums() -> Callable[[int, int], Any]:
            """Sums by tables of 16: bytes of a place in their words stand together, in sixteens."""
            part = ir.VectorType(_I8, kind.width)
            look_up = function(kind.name, part, part, part)
            zero = every(full, 0)
            totals = [[cgutils.alloca_once_value(builder, zero) for _ in range(4)] for _ in range(query_count)]
            # Sums of 16 bits: those of even codes plus 256 times those of odd ones, and those of odd ones.
            sums = [
                [cgutils.alloca_once_value(builder, every(halves, 0)) for _ in range(2)] for _ in range(query_count)
            ]

            def looked_up(table: Any, index: Any) -> Any:
                parts = [
                    builder.call(
                        look_up, [picked(each, each, range(lane, lane + kind.width)) for each in (table, index)]
                    )
                    for lane in range(0, 64, kind.width)
                ]
                while len(parts) > 1:
                    pairs = zip(parts[::2], parts[1::2], strict=True)
                    parts = [picked(low, high, range(2 * low.type.count)) for low, high in pairs]
                return parts[0]

            chunk = ir.Constant(_I64, 256)  # of words; no sum of 16 bits overflows
            chunks = builder.udiv(at(word_count, 255), chunk)
            for unit in range(4):
                with cgutils.for_range(builder, chunks) as outer:
                    start = builder.mul(outer.index, chunk)
                    left = builder.sub(word_count, start)
                    for query in range(query_count):
                        for each in sums[query]:
                            builder.store(every(halves, 0), each)
                    here = builder.select(builder.icmp_unsigned("<", left, chunk), left, chunk)
                    with cgutils.for_range(builder, here) as loop:
                        word = builder.add(start, loop.index)
                        line = at(at(first_word, 64 * unit), builder.mul(word, ir.Constant(_I64, 256)))
                        table = at(first_table, builder.mul(word, ir.Constant(_I64, 128)))
                        if is_ahead:
                            _fetch(builder, at(line, distance))
                        both = load(line, octets)
                        both = picked(both, both, [4 * code + byte for byte in range(4) for code in range(16)])
                        high = builder.bitcast(builder.lshr(builder.bitcast(both, halves), every(halves, 4)), octets)
                        indexes = [builder.and_(each, every(octets, 15)) for each in (both, high)]
                        for query in range(query_count):
                            of_query = at(table, builder.mul(table_stride, ir.Constant(_I64, query)))
                            found = [
                                looked_up(load(at(of_query, 64 * n), octets), each) for n, each in enumerate(indexes)
                            ]
                            pairs = builder.bitcast(builder.add(*found), halves)
                            add_to(sums[query][0], pairs)
                            add_to(sums[query][1], builder.lshr(pairs, every(halves, 8)))
                    for query in range(query_count):
                        odd = builder.load(sums[query][1])
                        even = builder.sub(builder.load(sums[query][0]), builder.shl(odd, every(halves, 8)))
                        both = picked(even, odd, [32 * (lane % 2) + lane // 2 for lane in range(64)])
                        wide = builder.zext(both, ir.VectorType(_I32, 64))
                        for byte in range(4):
                            add_to(totals[query][unit], picked(wide, wide, range(16 * byte, 16 * byte + 16)))
            return lambda query, unit: builder.load(totals[query][unit])

        found = permuted_sums() if shuffle.literal_value == _PERMUTED else shuffled_sums()
        for query in range(query_count):
            limit = load(at(limit_place, 4 * query), _I32)
            limit = builder.insert_element(ir.Constant(full, ir.Undefined), limit, ir.Constant(_I32, 0))
            limit = picked(limit, limit, [0] * 16)
            mask = ir.Constant(_I64, 0)
            for unit in range(4):
                reached = builder.bitcast(builder.icmp_signed(">=", found(query, unit), limit), _I16)
                mask = builder.or_(mask, builder.shl(builder.zext(reached, _I64), ir.Constant(_I64, 16 * unit)))
            builder.store(mask, builder.inttoptr(at(place, 8 * query), _I64.as_pointer())).align = 8
        return context.get_dummy_value()

    return types.void(*(types.uint64,) * 6, queries, shuffle), generate


@numba.njit(nogil=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _least_cosine(below: int) -> float:
    """No code of a smaller cosine, but for rounding, is at a distance below `below`."""
    return 1.0 - (below - 0.5) / UNIT - 1e-9


@numba.njit(nogil=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _limit(cosine: float, shortest: float, longest: float, scale: Any) -> Any:
    """Sum of table entries that no code of at least a cosine, and of a length between the two, falls short of."""
    length = shortest if cosine >= 0.0 else longest
    least = np.floor((cosine * scale[2] * length - scale[1]) / scale[0]) - 1.0
    return np.int32(max(0.0, min(2147483647.0, least)))


@numba.njit(nogil=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _product(words: Any, block: int, code: int, sums: Any, query: int, bits: int) -> Any:
    """Sum of the responses that a code chose, exact."""
    total = np.int64(0)
    for word in range(words.shape[1]):
        value = words[block, word, code]
        for byte in range(4):
            if bits == NIBBLE:
                total += sums[query, 8 * word + byte, value & np.uint32(15)]
                total += sums[query, 8 * word + 4 + byte, value >> np.uint32(4) & np.uint32(15)]
            else:
                total += sums[query, 4 * word + byte, value & np.uint32(255)]
            value >>= np.uint32(8)
    return total


@numba.njit(nogil=True, boundscheck=False)  # type: ignore[untyped-decorator]
def _asymmetric_distance(product: int, length: float, probe_length: float) -> Any:
    """As `iom.codes.asymmetric.asymmetric_distances`, bit by bit."""
    both = length * probe_length
    cosine = product / both if both > 0.0 else 0.0
    return np.int32(max(np.rint(UNIT * (1.0 - cosine)), 0.0))


@functools.cache
def _scan_nearest(bits: int, shuffle: str, alone: bool) -> Kernel:
    group = 1 if alone else SCAN_QUERIES

    @_compiled(_WORDS, _LENGTHS, _EDGES, _TABLES, _SUMS, _SCALES, _FIXED, _DISTANCES, _IDS, *(types.int64,) * 3)
    def nearest(
        words: Any, lengths: Any, edges: Any, tables: Any, sums: Any, scales: Any, fixed: Any, distances: Any, ids: Any,
        start: int, stop: int, count: int,
    ) -> None:  # fmt: skip
        size, stride = np.uint64(tables.shape[1]), np.uint64(128 * tables.shape[1])
        first, table = np.uint64(words.ctypes.data), np.uint64(tables.ctypes.data)
        limits, masks = np.empty(group, np.int32), np.empty(group, np.uint64)
        limit_place, mask_place = np.uint64(limits.ctypes.data), np.uint64(masks.ctypes.data)
        block_bytes = 4 * SCAN_ROWS * words.shape[1]
        ahead = np.uint64(-(-_AHEAD_BYTES // block_bytes) * block_bytes)
        last = distances.shape[1] - 1
        tile = max(1, _TILE_BYTES // block_bytes)
        for tile_start in range(start, stop, tile):
            for i in range(0, distances.shape[0], group):
                some = min(group, distances.shape[0] - i)
                of_query = table + np.uint64(i) * stride
                for block in range(tile_start, min(stop, tile_start + tile)):
                    if shuffle:
                        place = first + np.uint64(block * block_bytes)
                        for n in range(some):
                            if fixed.size:
                                limits[n] = fixed[i + n]
                            else:
                                cosine = _least_cosine(distances[i + n, last])
                                limits[n] = _limit(cosine, edges[block, 0], edges[block, 1], scales[i + n])
                        if some == group:
                            _candidates(place, size, of_query, limit_place, mask_place, ahead, group, shuffle)
                        else:
                            for n in range(some):
                                _candidates(
                                    place, size, of_query + np.uint64(n) * stride, limit_place + np.uint64(4 * n),
                                    mask_place + np.uint64(8 * n), np.uint64(0), 1, shuffle,
                                )  # fmt: skip
                    for n in range(some):
                        if shuffle and not masks[n]:
                            continue
                        least = _least_cosine(distances[i + n, last]) * scales[i + n, 2]
                        for code in range(min(SCAN_ROWS, count - block * SCAN_ROWS)):
                            if shuffle and not masks[n] >> np.uint64(code) & np.uint64(1):
                                continue
                            length = lengths[block * SCAN_ROWS + code]
                            product = _product(words, block, code, sums, i + n, bits)
                            if product < least * length:
                                continue
                            distance = _asymmetric_distance(product, length, scales[i + n, 2])
                            if distance < distances[i + n, last]:
                                _insert(distances, ids, i + n, distance, block * SCAN_ROWS + code)
                                least = _least_cosine(distances[i + n, last]) * scales[i + n, 2]

    return nearest


@functools.cache
def _scan_within(bits: int, shuffle: str) -> Kernel:
    arrays = (_WORDS, _LENGTHS, _EDGES, _TABLES, _SUMS, _SCALES, _FIXED)

    @_compiled(*arrays, types.int64, _DISTANCES, _IDS, *(types.int64,) * 3, result=types.int64)
    def within(
        words: Any, lengths: Any, edges: Any, tables: Any, sums: Any, scales: Any, fixed: Any, below: int,
        distances: Any, ids: Any, start: int, stop: int, count: int,
    ) -> int:  # fmt: skip
        size, first, table = np.uint64(tables.shape[1]), np.uint64(words.ctypes.data), np.uint64(tables.ctypes.data)
        limits, masks = np.empty(1, np.int32), np.empty(1, np.uint64)
        limit_place, mask_place = np.uint64(limits.ctypes.data), np.uint64(masks.ctypes.data)
        block_bytes = 4 * SCAN_ROWS * words.shape[1]
        ahead = np.uint64(-(-_AHEAD_BYTES // block_bytes) * block_bytes)
        cosine = _least_cosine(below)
        least = cosine * scales[0, 2]
        found = 0
        for block in range(start, stop):
            if shuffle:
                limits[0] = fixed[0] if fixed.size else _limit(cosine, edges[block, 0], edges[block, 1], scales[0])
                place = first + np.uint64(block * block_bytes)
                _candidates(place, size, table, limit_place, mask_place, ahead, 1, shuffle)
                if not masks[0]:
                    continue
            for code in range(min(SCAN_ROWS, count - block * SCAN_ROWS)):
                if shuffle and not masks[0] >> np.uint64(code) & np.uint64(1):
                    continue
                length = lengths[block * SCAN_ROWS + code]
                product = _product(words, block, code, sums, 0, bits)
                if product < least * length:
                    continue
                distance = _asymmetric_distance(product, length, scales[0, 2])
                if distance < below:
                    if found < distances.shape[1]:
                        distances[0, found], ids[0, found] = distance, block * SCAN_ROWS + code
                    found += 1
        return found

    return within


@functools.cache
def _scan_table(bits: int) -> Kernel:
    @_compiled(_WORDS, _LENGTHS, _SUMS, _SCALES, _DISTANCES, *(types.int64,) * 3)
    def table(words: Any, lengths: Any, sums: Any, scales: Any, out: Any, start: int, stop: int, count: int) -> None:
        for block in range(start, stop):
            for query in range(out.shape[0]):
                for code in range(min(SCAN_ROWS, count - block * SCAN_ROWS)):
                    row = block * SCAN_ROWS + code
                    product = _product(words, block, code, sums, query, bits)
                    out[query, row] = _asymmetric_distance(product, lengths[row], scales[query, 2])

    return table


@functools.cache
def _lengths(bits: int) -> Kernel:
    @_compiled(
        types.Array(types.uint32, 2, "C", readonly=True), types.Array(types.int32, 3, "C", readonly=True),
        types.Array(types.int64, 1, "C"),
    )  # fmt: skip
    def lengths(words: Any, table: Any, squares: Any) -> None:
        per_word = 32 // bits
        held = np.empty(table.shape[2], np.int32)
        for n in range(words.shape[0]):
            held[:] = 0
            for group in range(table.shape[0]):
                shift = np.uint32(bits * (group % per_word))
                value = words[n, group // per_word] >> shift & np.uint32((1 << bits) - 1)
                for column in range(held.size):
                    held[column] += table[group, value, column]
            total = np.int64(0)
            for column in range(held.size):
                total += np.int64(held[column]) * np.int64(held[column])
            squares[n] += total

    return lengths


@functools.cache
def _probes() -> Kernel:
    scales_type = types.Array(types.float64, 2, "C")

    @_compiled(_SUMS, types.Array(types.int32, 3, "C"), types.Array(types.uint8, 3, "C"), scales_type)
    def probes(sums: Any, ordered: Any, tables: Any, scales: Any) -> None:
        lowest = np.empty(sums.shape[1], np.int32)
        for query in range(sums.shape[0]):
            widest, base = np.int64(0), np.int64(0)
            for byte in range(sums.shape[1] // 2):
                both = np.int64(0)
                for half in range(2):
                    place = byte // 4 * 8 + half * 4 + byte % 4
                    least = most = sums[query, 2 * byte + half, 0]
                    for value in range(16):
                        found = sums[query, 2 * byte + half, value]
                        ordered[query, place, value] = found
                        least, most = min(least, found), max(most, found)
                    lowest[place] = least
                    base += least
                    both += np.int64(most) - np.int64(least)
                widest = max(widest, both)
            step = max(np.ceil(widest / PAIR), 1.0)
            for place in range(sums.shape[1]):
                for value in range(16):
                    above = np.float64(ordered[query, place, value]) - np.float64(lowest[place])
                    tables[query, place // 8, place % 8 * 16 + value] = np.uint8(np.ceil(above / step))
            scales[query, 0], scales[query, 1] = step, np.float64(base)

    return probes
