"""Compiled loops over bit planes. Use them through `iom.codes.distances`, which checks and splits.

The vectors are written out (`<8 x i64>` in LLVM) since the automatic vectoriser easily picks a slower loop; on a CPU
without such vectors LLVM lowers the same code to what there is. Codes of a usual length get a kernel with the word loop
unrolled, which keeps a query in registers while it passes over the gallery; every other length shares one kernel per
number of planes.
"""

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from iom.codes._kernels import blocks
from iom.codes._kernels.jit import DISTANCES, IDS, ROWS, compiled
from iom.codes._kernels.portable import Kernel

UNROLLED_WORDS = (1, 2, 4, 8, 16, 24, 32)
ANY_WORDS = 0
_TILE_BYTES = 1 << 17  # a tile of rows stays in the second-level cache while all queries pass it
_AHEAD_BYTES = 8192  # the hardware's own prefetcher stops at pages; one query is bound by memory
_LINE_BYTES = 64
_I64 = ir.IntType(64)


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


def _unrolled(words: int) -> int:
    return words if words in UNROLLED_WORDS else ANY_WORDS


def paired_kernel(planes: int, words: int) -> Kernel:
    """`(a, b, out, start, stop)`: distance of row i of `a` and row i of `b` into `out[0, i]`."""
    return _paired(planes, _unrolled(words))


def table_kernel(planes: int, words: int, *, queries: int = 0, rows: int = 0) -> Kernel:
    """`(a, b, out, a_start, a_stop, b_start, b_stop)`: a part of all pairs into `out[i, j]`.

    Args:
        planes: Of a code.
        words: Of a plane.
        queries: Rows of `a`: where it is one, memory sets the pace and `b` is fetched ahead.
        rows: Rows of `b`: where there are enough they are taken by blocks.
    """
    if _fills_blocks(words, queries, rows):
        return blocks.table_kernel(planes, words)
    return _table(planes, _unrolled(words), queries == 1)


def nearest_kernel(planes: int, words: int, *, queries: int = 0, rows: int = 0) -> Kernel:
    """`(queries, gallery, distances, ids, start, stop)`: the best among some gallery rows.

    `distances` and `ids` are `(queries, k)` and hold the best so far, nearest first. `queries` and `rows` as in
    `table_kernel`.
    """
    if _fills_blocks(words, queries, rows):
        return blocks.nearest_kernel(planes, words)
    return _nearest(planes, _unrolled(words), queries == 1)


def _fills_blocks(words: int, queries: int, rows: int) -> bool:
    return queries > 1 and words in UNROLLED_WORDS and rows >= blocks.block_rows(words)


@functools.cache
def _paired(planes: int, unrolled: int) -> Kernel:
    @compiled(ROWS, ROWS, DISTANCES, types.int64, types.int64)
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
    @compiled(ROWS, ROWS, DISTANCES, types.int64, types.int64, types.int64, types.int64)
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


@functools.cache
def _nearest(planes: int, unrolled: int, alone: bool) -> Kernel:
    @compiled(ROWS, ROWS, DISTANCES, IDS, types.int64, types.int64)
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
                    # Rows come in rising order, so a tie never displaces the lower id.
                    if distance < worst:
                        place = last
                        while place > 0 and distances[i, place - 1] > distance:
                            distances[i, place] = distances[i, place - 1]
                            ids[i, place] = ids[i, place - 1]
                            place -= 1
                        distances[i, place] = distance
                        ids[i, place] = j
                        worst = distances[i, last]

    return nearest
