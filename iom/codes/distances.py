"""Exact distances between packed codes of one shape: the number of differing positions, 0..M, on all CPU cores."""

import itertools
import operator
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from iom.codes._kernels import kernels
from iom.codes.packing import PackedCodes
from iom.errors import CodeError

_WORDS_A_THREAD = 1 << 18  # below about two megabytes a thread costs more than it brings


class Neighbours(NamedTuple):
    """Gallery rows and their distances, nearest first; the lower row comes first in a tie."""

    rows: NDArray[np.int64]
    distances: NDArray[np.int32]


def paired(a: PackedCodes, b: PackedCodes, *, threads: int = 0) -> NDArray[np.int32]:
    """Distance of row i of `a` and row i of `b`, for every i, `(N,)`; `threads` 0 takes the cores of this process.

    Examples:
        >>> from iom.codes.packing import pack
        >>> a, b = np.array([[0, 7, 3], [1, 1, 1]]), np.array([[0, 6, 3], [2, 3, 4]])
        >>> paired(pack(a, 8), pack(b, 8)).tolist()
        [1, 3]
    """
    shape = _common_shape(a, b)
    kernel = kernels(a.planes.size).paired_kernel(*shape)
    if len(a) != len(b):
        raise CodeError(f"paired codes: expected as many on both sides, received {len(a)} and {len(b)}")
    out: NDArray[np.int32] = np.zeros((1, len(a)), np.int32)
    split(lambda start, stop: kernel(a.planes, b.planes, out, start, stop), len(a), a.planes.size, threads)
    return out.reshape(-1)


def all_pairs(a: PackedCodes, b: PackedCodes, *, threads: int = 0) -> NDArray[np.int32]:
    """Distance of every row of `a` to every row of `b`, `(A, B)`."""
    shape = _common_shape(a, b)
    work = max(a.planes.size * len(b), 1)
    kernel = kernels(work).table_kernel(*shape, queries=len(a), rows=len(b))
    out = np.zeros((len(a), len(b)), np.int32)
    if len(a) > len(b):
        split(lambda start, stop: kernel(a.planes, b.planes, out, start, stop, 0, len(b)), len(a), work, threads)
    else:
        split(lambda start, stop: kernel(a.planes, b.planes, out, 0, len(a), start, stop), len(b), work, threads)
    return out


def nearest(queries: PackedCodes, gallery: PackedCodes, k: int, *, threads: int = 0) -> Neighbours:
    """The `k` nearest gallery rows of each query and their distances, `(A, k)`, nearest first; ties go to low rows."""
    shape = _common_shape(queries, gallery)
    work = gallery.planes.size * max(len(queries), 1)
    kernel = kernels(work).nearest_kernel(*shape, queries=len(queries), rows=len(gallery))
    if not 1 <= k <= len(gallery):
        raise CodeError(f"nearest: expected 1 <= k <= {len(gallery)} gallery rows, received {k}")
    blocks: list[tuple[int, Neighbours]] = []

    def search(start: int, stop: int) -> None:
        unset = queries.code_length + 1
        found = Neighbours(np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), unset, np.int32))
        kernel(queries.planes, gallery.planes, found.distances, found.rows, start, stop)
        blocks.append((start, found))

    split(search, len(gallery), work, threads)
    return merged(blocks, k)


def within(query: PackedCodes, gallery: PackedCodes, threshold: float, *, threads: int = 0) -> Neighbours:
    """Every gallery row at a distance of at most `threshold` from one query, in the order of `nearest`."""
    if len(query) != 1:
        raise CodeError(f"within: expected one query, received {len(query)}")
    distances = all_pairs(query, gallery, threads=threads)[0]
    rows = np.flatnonzero(distances <= threshold)
    order = np.argsort(distances[rows], kind="stable")
    return Neighbours(rows[order], distances[rows][order])


def _common_shape(a: PackedCodes, b: PackedCodes) -> tuple[int, int]:
    """Planes and words of two operands that may be compared."""
    for operand in (a, b):
        if not isinstance(operand, PackedCodes):
            raise CodeError(
                f"codes: expected PackedCodes, received {type(operand).__name__}; pack them first: "
                "from iom.codes.packing import pack; pack(codes, alphabet_size)"
            )
    if (a.code_length, a.alphabet_size) != (b.code_length, b.alphabet_size):
        raise CodeError(
            "codes of different shapes cannot be compared: received "
            f"{a.code_length}x{a.alphabet_size} and {b.code_length}x{b.alphabet_size}"
        )
    return a.planes.shape[1], a.planes.shape[2]


def merged(blocks: Sequence[tuple[int, Neighbours]], k: int) -> Neighbours:
    """The `k` nearest of those `(A, n)` of consecutive blocks of rows, each given with its first row."""
    # Blocks in rising row order and a stable sort keep the lowest row first among equals.
    ordered = [found for _, found in sorted(blocks, key=operator.itemgetter(0))]
    rows = np.concatenate([found.rows for found in ordered], axis=1)
    distances = np.concatenate([found.distances for found in ordered], axis=1)
    best = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return Neighbours(np.take_along_axis(rows, best, axis=1), np.take_along_axis(distances, best, axis=1))


def split(work: Callable[[int, int], None], count: int, words_touched: int, threads: int) -> None:
    """Call `work(start, stop)` on consecutive shares of `count` rows, one to a thread."""
    if threads < 0:
        raise CodeError(f"threads: expected 0 (all cores) or more, received {threads}")
    wanted = threads or min(_usable_cores(), words_touched // _WORDS_A_THREAD)
    shares = max(1, min(wanted, count))
    edges = [count * share // shares for share in range(shares + 1)]
    if shares == 1:
        work(0, count)
        return
    with ThreadPoolExecutor(shares) as pool:
        blocks = [pool.submit(work, *block) for block in itertools.pairwise(edges)]
        for block in blocks:
            block.result()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
