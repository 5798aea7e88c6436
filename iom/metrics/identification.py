"""Identification figures, 1:N: closed set (CMC) and open set (DIR, FPIR, FNIR), in terms of ISO/IEC 19795-1.

Lower distances are more alike, a candidate is within threshold when `distance <= threshold`, and ties are pessimistic:
a gallery subject at the distance of the probe's own reference is ranked before it. All figures follow from three
numbers of each search, so a gallery is searched in blocks.

Intervals draw the subjects of the probes anew, and the keys: a probe counts as often as its subject was drawn. The
gallery stays as it is: a subject drawn twice into a gallery would tie with itself. The intervals are therefore those of
other probes against this gallery, for its N.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom._untrusted import shown
from iom.errors import DataError
from iom.metrics.bootstrap import Counts, Interval, Weights, bootstrap_samples, percentile_intervals, rate_interval

RANKS = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Searches:
    """Result of a search of one gallery for each probe, `(P,)` each.

    `own` is the distance to the probe's own reference (infinity where it is not enrolled), `rank` the rank of that
    reference from 1, ties counting against it (0 where it is not enrolled), `best` the distance to the nearest
    reference.
    """

    own: NDArray[np.float64]
    rank: NDArray[np.int64]
    best: NDArray[np.float64]

    @property
    def enrolled(self) -> NDArray[np.bool_]:
        """Whether a probe's subject is in the gallery, `(P,)`."""
        return self.rank > 0

    def cmc(self, ranks: int = RANKS, *, weights: Weights | None = None) -> NDArray[np.float64]:
        """Closed set: share of the enrolled probes, as often as `weights` say, found at rank 1, 2 ... `ranks`."""
        weights = np.ones(len(self.rank)) if weights is None else weights
        counted = weights[self.enrolled]
        if not counted.any():
            raise DataError("identification: expected probes of enrolled subjects, received none")
        counts = np.bincount(np.minimum(self.rank[self.enrolled], ranks + 1), counted, minlength=ranks + 2)
        return np.asarray(np.cumsum(counts[1 : ranks + 1]) / counted.sum())

    def identification_rate(self, threshold: float, rank: int = 1) -> float:
        """DIR(t, r) = 1 - FNIR(N, r, t): share of the enrolled probes at rank <= r and distance <= t."""
        _check_both(len(self._by_own), len(self._by_best))
        enrolled = self.enrolled
        hits = (self.rank[enrolled] <= rank) & (self.own[enrolled] <= threshold)
        return float(np.mean(hits))

    def false_positive_rate(self, threshold: float) -> float:
        """FPIR(t): share of the probes without reference that match any subject."""
        _check_both(len(self._by_own), len(self._by_best))
        return float(np.mean(self.best[~self.enrolled] <= threshold))

    def identification_rates_at_fpirs(
        self, fpirs: ArrayLike, rank: int = 1, *, weights: Weights | None = None
    ) -> NDArray[np.float64]:
        """DIR at the largest observed distances whose FPIR does not exceed each of `fpirs` `(F,)`.

        B probes without reference resolve an FPIR by 1 / B; each probe counts as `weights` `(P,)` say.
        """
        weights = np.ones(len(self.rank)) if weights is None else weights
        fpirs = np.asarray(fpirs, np.float64)
        if not ((fpirs >= 0) & (fpirs <= 1)).all():
            raise DataError(f"fpir: expected 0 to 1, received {fpirs}")
        own, others = weights[self._by_own], weights[self._by_best]
        _check_both(int(own.sum()), int(others.sum()))
        false = np.cumsum(others)
        beyond = np.searchsorted(false / false[-1], fpirs, side="right")
        # The first counted probe that is too many: every distance short of its own is within `fpir`.
        limits = np.append(self.best[self._by_best], np.inf)[beyond]
        counted = self.rank[self._by_own] <= rank
        found = np.concatenate([[0.0], np.cumsum(own[counted])])
        within = np.searchsorted(self.own[self._by_own][counted], limits, side="left")
        return np.asarray(found[within] / own.sum())

    @functools.cached_property
    def _by_own(self) -> NDArray[np.intp]:
        rows = np.flatnonzero(self.enrolled)
        return rows[np.argsort(self.own[rows], kind="stable")]

    @functools.cached_property
    def _by_best(self) -> NDArray[np.intp]:
        rows = np.flatnonzero(~self.enrolled)
        return rows[np.argsort(self.best[rows], kind="stable")]


