"""Kernels in NumPy alone, for a machine on which numba cannot compile: the same results, more slowly."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.codes.asymmetric import asymmetric_distances

Kernel = Callable[..., Any]
NIBBLE = 4
"""Bits of a look-up that byte shuffles do; those of 8 bits are done one by one."""
PAIR = 253
"""Steps in the entries of the two half bytes of a byte before they are rounded up: after it they are at most 255."""
SCAN_ROWS = 64
"""Codes of a block of a scan."""
_WORDS_AT_A_TIME = 1 << 17  # temporary arrays stay in the second-level cache


def paired_kernel(planes: int, words: int) -> Kernel:
    """`(a, b, out, start, stop)`: distance of row i of `a` and row i of `b` into `out[0, i]`."""
    return _paired


def table_kernel(planes: int, words: int, *, queries: int = 0, rows: int = 0) -> Kernel:
    """`(a, b, out, a_start, a_stop, b_start, b_stop)`: a part of all pairs into `out[i, j]`."""
    return _table


def nearest_kernel(planes: int, words: int, *, queries: int = 0, rows: int = 0) -> Kernel:
    """`(queries, gallery, distances, ids, start, stop)`: the best among some gallery rows."""
    return _nearest


def scan_kernel(bits: int, *, queries: int = 0) -> Kernel:
    """`(words, lengths, edges, tables, sums, scales, fixed, distances, ids, start, stop, count)`: the nearest codes.

    By asymmetric distance, among the rows below `count` of the blocks `start` to `stop`; see `iom.codes.scan` for the
    arrays. `distances` and `ids` `(queries, k)` hold the best so far, nearest first. If there are `fixed` limits
    `(queries,)`, codes whose entries in `tables`, which may be those of the first words alone, sum up to less are left
    out; else none that may be among the nearest.
    """

    def nearest(
        words: Any, lengths: Any, edges: Any, tables: Any, sums: Any, scales: Any, fixed: Any, distances: Any, ids: Any,
        start: int, stop: int, count: int,
    ) -> None:  # fmt: skip
        for rows, found in _scanned(bits, words, lengths, sums, scales, start, stop, count):
            for i, of_query in enumerate(found):
                _keep_best(distances, ids, i, of_query, np.arange(rows.start, rows.stop))

    return nearest


def scan_within_kernel(bits: int) -> Kernel:
    """`(words, lengths, edges, tables, sums, scales, fixed, below, distances, ids, start, stop, count)`: near codes.

    Of those of one query at distances below `below`, as many as there is room for go into `distances` and `ids`
    `(1, room)`; returns their number. The rest is as of `scan_kernel`.
    """

    def within(
        words: Any, lengths: Any, edges: Any, tables: Any, sums: Any, scales: Any, fixed: Any, below: int,
        distances: Any, ids: Any, start: int, stop: int, count: int,
    ) -> int:  # fmt: skip
        found = 0
        for rows, of_rows in _scanned(bits, words, lengths, sums, scales, start, stop, count):
            near = np.flatnonzero(of_rows[0] < below)
            part = slice(found, found + len(near))
            room = distances[0, part].size
            distances[0, part], ids[0, part] = of_rows[0, near[:room]], near[:room] + rows.start
            found += len(near)
        return found

    return within


def scan_table_kernel(bits: int) -> Kernel:
    """`(words, lengths, sums, scales, out, start, stop, count)`: distances of all codes of some blocks.

    They go into `out[query, row]`.
    """

    def table(words: Any, lengths: Any, sums: Any, scales: Any, out: Any, start: int, stop: int, count: int) -> None:
        for rows, found in _scanned(bits, words, lengths, sums, scales, start, stop, count):
            out[:, rows] = found

    return table


def probe_kernel() -> Kernel:
    """`(sums, ordered, tables, scales)`: tables of probes from their sums of responses `(B, groups, 16)`.

    `ordered` gets the sums by word, half and byte, `tables` their entries, and the first two columns of `scales` the
    step of an entry and the sum of the least ones; see `iom.codes.scan`.
    """
    return _probes


def length_kernel(bits: int) -> Kernel:
    """`(words, table, squares)`: square lengths of codes `(N, words)`, over some columns of the vectors.

    `table` `(groups, values, columns)` has the sum of the vectors that a value of a group stands for.
    """

    def lengths(words: Any, table: Any, squares: Any) -> None:
        held = np.zeros((len(words), table.shape[2]), np.int64)
        for group, sums in enumerate(table):
            word, place = divmod(group, 32 // bits)
            held += sums[words[:, word] >> np.uint32(bits * place) & np.uint32((1 << bits) - 1)]
        squares += np.einsum("nc,nc->n", held, held)

    return lengths


def _paired(a: Any, b: Any, out: Any, start: int, stop: int) -> None:
    for rows in _tiles(a, start, stop):
        out[0, rows] = _mismatches(a[rows], b[rows])


def _table(a: Any, b: Any, out: Any, a_start: int, a_stop: int, b_start: int, b_stop: int) -> None:
    for rows in _tiles(b, b_start, b_stop):
        for i in range(a_start, a_stop):
            out[i, rows] = _mismatches(a[i], b[rows])


def _nearest(queries: Any, gallery: Any, distances: Any, ids: Any, start: int, stop: int) -> None:
    for rows in _tiles(gallery, start, stop):
        numbers = np.arange(rows.start, rows.stop)
        for i in range(len(queries)):
            _keep_best(distances, ids, i, _mismatches(queries[i], gallery[rows]), numbers)


def _keep_best(distances: Any, ids: Any, query: int, found: Any, numbers: Any) -> None:
    """Put rows of further numbers among the best of a query."""
    # What was found before stands first, and the sort is stable: the lower row wins a tie.
    both = np.concatenate([distances[query], found])
    best = np.argsort(both, kind="stable")[: distances.shape[1]]
    ids[query] = np.concatenate([ids[query], numbers])[best]
    distances[query] = both[best]


def _scanned(
    bits: int, words: Any, lengths: Any, sums: Any, scales: Any, start: int, stop: int, count: int
) -> Iterator[tuple[slice, NDArray[np.int32]]]:
    """Rows of a few blocks at a time and their asymmetric distances to all queries."""
    by_byte = _by_byte(bits, sums)
    tile = max(1, _WORDS_AT_A_TIME // (SCAN_ROWS * words.shape[1]))
    for first in range(start, stop, tile):
        last = min(stop, first + tile)
        rows = slice(first * SCAN_ROWS, min(count, last * SCAN_ROWS))
        products = np.zeros((len(sums), last - first, SCAN_ROWS), np.int64)
        for word in range(words.shape[1]):
            values = words[first:last, word].astype("<u4", copy=False)
            octets = np.ascontiguousarray(values).view(np.uint8).reshape(-1, SCAN_ROWS, 4)
            for byte in range(4):
                products += by_byte[:, 4 * word + byte][:, octets[:, :, byte]]
        products = products.reshape(len(sums), -1)[:, : rows.stop - rows.start]
        yield rows, asymmetric_distances(products, lengths[rows], scales[:, 2:])


def _probes(sums: Any, ordered: Any, tables: Any, scales: Any) -> None:
    count = len(sums)
    by_word = np.ascontiguousarray(sums.reshape(count, -1, 4, 2, 16).swapaxes(2, 3))  # word, half, byte
    lowest = by_word.min(axis=4, keepdims=True)
    above = by_word - lowest
    steps = np.maximum(np.ceil(above.max(axis=4).sum(axis=2, dtype=np.int64).max(axis=(1, 2)) / PAIR), 1.0)
    ordered[:] = by_word.reshape(ordered.shape)
    tables[:] = np.ceil(above / steps[:, None, None, None, None]).reshape(tables.shape)
    scales[:, 0], scales[:, 1] = steps, lowest.sum(axis=(1, 2, 3, 4), dtype=np.int64)


def _by_byte(bits: int, sums: NDArray[np.int32]) -> NDArray[np.int64]:
    """Sums of responses by the value of a byte, `(queries, bytes, 256)`."""
    if bits != NIBBLE:
        return sums.astype(np.int64)
    values = np.arange(256)
    halves = sums.reshape(len(sums), -1, 2, 4, 16).astype(np.int64)
    both = halves[:, :, 0][..., values & 15] + halves[:, :, 1][..., values >> 4]
    return np.asarray(both.reshape(len(sums), -1, 256))


def _mismatches(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.int32]:
    differing = np.bitwise_or.reduce(a ^ b, axis=1)
    counts: NDArray[np.int32] = np.bitwise_count(differing).sum(axis=1, dtype=np.int32)
    return counts


def _tiles(rows: NDArray[np.uint64], start: int, stop: int) -> list[slice]:
    tile = max(1, _WORDS_AT_A_TIME // (rows.shape[1] * rows.shape[2]))
    return [slice(at, min(stop, at + tile)) for at in range(start, stop, tile)]
