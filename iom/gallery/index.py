"""Codes in memory: one matrix for each application and key epoch, searched without a filter."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from iom.codes.distances import nearest, within, within_each
from iom.codes.packing import PackedCodes, plane_count, word_count
from iom.gallery.stores.store import Hit

_FIRST_CAPACITY = 1024
_MOST_DEAD = 256
_ROWS_AT_A_TIME = 65536


class CodeIndex:
    """Codes by record number; appended to and deleted from in place, no row is ever loaded twice.

    A row takes its planes and 8 bytes (200 in all for 512x8): the record number, whose lowest bit
    says that the row is deleted. A cleared row would still be a valid code, so that deleted rows
    are left out of results and, when there are many, squeezed out. Unused capacity is address space
    only: the system gives it memory when it is written to.

    Args:
        code_length: M.
        alphabet_size: Q.
        capacity: Rows to make room for.
    """

    def __init__(self, code_length: int, alphabet_size: int, *, capacity: int = 0) -> None:
        self._shape = (code_length, alphabet_size)
        rows = max(capacity, _FIRST_CAPACITY)
        words = (plane_count(alphabet_size), word_count(code_length))
        self._planes: NDArray[np.uint64] = np.empty((rows, *words), np.uint64)
        self._marks: NDArray[np.int64] = np.empty(rows, np.int64)
        self._size = self._dead = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return self._size - self._dead

    def append(self, records: Sequence[int] | NDArray[np.int64], codes: PackedCodes) -> None:
        """Add codes; records that are here already stay as they are."""
        numbers = np.asarray(records, np.int64)
        with self._lock:
            fresh = np.flatnonzero(~self._holds(numbers))
            if not len(fresh):
                return
            fresh = fresh[np.argsort(numbers[fresh], kind="stable")]
            self._make_room(len(fresh))
            rows = slice(self._size, self._size + len(fresh))
            self._planes[rows], self._marks[rows] = codes.planes[fresh], 2 * numbers[fresh]
            is_late = self._size and self._marks[rows.start] < self._marks[rows.start - 1]
            self._size += len(fresh)
            if is_late:  # another process committed lower numbers after higher ones
                order = np.argsort(self._marks[: self._size], kind="stable")
                self._planes[: self._size] = self._planes[order]
                self._marks[: self._size] = self._marks[order]

    def delete(self, records: Sequence[int]) -> None:
        """Take records out; those that are not here do no harm."""
        with self._lock:
            for record in records:
                row = int(np.searchsorted(self._marks[: self._size], 2 * record))
                if row < self._size and self._marks[row] == 2 * record:
                    self._marks[row] += 1
                    self._planes[row] = 0  # the code of a revoked record is not kept in memory
                    self._dead += 1
            if self._dead > _MOST_DEAD:
                self._squeeze()

    def nearest(self, probes: PackedCodes, top: int) -> list[list[Hit]]:
        """The `top` nearest of each probe, nearest first; the lowest record wins a tie."""
        with self._lock:
            if not len(self) or top < 1:
                return [[] for _ in range(len(probes))]
            k = min(top + self._dead, self._size)
            rows, distances = nearest(probes, self._codes(), k)
            return [self._hits(rows[i], distances[i])[:top] for i in range(len(probes))]

    def within(self, probe: PackedCodes, threshold: float) -> list[Hit]:
        """Everything at a distance of at most `threshold`, in the same order."""
        with self._lock:
            if not len(self):
                return []
            return self._hits(*within(probe, self._codes(), threshold))

    def within_each(self, probes: PackedCodes, threshold: float) -> list[list[Hit]]:
        """`within` for several probes at once."""
        with self._lock:
            if not len(self):
                return [[] for _ in range(len(probes))]
            return [self._hits(*found) for found in within_each(probes, self._codes(), threshold)]

    def _hits(self, rows: NDArray[np.int64], distances: NDArray[np.int32]) -> list[Hit]:
        marks = self._marks[rows]
        valid = marks & 1 == 0
        found = zip((marks[valid] >> 1).tolist(), distances[valid].tolist(), strict=True)
        return [Hit(record, distance) for record, distance in found]

    def _codes(self) -> PackedCodes:
        return PackedCodes(self._planes[: self._size], *self._shape)

    def _holds(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        marks = self._marks[: self._size] >> 1
        if not len(marks):
            return np.zeros(len(numbers), bool)
        rows = np.minimum(np.searchsorted(marks, numbers), len(marks) - 1)
        return np.asarray(marks[rows] == numbers)

    def _make_room(self, count: int) -> None:
        needed = self._size + count
        if needed <= len(self._marks):
            return
        capacity = max(needed, 2 * len(self._marks))
        for name in ("_planes", "_marks"):
            old = getattr(self, name)
            new = np.empty((capacity, *old.shape[1:]), old.dtype)
            new[: self._size] = old[: self._size]
            setattr(self, name, new)

    def _squeeze(self) -> None:
        """Move the valid rows together, piece by piece: a whole copy would double the memory."""
        kept = 0
        for start in range(0, self._size, _ROWS_AT_A_TIME):
            piece = slice(start, min(start + _ROWS_AT_A_TIME, self._size))
            valid = np.flatnonzero(self._marks[piece] & 1 == 0) + start
            rows = slice(kept, kept + len(valid))
            self._planes[rows], self._marks[rows] = self._planes[valid], self._marks[valid]
            kept += len(valid)
        self._planes[kept : self._size] = 0
        self._size, self._dead = kept, 0