class GallerySearch:
    """Takes the distances of probes to a gallery, with one reference of each subject `(G,)`, block by block.

    Examples:
        >>> search = GallerySearch([7, 8, 9])
        >>> search.add([[1, 3, 5], [4, 4, 6], [5, 2, 6]], [7, 8, 3])
        >>> found = search.searches()
        >>> found.rank.tolist()  # subject 8 ties with 7 and is ranked behind it
        [1, 2, 0]
        >>> found.cmc(3).tolist()
        [0.5, 1.0, 1.0]
        >>> found.identification_rate(2), found.false_positive_rate(2)
        (0.5, 1.0)
        >>> found.identification_rates_at_fpirs([0.0]).tolist()
        [0.5]
    """

    def __init__(self, gallery_subjects: ArrayLike) -> None:
        subjects: NDArray[Any] = np.asarray(gallery_subjects)
        if subjects.ndim != 1 or not len(subjects):
            raise DataError(f"gallery: expected subjects (G,), received shape {subjects.shape}")
        names, counts = np.unique(subjects, return_counts=True)
        twice = names[counts > 1]
        if len(twice):
            raise DataError(
                f"gallery: {len(twice)} of {len(names)} subjects stand in it more than once: "
                f"{shown(twice)}; make one template of a subject's images first"
            )
        self._order = np.argsort(subjects)
        self._sorted = subjects[self._order]
        self._parts: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []

    def add(self, distances: ArrayLike, probe_subjects: ArrayLike) -> None:
        """Add probes of subjects `(P,)` by their finite distances `(P, G)`."""
        table: NDArray[Any] = np.asarray(distances)
        subjects: NDArray[Any] = np.asarray(probe_subjects)
        size = len(self._sorted)
        if table.shape != (len(subjects), size):
            raise DataError(f"search: expected distances ({len(subjects)}, {size}), received {table.shape}")
        if not np.issubdtype(table.dtype, np.integer):
            wrong = np.flatnonzero(~np.isfinite(table).all(axis=1))
            if len(wrong):
                raise DataError(
                    f"search: distances of {len(wrong)} of {len(table)} probes are not finite: rows {shown(wrong)}"
                )
        place = np.minimum(np.searchsorted(self._sorted, subjects), size - 1)
        enrolled = self._sorted[place] == subjects
        own = table[np.arange(len(table)), self._order[place]]
        before = np.count_nonzero(table <= own[:, None], axis=1)  # itself included
        self._parts.append(
            (
                np.where(enrolled, own.astype(np.float64), np.inf),
                np.where(enrolled, before, 0).astype(np.int64),
                table.min(axis=1).astype(np.float64),
            )
        )

    def searches(self) -> Searches:
        """The searches of all probes so far, in the order of `add`."""
        if not sum(len(part[0]) for part in self._parts):
            raise DataError("search: expected probes, received none")
        own, rank, best = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        return Searches(own, rank, best)


def search_gallery(distances: ArrayLike, probe_subjects: ArrayLike, gallery_subjects: ArrayLike) -> Searches:
    """The outcome of a whole table of distances `(P, G)`; see `GallerySearch`."""
    search = GallerySearch(gallery_subjects)
    search.add(distances, probe_subjects)
    return search.searches()


def identification_rates(
    by_key: Sequence[Sequence[Searches]],
    probe_subjects: ArrayLike,
    *,
    points: Sequence[tuple[float, int]],
    replicates: int = 200,
    confidence: float = 0.95,
    seed: int = 1,
) -> tuple[list[float], list[Interval]]:
    """Means over keys and galleries, and their percentile intervals; subjects and keys drawn anew.

    Args:
        by_key: Searches of the same probes under each key: one for each gallery, whose mean is asked for.
        probe_subjects: Subject of each probe, `(P,)`.
        points: FPIR and rank at which the DIR is wanted.
        replicates: How many times to draw, 0 for no intervals; draws without enrolled probes, or without others, are
            drawn again.
        confidence: Share of the draws that an interval holds.
        seed: Of the draws; the same draws for every system.

    Returns:
        The CMC at rank 1 ... `RANKS`, then the DIR at each of `points`; and their intervals. Where every enrolled probe
        is found, or none, those reach to the exact bound for the number of subjects with an enrolled probe (see
        `rate_interval`).

    Raises:
        DataError: No key, subjects that do not match the probes, or too few subjects.
    """
    subjects, index = np.unique(np.asarray(probe_subjects), return_inverse=True)
    wrong = [found for each in by_key for found in each if len(found.rank) != len(index)]
    if not (by_key and all(by_key)) or replicates < 0 or not 0 < confidence < 1 or wrong:
        raise DataError(
            "identification: expected searches under each key, replicates, 0 < confidence < 1 and a "
            f"subject for each probe, received {len(by_key)}, {replicates}, {confidence} and "
            f"{len(index)} subjects ({len(wrong)} searches of another length)"
        )
    columns = {rank: [place for place, (_, of) in enumerate(points) if of == rank] for rank in {r for _, r in points}}

    def figures(searches: Searches, weights: Weights) -> NDArray[np.float64]:
        """CMC, then the DIR at each of `points`; those of a rank are found together."""
        rates = np.empty(len(points))
        for rank, places in columns.items():
            fpirs = [points[place][0] for place in places]
            rates[places] = searches.identification_rates_at_fpirs(fpirs, rank, weights=weights)
        return np.concatenate([searches.cmc(weights=weights), rates])

    def means(subjects: Counts, keys: Counts) -> NDArray[np.float64]:
        weights, drawn = subjects[index], np.flatnonzero(keys).tolist()
        values = [np.mean([figures(one, weights) for one in by_key[key]], axis=0) for key in drawn]
        return np.asarray(np.average(values, axis=0, weights=keys[drawn]))

    values = np.mean([figures(one, np.ones(len(index))) for each in by_key for one in each], axis=0).tolist()
    if not replicates:
        return values, []
    enrolled = [one.enrolled for one in by_key[0]]

    def usable(subjects: Counts) -> bool:
        weights = subjects[index]
        return all(weights[e].any() and (not points or weights[~e].any()) for e in enrolled)

    samples = bootstrap_samples(
        means, {"subjects": len(subjects), "keys": len(by_key)}, replicates=replicates, seed=seed, usable=usable
    )
    units = min(len(np.unique(index[e])) for e in enrolled)
    intervals = [
        rate_interval(interval, value, units=units, confidence=confidence)
        for interval, value in zip(percentile_intervals(samples, confidence), values, strict=True)
    ]
    return values, intervals


def _check_both(enrolled: int, others: int) -> None:
    if not (enrolled and others):
        raise DataError(
            f"open set: expected probes of enrolled subjects and of others, received {enrolled} and {others}"
        )
