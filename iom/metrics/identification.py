"""Figures of 1:N identification: closed set (CMC) and open set (DIR, FPIR, FNIR).

Terms of ISO/IEC 19795-1. Lower distances are more alike, a candidate is within threshold when
`distance <= threshold`, and ties are pessimistic: a gallery subject at the distance of the probe's
own reference is ranked before it. On short codes, which tie often, the other choice flatters.

All figures follow from three numbers of each search, so a gallery is searched in blocks and the
table of distances need never exist as a whole.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom.errors import DataError

RANKS = 10
_OFFENDERS_SHOWN = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Searches:
    """What a search of one gallery gave for each probe.

    Attributes:
        own: Distance to the probe's own reference; infinity where it is not enrolled, `(P,)`.
        rank: Rank of that reference, 1 is best, ties counting against; 0 where it is not, `(P,)`.
        best: Distance to the nearest reference of any subject, `(P,)`.
        gallery_size: N, references in the gallery.
    """

    own: NDArray[np.float64]
    rank: NDArray[np.int64]
    best: NDArray[np.float64]
    gallery_size: int

    @property
    def enrolled(self) -> NDArray[np.bool_]:
        """Whether a probe's subject is in the gallery, `(P,)`."""
        return self.rank > 0

    def cmc(self, ranks: int = RANKS) -> NDArray[np.float64]:
        """Closed set: share of the enrolled probes found at rank 1, 2 ... `ranks`, `(ranks,)`.

        Raises:
            DataError: No probe is enrolled.
        """
        found = self.rank[self.enrolled]
        if not len(found):
            raise DataError("identification: expected probes of enrolled subjects, received none")
        counts = np.bincount(np.minimum(found, ranks + 1), minlength=ranks + 2)
        return np.asarray(np.cumsum(counts[1 : ranks + 1]) / len(found))

    def identification_rate(self, threshold: float, rank: int = 1) -> float:
        """DIR(t, r): share of the enrolled probes at rank <= r and distance <= t."""
        self._check_both()
        enrolled = self.enrolled
        hits = (self.rank[enrolled] <= rank) & (self.own[enrolled] <= threshold)
        return float(np.mean(hits))

    def false_negative_rate(self, threshold: float, rank: int = 1) -> float:
        """FNIR(N, R, T) = 1 - DIR, for the N of this gallery."""
        return 1.0 - self.identification_rate(threshold, rank)

    def false_positive_rate(self, threshold: float) -> float:
        """FPIR(t): share of the probes without reference that match anyone."""
        self._check_both()
        return float(np.mean(self.best[~self.enrolled] <= threshold))

    def threshold_at_fpir(self, fpir: float) -> float:
        """The largest observed distance whose FPIR does not exceed `fpir`; -inf if none does."""
        return float(self.open_set_curve().thresholds[self._last_at(fpir)])

    def identification_rate_at_fpir(self, fpir: float, rank: int = 1) -> float:
        """DIR at `threshold_at_fpir`, without interpolation.

        With B probes that are not enrolled the FPIR has a resolution of 1 / B.
        """
        return self.identification_rate(self.threshold_at_fpir(fpir), rank)

    def open_set_curve(self, rank: int = 1) -> "OpenSetCurve":
        """DIR and FPIR at every observed distance."""
        self._check_both()
        own, best = np.sort(self._counted(rank)), np.sort(self.best[~self.enrolled])
        thresholds = np.unique(np.concatenate([own[np.isfinite(own)], best]))
        return OpenSetCurve(
            np.concatenate([[-np.inf], thresholds]),
            np.concatenate([[0.0], np.searchsorted(best, thresholds, "right") / len(best)]),
            np.concatenate([[0.0], np.searchsorted(own, thresholds, "right") / len(own)]),
        )

    def _counted(self, rank: int) -> NDArray[np.float64]:
        """Distances at which enrolled probes count; infinity where the rank is too high."""
        enrolled = self.enrolled
        return np.where(self.rank[enrolled] <= rank, self.own[enrolled], np.inf)

    def _last_at(self, fpir: float) -> int:
        if not 0 <= fpir <= 1:
            raise DataError(f"fpir: expected 0 to 1, received {fpir}")
        curve = self.open_set_curve()
        return int(np.searchsorted(curve.fpir, fpir, side="right")) - 1

    def _check_both(self) -> None:
        enrolled = int(self.enrolled.sum())
        if not 0 < enrolled < len(self.rank):
            raise DataError(
                "open set: expected probes of enrolled subjects and of others, received "
                f"{enrolled} and {len(self.rank) - enrolled}"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class OpenSetCurve:
    """Open-set rates by threshold.

    Attributes:
        thresholds: Minus infinity, then every distinct observed distance, rising, `(T,)`.
        fpir: False positive identification rate at each, rising, `(T,)`.
        dir: Detection and identification rate at each, rising; FNIR is 1 - DIR, `(T,)`.
    """

    thresholds: NDArray[np.float64]
    fpir: NDArray[np.float64]
    dir: NDArray[np.float64]


class GallerySearch:
    """Takes the distances of probes to a gallery, block by block.

    Args:
        gallery_subjects: Subject of each reference, each once, `(G,)`.

    Raises:
        DataError: An empty gallery, or a subject that stands in it twice (the first ones and their
            count): its references must be made one template first.

    Example:
        >>> search = GallerySearch([7, 8, 9])
        >>> search.add([[1, 3, 5], [4, 4, 6], [5, 2, 6]], [7, 8, 3])
        >>> found = search.searches()
        >>> found.rank.tolist()  # subject 8 ties with 7 and is ranked behind it
        [1, 2, 0]
        >>> found.cmc(3).tolist()
        [0.5, 1.0, 1.0]
        >>> found.identification_rate(2), found.false_positive_rate(2)
        (0.5, 1.0)
        >>> found.identification_rate_at_fpir(0.0)
        0.5
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
                f"{_shown(twice)}; make one template of a subject's images first"
            )
        self._order = np.argsort(subjects)
        self._sorted = subjects[self._order]
        self._parts: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []

    def add(self, distances: ArrayLike, probe_subjects: ArrayLike) -> None:
        """Add some probes.

        Args:
            distances: `(P, G)`.
            probe_subjects: `(P,)`.

        Raises:
            DataError: Shapes that do not fit, or a distance that is not finite (the first probes
                and their count).
        """
        table: NDArray[Any] = np.asarray(distances)
        subjects: NDArray[Any] = np.asarray(probe_subjects)
        size = len(self._sorted)
        if table.shape != (len(subjects), size):
            raise DataError(f"search: expected distances ({len(subjects)}, {size}), received {table.shape}")
        if not np.issubdtype(table.dtype, np.integer):
            wrong = np.flatnonzero(~np.isfinite(table).all(axis=1))
            if len(wrong):
                raise DataError(
                    f"search: distances of {len(wrong)} of {len(table)} probes are not finite: rows {_shown(wrong)}"
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
        """The outcome of all probes so far, in the order of their coming.

        Raises:
            DataError: No probes.
        """
        if not sum(len(part[0]) for part in self._parts):
            raise DataError("search: expected probes, received none")
        own, rank, best = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        return Searches(own, rank, best, len(self._sorted))


def search_gallery(distances: ArrayLike, probe_subjects: ArrayLike, gallery_subjects: ArrayLike) -> Searches:
    """The outcome of a whole table of distances `(P, G)`; see `GallerySearch`."""
    search = GallerySearch(gallery_subjects)
    search.add(distances, probe_subjects)
    return search.searches()


def _shown(values: NDArray[Any]) -> str:
    names = ", ".join(str(value) for value in values[:_OFFENDERS_SHOWN].tolist())
    return names + (", ..." if len(values) > _OFFENDERS_SHOWN else "")
