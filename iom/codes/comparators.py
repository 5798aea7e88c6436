"""Comparators of templates: codes by differing positions, other templates in their own way; lower = more alike.

A comparator first `prepare`s templates `(N, L)`, once; the result can be indexed by rows.
"""

import dataclasses
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iom.codes import distances as code_distances
from iom.codes.packing import PackedCodes, pack
from iom.errors import CodeError, DataError

Templates = NDArray[Any]
_VALUES_IN_CACHE = 1 << 17  # of a temporary table: it is gone through once for each block


class Comparator(Protocol):
    """Distances of prepared templates."""

    @property
    def unit(self) -> str:
        """Unit of a distance, for reports."""
        ...

    def prepare(self, templates: Templates) -> Any:
        """Templates `(N, L)` in the form that is compared; rows of it are taken by `[rows]`."""
        ...

    def paired(self, a: Any, b: Any) -> NDArray[Any]:
        """Distance of row i of `a` and row i of `b`, `(N,)`."""
        ...

    def all_pairs(self, a: Any, b: Any) -> NDArray[Any]:
        """Distance of every row of `a` to every row of `b`, `(A, B)`."""
        ...


@dataclasses.dataclass(frozen=True)
class SymbolComparator:
    """Number of positions at which two codes differ: the default."""

    alphabet_size: int
    unit: str = "differing positions"

    def prepare(self, templates: Templates) -> PackedCodes:
        return pack(templates, self.alphabet_size)

    def paired(self, a: PackedCodes, b: PackedCodes) -> NDArray[np.int32]:
        return code_distances.paired(a, b)

    def all_pairs(self, a: PackedCodes, b: PackedCodes) -> NDArray[np.int32]:
        return code_distances.all_pairs(a, b)


@dataclasses.dataclass(frozen=True)
class CosineComparator:
    """`1 - cosine` of real vectors, 0..2; tables of all pairs are computed in `precision`."""

    unit: str = "1 - cosine"
    precision: type[np.floating[Any]] = np.float32

    def prepare(self, templates: Templates) -> NDArray[Any]:
        """Rows at unit length; none may be zero."""
        rows = np.asarray(templates, np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
        if len(wrong):
            raise DataError(
                f"cosine: expected finite rows other than zero, received {len(wrong)} others, "
                f"the first at row {wrong[0]}"
            )
        return np.asarray(rows / lengths, self.precision)

    def paired(self, a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
        wide = np.einsum("nd,nd->n", a.astype(np.float64), b.astype(np.float64))
        return np.asarray(1.0 - wide)

    def all_pairs(self, a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(1 - a @ b.T, self.precision)


@dataclasses.dataclass(frozen=True)
class BlockSetComparator:
    """Dissimilarity of Bloom filters of `block` bits (Rathgeb et al., ICB 2013, eq. 3).

    The mean over blocks of `|a xor b| / (|a| + |b|)`, 0..1; two empty filters are alike.
    """

    block: int
    unit: str = "mean set dissimilarity"

    def prepare(self, templates: Templates) -> NDArray[np.float32]:
        """Filters as 0.0 and 1.0, `(N, B, block)`."""
        bits = np.asarray(templates)
        if bits.ndim != 2 or bits.shape[1] % self.block or not np.isin(bits, (0, 1)).all():
            raise CodeError(f"Bloom filters: expected bits (N, multiple of {self.block}), received shape {bits.shape}")
        return bits.reshape(len(bits), -1, self.block).astype(np.float32)

    def paired(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes = a.sum(2) + b.sum(2)
        differing = sizes - 2 * np.einsum("nbk,nbk->nb", a, b)
        return np.asarray(np.mean(differing / np.maximum(sizes, 1), axis=1))

    def all_pairs(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
        out = np.zeros((len(a), len(b)), np.float32)
        columns = np.ascontiguousarray(b.transpose(1, 2, 0))
        size_a, size_b = a.sum(2).T, b.sum(2).T
        step = max(1, _VALUES_IN_CACHE // max(1, len(b)))
        for start in range(0, len(a), step):
            rows = slice(start, start + step)
            for block in range(a.shape[1]):
                sizes = size_a[block, rows, None] + size_b[block]
                differing = a[rows, block] @ columns[block]
                differing *= -2
                differing += sizes
                np.maximum(sizes, 1, out=sizes)
                differing /= sizes
                out[rows] += differing
        out /= a.shape[1]
        return out


@dataclasses.dataclass(frozen=True)
class CollisionComparator:
    """`1 -` the share of equal symbols among the positions where neither is `void` (Jaccard-like); 1 without any."""

    void: int
    unit: str = "1 - share of collisions"

    def prepare(self, templates: Templates) -> NDArray[np.uint8]:
        return np.ascontiguousarray(templates, np.uint8)

    def paired(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
        told = (a != self.void) & (b != self.void)
        return np.asarray(1.0 - (told & (a == b)).sum(1) / np.maximum(told.sum(1), 1))

    def all_pairs(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
        void_a, void_b = a == self.void, b == self.void
        differing = code_distances.all_pairs(pack(a, self.void + 1), pack(b, self.void + 1))
        one = code_distances.all_pairs(pack(void_a.astype(np.uint8), 2), pack(void_b.astype(np.uint8), 2))
        # Void in both: what both sides count, less what only one of them holds.
        both = (void_a.sum(1)[:, None] + void_b.sum(1) - one) // 2
        length = a.shape[1]
        return np.asarray(1.0 - (length - differing - both) / np.maximum(length - one - both, 1))
