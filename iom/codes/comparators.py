"""Comparators of templates: codes by differing positions, other templates in their own way; lower = more alike.

A comparator first `prepare`s templates `(N, L)`, once; the result can be indexed by rows. Where the two sides differ,
`a` is the stored one and `b` the probe.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from iom.codes import distances as code_distances
from iom.codes.asymmetric import MAX_DISTANCE, CodeVectors, asymmetric_distances, row_lengths
from iom.codes.packing import PackedCodes, pack
from iom.errors import CodeError, DataError

Templates = NDArray[Any]
SYMBOLS, ASYMMETRIC = "symbols", "asymmetric"
COMPARISONS = (SYMBOLS, ASYMMETRIC)
"""Ways to compare a code with a probe: with its code, or with its keyed row."""
_VALUES_IN_CACHE = 1 << 17  # of a temporary table: it is gone through once for each block


class Comparator(Protocol):
    """Distances of prepared templates."""

    @property
    def unit(self) -> str:
        """Unit of a distance, for reports."""
        ...

    def prepare(self, templates: Any) -> Any:
        """Templates `(N, L)` in the form that is compared; rows of it are taken by `[rows]`."""
        ...

    def paired(self, a: Any, b: Any) -> NDArray[Any]:
        """Distance of row i of `a`, stored, and row i of `b`, the probe, `(N,)`."""
        ...

    def all_pairs(self, a: Any, b: Any) -> NDArray[Any]:
        """Distance of every row of `a`, stored, to every row of `b`, probes, `(A, B)`."""
        ...

    def max_distance(self, prepared: Any) -> int | None:
        """Largest distance where distances are integers from 0; `None` for real ones."""
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

    def max_distance(self, prepared: PackedCodes) -> int:
        return prepared.code_length


class AsymmetricTemplates(NamedTuple):
    """Both sides of images under their keys: codes `(N, M)`, which are stored, and keyed rows `(N, K)`, the probes."""

    codes: NDArray[Any]
    rows: NDArray[np.int32]


@dataclasses.dataclass(frozen=True, eq=False)
class AsymmetricOperand:
    """Templates prepared for `AsymmetricComparator`: what the codes stand for `(N, K)`, keyed rows, and lengths."""

    stored: NDArray[np.float64] = dataclasses.field(repr=False)
    stored_lengths: NDArray[np.float64] = dataclasses.field(repr=False)
    probes: NDArray[np.float64] = dataclasses.field(repr=False)
    probe_lengths: NDArray[np.float64] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: Any) -> "AsymmetricOperand":
        return AsymmetricOperand(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True, eq=False)
class AsymmetricComparator:
    """The code of the stored side against the keyed row of the probe (`iom.codes.asymmetric`), in ten-thousandths."""

    vectors: CodeVectors
    unit: str = "1 - cosine of code and probe, in ten-thousandths"

    def prepare(self, templates: AsymmetricTemplates) -> AsymmetricOperand:
        """Codes and keyed rows of the same images."""
        codes, rows = templates
        if len(codes) != len(rows):
            raise CodeError(f"asymmetric distance: expected as many codes as rows, received {len(codes)}, {len(rows)}")
        stored, probes = self.vectors.read_back(codes), self.vectors.checked_rows(rows).astype(np.float64)
        return AsymmetricOperand(stored, row_lengths(stored), probes, row_lengths(probes))

    def paired(self, a: AsymmetricOperand, b: AsymmetricOperand) -> NDArray[np.int32]:
        if len(a) != len(b):
            raise CodeError(f"paired codes: expected as many on both sides, received {len(a)} and {len(b)}")
        products = np.einsum("nk,nk->n", a.stored, b.probes)
        return asymmetric_distances(products, a.stored_lengths, b.probe_lengths)

    def all_pairs(self, a: AsymmetricOperand, b: AsymmetricOperand) -> NDArray[np.int32]:
        return asymmetric_distances(a.stored @ b.probes.T, a.stored_lengths[:, None], b.probe_lengths)

    def max_distance(self, prepared: AsymmetricOperand) -> int:
        return MAX_DISTANCE


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

    def max_distance(self, prepared: Any) -> None:
        return None


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

    def max_distance(self, prepared: Any) -> None:
        return None


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

    def max_distance(self, prepared: Any) -> None:
        return None
