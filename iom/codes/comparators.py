"""Comparators of templates: codes by differing positions, other templates in their own way; lower = more alike.

A comparator first `prepare`s templates `(N, L)`, once; the result can be indexed by rows. Where the two sides differ,
`a` is the stored one and `b` the probe.
"""

import abc
import dataclasses
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from iom._registry import COMPARISONS, lookup
from iom.codes import distances as code_distances
from iom.codes.asymmetric import ASYMMETRIC, MAX_DISTANCE, SYMBOLS, CodeVectors, asymmetric_distances, row_lengths
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
    """Both sides of images under their keys: codes `(N, M)`, stored, and keyed rows `(N, K)`, probes; one may lack."""

    codes: NDArray[Any] | None
    rows: NDArray[np.int32] | None


@dataclasses.dataclass(frozen=True, eq=False)
class AsymmetricOperand:
    """Templates prepared for `AsymmetricComparator`, each side with its lengths `(N,)`, or `None`.

    `stored` `(N, K)` are the sums of the vectors that the codes chose, `probes` `(N, K)` the keyed rows.
    """

    stored: tuple[NDArray[np.float64], NDArray[np.float64]] | None = dataclasses.field(repr=False)
    probes: tuple[NDArray[np.float64], NDArray[np.float64]] | None = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len((self.stored or self.probes or ((),))[0])

    def __getitem__(self, rows: Any) -> "AsymmetricOperand":
        stored, probes = (side and (side[0][rows], side[1][rows]) for side in (self.stored, self.probes))
        return AsymmetricOperand(stored, probes)


@dataclasses.dataclass(frozen=True, eq=False)
class AsymmetricComparator:
    """The code of the stored side against the keyed row of the probe (`iom.codes.asymmetric`)."""

    vectors: CodeVectors
    unit: str = "ten-thousandths of 1 - cosine, code to row"

    def prepare(self, templates: AsymmetricTemplates) -> AsymmetricOperand:
        """Codes and keyed rows of the same images; a side that is not used may be `None`."""
        codes, rows = templates
        if codes is not None and rows is not None and len(codes) != len(rows):
            raise CodeError(f"asymmetric distance: expected as many codes as rows, received {len(codes)}, {len(rows)}")
        stored = None if codes is None else self.vectors.read_back(codes)
        probes = None if rows is None else self.vectors.checked_rows(rows).astype(np.float64)
        return AsymmetricOperand(*(None if side is None else (side, row_lengths(side)) for side in (stored, probes)))

    def paired(self, a: AsymmetricOperand, b: AsymmetricOperand) -> NDArray[np.int32]:
        if len(a) != len(b):
            raise CodeError(f"paired codes: expected as many on both sides, received {len(a)} and {len(b)}")
        (stored, code_lengths), (probes, probe_lengths) = _sides(a, b)
        return asymmetric_distances(np.einsum("nk,nk->n", stored, probes), code_lengths, probe_lengths)

    def all_pairs(self, a: AsymmetricOperand, b: AsymmetricOperand) -> NDArray[np.int32]:
        (stored, code_lengths), (probes, probe_lengths) = _sides(a, b)
        return asymmetric_distances(stored @ probes.T, code_lengths[:, None], probe_lengths)

    def max_distance(self, prepared: AsymmetricOperand) -> int:
        return MAX_DISTANCE


def _sides(a: AsymmetricOperand, b: AsymmetricOperand) -> tuple[Any, Any]:
    if a.stored is None or b.probes is None:
        raise CodeError("asymmetric distance: expected codes on the stored side and keyed rows of the probe")
    return a.stored, b.probes


class Coder(abc.ABC):
    """Base of what makes codes of embeddings under keys, and where it is linear, the keyed rows that they stand for."""

    alphabet_size: int

    @abc.abstractmethod
    def hash(self, embeddings: Any, keys: Any) -> Any:
        """Templates of embeddings `(N, D)` under one key for all, or one for each."""

    @property
    @abc.abstractmethod
    def vectors(self) -> CodeVectors:
        """What the symbols of a code stand for, in integers, for asymmetric distances."""

    @abc.abstractmethod
    def rows(self, embeddings: Any, keys: Any) -> NDArray[np.int32]:
        """Keyed rows `(N, K)` of probes, for asymmetric distances; to be kept as secret as the embeddings."""

    @property
    def comparator(self) -> Comparator:
        """How templates are compared where nothing else is asked for."""
        return self.comparator_of(SYMBOLS)

    def comparator_of(self, comparison: str) -> Comparator:
        """The comparator of a comparison, one of `COMPARISONS`."""
        if lookup(dict(zip(COMPARISONS, COMPARISONS, strict=True)), comparison, "comparison") == ASYMMETRIC:
            return AsymmetricComparator(self.vectors)
        return SymbolComparator(self.alphabet_size)

    def templates(self, embeddings: Any, keys: Any, comparison: str) -> Any:
        """What the comparator of a comparison prepares: codes, or codes and keyed rows."""
        codes = self.hash(embeddings, keys)
        return codes if comparison == SYMBOLS else AsymmetricTemplates(codes, self.rows(embeddings, keys))

    def asymmetric_distances(self, codes: NDArray[Any], rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Distance of each stored code `(N, M)` to the keyed row `(N, K)` of a probe under its key, `(N,)`."""
        comparator = AsymmetricComparator(self.vectors)
        sides = AsymmetricTemplates(codes, None), AsymmetricTemplates(None, rows)
        return comparator.paired(*map(comparator.prepare, sides))


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
