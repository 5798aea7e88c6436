"""All pairs of a set of images: exact error curves under keys, across two keys, and under drawn subjects.

Templates are compared block by block, so that memory does not grow with the number of pairs. Integer distances are
counted; of real distances the low non-mated ones, among which every decision falls, are kept one by one.

A bootstrap over the subjects of 65 million pairs (11,450 images) cannot weigh each pair in each draw: the non-mated
pairs up to a limit are weighed one by one; the weight of all others follows from the counts of the subjects, since a
pair of subjects a, b weighs c_a c_b. The curve of a draw is exact at every threshold up to the limit.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom._random import numpy_stream
from iom.codes.comparators import Comparator
from iom.errors import DataError
from iom.metrics.bootstrap import Counts
from iom.metrics.verification import ErrorCurve, histogram_curve

ROWS = 256
"""Rows of a block: with 12,000 images its distances take 12 MB."""
SAMPLE = 2000
"""Images from whose pairs the distance at an FMR is estimated."""
T = TypeVar("T")


class DistanceCounts(NamedTuple):
    """Counts of the distances 0, 1 ... of all mated and non-mated pairs, as many of each as there are distances."""

    mated: NDArray[np.int64]
    non_mated: NDArray[np.int64]


class AllPairs:
    """All pairs of images whose subjects `(N,)` are known, each pair once; templates are in the order of the images.

    Where a comparator tells stored templates from probes, the first image of a pair is stored and the other one the
    probe, in the order of groups, then of subjects, then of the images; not the other way round, too.

    Pairs of two subjects of one of `groups` `(N,)`, as a family, are left out, since they are neither surely non-mated
    nor like impostors.
    """

    def __init__(self, subjects: ArrayLike, groups: ArrayLike | None = None) -> None:
        _, subjects = np.unique(np.asarray(subjects), return_inverse=True)
        groups = subjects if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        order = np.lexsort((subjects, groups))
        self._order = None if (np.diff(order) == 1).all() else order
        self.subjects = subjects
        """Subject of each image, numbers from 0, `(N,)`."""
        self._subject_of_row, self._groups = subjects[order], groups[order]
        self.images = np.bincount(subjects)
        """Images of each subject, `(S,)`."""
        rows = np.arange(len(order))
        ends = _run_ends(self._subject_of_row)
        self._group_ends = _run_ends(self._groups)
        counts = ends - rows - 1
        self._left = np.repeat(rows, counts)
        self._right = self._left + 1 + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        self.mated_count = len(self._left)
        self.non_mated_count = int((len(rows) - self._group_ends).sum())
        if not self.mated_count or not self.non_mated_count:
            raise DataError(
                f"all pairs: expected two subjects or more, one of them with two images; {len(rows)} images of "
                f"{len(self.images)} subjects give {self.mated_count} mated and {self.non_mated_count} non-mated pairs"
            )

    @property
    def units(self) -> tuple[int, int]:
        """Subjects that have mated pairs, and pairs of subjects that have non-mated ones."""
        return int(np.count_nonzero(self.images > 1)), round(self._weight_of_non_mated(1 / self.images))

    def check_resolution(self, fmr: float, advice: str = "") -> None:
        """Refuse a false match rate below 1 / non-mated pairs, which these pairs are too few to show."""
        if self.non_mated_count * fmr < 1:
            raise DataError(
                f"an FMR of {fmr:g} cannot be seen in {self.non_mated_count:,} non-mated comparisons, which show "
                f"{1 / self.non_mated_count:.2g} at the lowest; ask for a higher one, or take more subjects{advice}"
            )

    def curve(self, comparator: Comparator, *keyed: Any, fmr: float = 0.1) -> ErrorCurve:
        """The error curve of prepared templates; those under several keys make one curve of all their pairs.

        Several keys are for comparators of integer distances, for which the curve is exact. Else it is exact at every
        FMR up to `fmr` and up to the EER, as `drawn_figures` says; 1 keeps all distances, which the area under the
        curve needs.
        """
        if comparator.max_distance(keyed[0]) is not None:
            return histogram_curve(*np.sum([self.count(comparator, each) for each in keyed], axis=0))
        (templates,) = keyed
        return self.drawn_figures(lambda curve: curve, [np.ones(len(self.images))], comparator, templates, fmr=fmr)[0]

    def count(self, comparator: Comparator, templates: Any) -> DistanceCounts:
        """Counts of the integer distances of prepared templates under one key."""
        return self._counted(comparator, templates, templates)

    def count_across_keys(self, comparator: Comparator, templates: Any, others: Any) -> DistanceCounts:
        """Counts of the integer distances between templates of the same images under two keys, for unlinkability.

        Mated: two different images of one subject, each once under either key. Non-mated: images of two subjects,
        likewise. An image is never compared with itself.
        """
        both = [self._counted(comparator, *sides) for sides in ((templates, others), (others, templates))]
        return DistanceCounts(*np.sum(both, axis=0))

    def _counted(self, comparator: Comparator, templates: Any, others: Any) -> DistanceCounts:
        """Counts of the distances between rows of `templates` and later rows of `others`."""
        left, right = self._sorted(templates), self._sorted(others)
        size = (comparator.max_distance(templates) or 0) + 1
        non_mated: NDArray[np.int64] = np.zeros(size, np.int64)
        for block in self._non_mated(comparator, left, right):
            non_mated += np.bincount(block, minlength=size)
        return DistanceCounts(np.bincount(self._mated(comparator, left, right), minlength=size), non_mated)

    def usable(self, counts: Counts) -> bool:
        """Whether drawn subjects, `(S,)` times each, have mated and non-mated pairs."""
        return self._weight_of_non_mated(counts) > 0 and bool(counts[self.images > 1].any())

    def drawn_figures(
        self,
        figures: Callable[[ErrorCurve], T],
        draws: Iterable[Counts],
        comparator: Comparator,
        templates: Any,
        *,
        fmr: float,
    ) -> list[T]:
        """Figures of the curve of each draw, given how often each subject was drawn, `(S,)` each.

        Curves are exact at every FMR up to `fmr` (doubled where a draw needs more) and up to the EER; above there is
        one point only, at infinity, where everything is accepted.
        """
        draws = list(draws)
        share = fmr
        while True:
            limit = self._limit(comparator, templates, share)
            curves = map(self._curve_of_draws(comparator, templates, limit), draws)
            # A curve has to go beyond `fmr` and the EER before its point at infinity.
            values = [
                figures(curve)
                for curve in curves
                if limit == np.inf or (curve.fmr[-2] > fmr and curve.fmr[-2] >= curve.fnmr[-2])
            ]
            if len(values) == len(draws):
                return values
            share = min(1.0, max(2 * share, 1e-4))

    def _curve_of_draws(self, comparator: Comparator, templates: Any, limit: float) -> Callable[[Counts], ErrorCurve]:
        """A function from a draw to its curve, which has all points up to the limit."""
        rows = self._sorted(templates)
        subjects = self._subject_of_row.astype(np.int32)
        mated = self._mated(comparator, rows, rows)
        near = []
        for start, _, table in self._tables(comparator, rows, rows):
            left, right = np.nonzero(table <= limit)
            non_mated = right + start >= self._group_ends[left + start]
            left, right = left[non_mated], right[non_mated]
            near.append((table[left, right], subjects[left + start], subjects[right + start]))
        distances, left, right = (np.concatenate(values) for values in zip(*near, strict=True))
        order, near_order = np.argsort(mated, kind="stable"), np.argsort(distances, kind="stable")
        mated_subject, left, right = subjects[self._left][order], left[near_order], right[near_order]
        levels = np.union1d(distances, mated[mated <= limit])
        levels = np.concatenate([[-np.inf], levels, [np.inf] if limit < np.inf else []])
        accepted = np.searchsorted(mated[order], levels, side="right")
        falsely = np.searchsorted(distances[near_order], levels, side="right")

        def curve(counts: Counts) -> ErrorCurve:
            mated = np.cumsum(np.append(0.0, counts[mated_subject]))
            near = np.cumsum(np.append(0.0, counts[left] * counts[right]))
            non_mated = self._weight_of_non_mated(counts)
            if not (mated[-1] > 0 and non_mated > 0):
                raise DataError("bootstrap: a draw has no mated or no non-mated pair; too few subjects")
            fmr, fnmr = near[falsely] / non_mated, (mated[-1] - mated[accepted]) / mated[-1]
            fmr[-1] = 1.0
            return ErrorCurve(levels, fmr, fnmr)

        return curve

    def _limit(self, comparator: Comparator, templates: Any, share: float) -> float:
        """Distance below which about this share of the non-mated pairs lies, from a sample; infinity for all."""
        templates = self._sorted(templates)
        drawn = np.sort(numpy_stream(0, "evaluation/float-limit").permutation(len(self._subject_of_row))[:SAMPLE])
        differ = self._groups[drawn][:, None] != self._groups[drawn]
        if share >= 1 or not differ.any():
            return np.inf
        return float(np.quantile(comparator.all_pairs(templates[drawn], templates[drawn])[differ], share))

    def _mated(self, comparator: Comparator, left: Any, right: Any) -> NDArray[Any]:
        return _finite(comparator.paired(left[self._left], right[self._right]))

    def _non_mated(self, comparator: Comparator, left: Any, right: Any) -> Iterator[NDArray[Any]]:
        """Non-mated distances of sorted templates, block by block, `(P,)`."""
        for start, width, table in self._tables(comparator, left, right):
            columns = np.arange(start, start + width)
            yield table[:, :width][columns >= self._group_ends[start : start + len(table), None]]
            yield table[:, width:].ravel()

    def _tables(self, comparator: Comparator, left: Any, right: Any) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """First row, columns that hold pairs within groups, and distances to all rows from that row on."""
        for start in range(0, len(self._subject_of_row), ROWS):
            table = _finite(comparator.all_pairs(left[start : start + ROWS], right[start:]))
            yield start, int(self._group_ends[start + len(table) - 1]) - start, table

    def _weight_of_non_mated(self, counts: Counts) -> float:
        by_image = counts[self._subject_of_row]
        by_group = np.bincount(self._groups, by_image)
        return float((by_image.sum() ** 2 - (by_group**2).sum()) / 2)

    def _sorted(self, templates: Any) -> Any:
        if len(templates) != len(self._subject_of_row):
            raise DataError(
                f"all pairs: expected a row for each of {len(self._subject_of_row)} images, received {len(templates)}"
            )
        return templates if self._order is None else templates[self._order]


def _run_ends(values: NDArray[Any]) -> NDArray[np.int64]:
    """Row after the last of each row's run of equal values."""
    ends = np.append(np.flatnonzero(np.diff(values)) + 1, len(values))
    return np.repeat(ends, np.diff(ends, prepend=0))


def _finite(distances: NDArray[Any]) -> NDArray[Any]:
    if not np.issubdtype(distances.dtype, np.integer) and not np.isfinite(distances).all():
        raise DataError("all pairs: expected finite distances, received others")
    return distances
