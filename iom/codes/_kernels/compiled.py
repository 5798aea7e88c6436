"""Compiled loops over bit planes (LLVM), explained in `docs/kernels.md`; used through `iom.codes.distances`.

The vectors are written out (`<8 x i64>`) since the automatic vectoriser easily picks a slower loop; other CPUs get them
lowered. Codes of a usual length get kernels with the word loop unrolled, which keeps a query in registers; every other
length shares one kernel per number of planes. With many queries, the distances of a few of them to a block of gallery
rows are computed at once, summed by one tree of shuffles.

numba knows a stored kernel to be stale by the file its function stands in, so all that a kernel inlines is in this
file.
"""

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from iom.codes._kernels.portable import Kernel

UNROLLED_WORDS = (1, 2, 4, 8, 16, 24, 32)
ANY_WORDS = 0
_TILE_BYTES = 1 << 17  # a tile of rows stays in the second-level cache while all queries pass it
_AHEAD_BYTES = 8192  # the hardware's own prefetcher stops at pages; one query is bound by memory
_LINE_BYTES = 64
QUERIES = 2
"""Queries of a block that share what is loaded; their vectors stay in registers."""
_BLOCK_TILE_BYTES = 1 << 15  # a tile of rows stays in the first-level cache while all queries pass it
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_ROWS = types.Array(types.uint64, 3, "C", readonly=True)
_DISTANCES = types.Array(types.int32, 2, "C")
_IDS = types.Array(types.int64, 2, "C")


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


def _compiled(*arguments: Any) -> Callable[[Kernel], Kernel]:
    """Decorator: compile for these argument types, without the interpreter's lock, and keep the code on disk."""

    def decorate(function: Kernel) -> Kernel:
        options = {"nogil": True, "boundscheck": False}
        signature = types.void(*arguments)
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
        flag = ir.IntType(32)
        read, once, data = (ir.Constant(flag, value) for value in (0, 0, 1))
        for offset in range(_AHEAD_BYTES, _AHEAD_BYTES + row_bytes, _LINE_BYTES):
            place = builder.add(arguments[0], ir.Constant(_I64, offset))
            line = builder.inttoptr(place, ir.IntType(8).as_pointer())
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), [line.type, flag, flag, flag]), "llvm.prefetch.p0"
            )
            builder.call(function, [line, read, once, data])
        return context.get_dummy_value()

    return types.void(types.uint64, planes, unrolled), generate


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
