"""Kernels in NumPy alone, for a machine on which numba cannot compile: the same results, more slowly."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Kernel = Callable[..., None]
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


def _paired(a: Any, b: Any, out: Any, start: int, stop: int) -> None:
    for rows in _tiles(a, start, stop):
        out[0, rows] = _mismatches(a[rows], b[rows])


def _table(a: Any, b: Any, out: Any, a_start: int, a_stop: int, b_start: int, b_stop: int) -> None:
    for rows in _tiles(b, b_start, b_stop):
        for i in range(a_start, a_stop):
            out[i, rows] = _mismatches(a[i], b[rows])


def _nearest(queries: Any, gallery: Any, distances: Any, ids: Any, start: int, stop: int) -> None:
    k = distances.shape[1]
    for rows in _tiles(gallery, start, stop):
        numbers = np.arange(rows.start, rows.stop)
        for i in range(len(queries)):
            # What was found before stands first, and the sort is stable: the lower row wins a tie.
            found = np.concatenate([distances[i], _mismatches(queries[i], gallery[rows])])
            best = np.argsort(found, kind="stable")[:k]
            ids[i] = np.concatenate([ids[i], numbers])[best]
            distances[i] = found[best]


def _mismatches(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.int32]:
    differing = np.bitwise_or.reduce(a ^ b, axis=1)
    counts: NDArray[np.int32] = np.bitwise_count(differing).sum(axis=1, dtype=np.int32)
    return counts


def _tiles(rows: NDArray[np.uint64], start: int, stop: int) -> list[slice]:
    tile = max(1, _WORDS_AT_A_TIME // (rows.shape[1] * rows.shape[2]))
    return [slice(at, min(stop, at + tile)) for at in range(start, stop, tile)]
