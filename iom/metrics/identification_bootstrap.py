"""Intervals of 1:N figures: the subjects of the probes drawn anew, and the keys.

All probes of one subject share a reference and a face, so whole subjects are drawn with replacement
(a subset bootstrap: Bolle, Ratha and Pankanti, CVIU 95, 2004) and a probe counts as often as its
subject was drawn. The gallery stays as it is: ranks depend on it, and a subject drawn twice into a
gallery would tie with itself. The intervals are therefore those of other probes against **this**
gallery, for its N.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom.errors import DataError
from iom.metrics.identification import RANKS, Searches
from iom.metrics.subject_bootstrap import key_draws, subject_draws
from iom.metrics.uncertainty import Interval, rate_interval

Weights = NDArray[np.float64]
"""How often each probe counts, `(P,)`."""


class WeightedSearches:
    """Figures of one gallery's searches under any weights; what needs sorting is sorted once.

    Args:
        searches: What the search gave for each probe.
    """

    def __init__(self, searches: Searches) -> None:
        self._enrolled = np.flatnonzero(searches.enrolled)
        self._others = np.flatnonzero(~searches.enrolled)
        self._rank = searches.rank[self._enrolled]
        self._own = searches.own[self._enrolled]
        self._by_own = np.argsort(self._own, kind="stable")
        self._others = self._others[np.argsort(searches.best[self._others], kind="stable")]
        self._best = searches.best[self._others]

    def cmc(self, weights: Weights, ranks: int = RANKS) -> NDArray[np.float64]:
        """Weighted share of the enrolled probes at rank 1 ... `ranks`; NaN if none was drawn."""
        enrolled = weights[self._enrolled]
        found = np.bincount(np.minimum(self._rank, ranks + 1), enrolled, minlength=ranks + 2)
        total = enrolled.sum()
        if not total:
            return np.full(ranks, np.nan)
        return np.asarray(np.cumsum(found[1 : ranks + 1]) / total)

    def identification_rate_at_fpir(self, weights: Weights, fpir: float, rank: int = 1) -> float:
        """Weighted DIR at the largest observed distance whose weighted FPIR is within `fpir`.

        NaN where no probe with or none without a reference was drawn.
        """
        return float(self.identification_rates_at_fpirs(weights, [fpir], rank)[0])

    def identification_rates_at_fpirs(self, weights: Weights, fpirs: ArrayLike, rank: int = 1) -> NDArray[np.float64]:
        """`identification_rate_at_fpir` at each of `fpirs` `(F,)`, in one pass."""
        asked = np.asarray(fpirs, np.float64)
        enrolled, others = weights[self._enrolled], weights[self._others]
        if not (enrolled.sum() and others.sum()):
            return np.full(len(asked), np.nan)
        false = np.cumsum(others)
        beyond = np.searchsorted(false / false[-1], asked, side="right")
        # The first drawn probe that is too many: every distance short of its own is within `fpir`.
        limits = np.append(self._best, np.inf)[beyond]
        counted = self._by_own[self._rank[self._by_own] <= rank]
        found = np.concatenate([[0.0], np.cumsum(enrolled[counted])])
        return np.asarray(found[np.searchsorted(self._own[counted], limits, side="left")] / enrolled.sum())


def identification_intervals(
    by_key: Sequence[Sequence[Searches]],
    probe_subjects: ArrayLike,
    *,
    points: Sequence[tuple[float, int]],
    ranks: int = RANKS,
    replicates: int = 200,
    confidence: float = 0.95,
    seed: int = 1,
) -> tuple[list[Interval], list[Interval]]:
    """Percentile intervals of the means over keys and galleries; subjects and keys drawn anew.

    Args:
        by_key: Searches of the same probes under each key: one for each gallery, whose mean is
            asked for.
        probe_subjects: Subject of each probe, `(P,)`.
        points: FPIR and rank, where the DIR is wanted.
        ranks: Of the CMC.
        replicates: How many times to draw.
        confidence: Share of the draws that an interval holds.
        seed: Of the draws; the same draws for every system.

    Returns:
        Intervals of the CMC at rank 1 ... `ranks`, and of the DIR at each of `points`; where every
        enrolled probe is found, or none, they reach to the exact bound for the number of subjects
        with an enrolled probe (see `rate_interval`).

    Raises:
        DataError: No key or replicate, subjects that do not match the probes, or all draws without
            an enrolled probe, or without another.
    """
    subjects, index = np.unique(np.asarray(probe_subjects), return_inverse=True)
    wrong = [found for each in by_key for found in each if len(found.rank) != len(index)]
    if not (by_key and all(by_key)) or replicates < 1 or not 0 < confidence < 1 or wrong:
        raise DataError(
            "bootstrap: expected searches under each key, a replicate, 0 < confidence < 1 and a "
            f"subject for each probe, received {len(by_key)}, {replicates}, {confidence} and "
            f"{len(index)} subjects ({len(wrong)} searches of another length)"
        )
    weighted = [[WeightedSearches(found) for found in each] for each in by_key]
    by_rank: dict[int, list[int]] = {}
    for column, (_, rank) in enumerate(points):
        by_rank.setdefault(rank, []).append(column)
    keys = key_draws(len(by_key), replicates=replicates, seed=seed)
    drawn = np.empty((replicates, ranks + len(points)))
    draws = subject_draws(len(subjects), replicates=replicates, seed=seed)
    for row, (counts, chosen) in enumerate(zip(draws, keys, strict=True)):
        weights = counts[index]
        used, times = np.unique(chosen, return_counts=True)
        values = [
            np.mean([_figures(one, weights, points, by_rank, ranks) for one in weighted[key]], axis=0) for key in used
        ]
        drawn[row] = np.average(values, axis=0, weights=times)
    if np.isnan(drawn).all(axis=0).any():
        raise DataError(
            f"bootstrap: no draw of {len(subjects)} subjects holds probes with a reference and "
            "probes without; use more subjects"
        )
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, (tail, 1 - tail), axis=0)
    whole = np.mean(
        [_figures(one, np.ones(len(index)), points, by_rank, ranks) for of in weighted for one in of], axis=0
    )
    enrolled = min(len(np.unique(index[one.enrolled])) for each in by_key for one in each)
    found = [
        rate_interval(Interval(float(a), float(b)), value, units=enrolled, confidence=confidence)
        for a, b, value in zip(low, high, whole.tolist(), strict=True)
    ]
    return found[:ranks], found[ranks:]


def _figures(
    searches: WeightedSearches,
    weights: Weights,
    points: Sequence[tuple[float, int]],
    by_rank: dict[int, list[int]],
    ranks: int,
) -> NDArray[np.float64]:
    """CMC, then the DIR at each of `points`; the columns of a rank are found together."""
    rates = np.empty(len(points))
    for rank, columns in by_rank.items():
        fpirs = [points[column][0] for column in columns]
        rates[columns] = searches.identification_rates_at_fpirs(weights, fpirs, rank)
    return np.concatenate([searches.cmc(weights, ranks), rates])
