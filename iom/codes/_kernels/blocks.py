"""Distances of a few queries to a block of gallery rows at once, for searches by many queries.

With one query memory sets the pace; with many it is the arithmetic, and half of that would be the sum across the lanes
of each row's vector of counts. Here the vectors of a whole block are summed by one tree of shuffles, two rows in the
halves of each lane, and each vector of the gallery that was loaded serves several queries.
"""

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from iom.codes._kernels.jit import DISTANCES, IDS, ROWS, compiled
from iom.codes._kernels.portable import Kernel

QUERIES = 2
"""Queries that share what is loaded; their vectors stay in registers."""
_TILE_BYTES = 1 << 15  # a tile of rows stays in the first-level cache while all queries pass it
_I32, _I64 = ir.IntType(32), ir.IntType(64)


def block_rows(unrolled: int) -> int:
    """Gallery rows of a block of codes with `unrolled` words a plane."""
    return 2 * min(8, unrolled)


def table_kernel(planes: int, words: int) -> Kernel:
    """As `iom.codes._kernels.compiled.table_kernel`, for `b` of at least `block_rows(words)` rows."""
    return _table(planes, words)


def nearest_kernel(planes: int, words: int) -> Kernel:
    """As `iom.codes._kernels.compiled.nearest_kernel`, for at least `block_rows(words)` gallery rows."""
    return _nearest(planes, words)


@intrinsic  # type: ignore[untyped-decorator]
def block_distances(
    typing_context: Any, queries: Any, gallery: Any, out: Any, out_stride: Any, planes: Any, unrolled: Any, count: Any
) -> Any:
    """Distances of `count` queries to the next `block_rows` rows, as int32 from address `out` on.

    `queries` and `gallery` are addresses of first rows, `out_stride` bytes lie between the distances of one query and
    those of the next. The last three are known when compiling.
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
    """Sums across the lanes of as many vectors as they have lanes, in their order, as one vector.

    Vectors are merged as soon as two of a kind are there, which keeps few of them alive.
    """

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
        """Each lane of `first` added to its neighbour, then the same of `second`.

        Single words are interleaved at the first level, and pairs of words are kept together after it: the shuffles
        that cost one instruction each.
        """
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
def _table(planes: int, words: int) -> Kernel:
    rows, pair = block_rows(words), QUERIES

    @compiled(ROWS, ROWS, DISTANCES, types.int64, types.int64, types.int64, types.int64)
    def table(a: Any, b: Any, out: Any, a_start: int, a_stop: int, b_start: int, b_stop: int) -> None:
        stride, out_stride = np.uint64(8 * words * planes), np.uint64(4 * out.shape[1])
        first, second = np.uint64(a.ctypes.data), np.uint64(b.ctypes.data)
        place = np.uint64(out.ctypes.data)
        tile = max(1, _TILE_BYTES // (8 * words * planes * rows)) * rows
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
                        block_distances(row, block, cell, out_stride, planes, words, pair)
                    else:
                        block_distances(row, block, cell, out_stride, planes, words, 1)

    return table


@functools.cache
def _nearest(planes: int, words: int) -> Kernel:
    rows, pair = block_rows(words), QUERIES

    @compiled(ROWS, ROWS, DISTANCES, IDS, types.int64, types.int64)
    def nearest(queries: Any, gallery: Any, distances: Any, ids: Any, start: int, stop: int) -> None:
        stride = np.uint64(8 * words * planes)
        first, second = np.uint64(queries.ctypes.data), np.uint64(gallery.ctypes.data)
        last = distances.shape[1] - 1
        found = np.empty((pair, rows), np.int32)
        place, out_stride = np.uint64(found.ctypes.data), np.uint64(4 * rows)
        tile = max(1, _TILE_BYTES // (8 * words * planes * rows)) * rows
        for tile_start in range(start, stop, tile):
            tile_stop = min(stop, tile_start + tile)
            for i in range(0, queries.shape[0], pair):
                row, count = first + np.uint64(i) * stride, min(pair, queries.shape[0] - i)
                for j in range(tile_start, tile_stop, rows):
                    at = max(0, min(j, tile_stop - rows))
                    block = second + np.uint64(at) * stride
                    if count == pair:
                        block_distances(row, block, place, out_stride, planes, words, pair)
                    else:
                        block_distances(row, block, place, out_stride, planes, words, 1)
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
                            distance = found[n, m]
                            # Rows come in rising order: a tie never displaces the lower id.
                            if distance >= distances[i + n, last]:
                                continue
                            rank = last
                            while rank > 0 and distances[i + n, rank - 1] > distance:
                                distances[i + n, rank] = distances[i + n, rank - 1]
                                ids[i + n, rank] = ids[i + n, rank - 1]
                                rank -= 1
                            distances[i + n, rank] = distance
                            ids[i + n, rank] = at + m

    return nearest
