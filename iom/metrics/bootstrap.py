"""Bootstrap over subjects and keys, the units that were sampled; not over pairs.

The pairs of one subject share its images, and all distances under one key share that key: a bootstrap of single pairs
reports intervals that are too narrow. Here whole groups (subjects, keys) are drawn with replacement, as many as there
are (a subset bootstrap: Bolle, Ratha and Pankanti, CVIU 95, 2004), and figures are weighted by how often each group was
drawn. A sample without errors gives percentiles of no width: such a rate gets the exact bound of Clopper and Pearson
(Biometrika 26, 1934), see `rate_interval`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom._random import numpy_stream
from iom.errors import DataError

Counts = NDArray[np.float64]
"""How often each group was drawn, `(G,)`."""
Weights = NDArray[np.float64]
"""How often each pair or probe counts, `(P,)`."""
Statistic = Callable[[Weights], Mapping[str, float]]
"""Named figures under one key, given how often each pair counts."""
Kind = Literal["mated", "non-mated", "both"]
"""Pairs among which a rate counts errors."""

_DRAWS_PER_REPLICATE = 20


class Interval(NamedTuple):
    """Interval of a figure."""

    low: float
    high: float


def group_draws(
    groups: int, kind: str = "subjects", *, replicates: int, seed: int, usable: Callable[[Counts], bool] | None = None
) -> Iterator[Counts]:
    """Groups drawn with replacement, as many as there are: how often each was drawn, `(G,)`.

    Each kind (`subjects`, `keys`) has a random stream of its own; the same kind and seed give the same draws, so that
    two systems can be compared on them. A draw that is not `usable` is drawn again; a `DataError` if draws keep being
    unusable.
    """
    stream = numpy_stream(seed, f"bootstrap/{kind}")
    for _ in range(replicates):
        for _ in range(_DRAWS_PER_REPLICATE):
            counts = np.bincount(stream.integers(groups, size=groups), minlength=groups).astype(np.float64)
            if usable is None or usable(counts):
                break
        else:
            raise DataError(
                f"bootstrap: {groups} {kind} are too few, draws keep missing mated or non-mated comparisons; use more "
                f"{kind} or no bootstrap"
            )
        yield counts


def bootstrap_samples(
    statistic: Callable[..., ArrayLike],
    groups: Mapping[str, int],
    *,
    replicates: int,
    seed: int,
    usable: Callable[[Counts], bool] | None = None,
) -> NDArray[np.float64]:
    """Figures `(R, F)` when all groups are drawn anew `replicates` times.

    `groups` are the numbers of each kind, as `{"subjects": 1680, "keys": 10}`; `statistic` takes the counts of each
    kind by its name, gives figures `(F,)`. `usable`: whether a draw of subjects serves, see `group_draws`.

    Examples:
        >>> values = np.array([1.0, 2.0, 3.0])
        >>> def mean(subjects):
        ...     return [np.average(values, weights=subjects)]
        >>> bootstrap_samples(mean, {"subjects": 3}, replicates=5, seed=1).shape
        (5, 1)
    """
    draws = [
        group_draws(count, kind, replicates=replicates, seed=seed, usable=usable if kind == "subjects" else None)
        for kind, count in groups.items()
    ]
    return np.array([statistic(**dict(zip(groups, counts, strict=True))) for counts in zip(*draws, strict=True)])


def percentile_intervals(samples: NDArray[np.float64], confidence: float = 0.95) -> list[Interval]:
    """Percentile interval of each column of `samples` `(R, F)`."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, (tail, 1 - tail), axis=0)
    return [Interval(*edges) for edges in zip(low.tolist(), high.tolist(), strict=True)]


def rate_interval(interval: Interval, value: float, *, units: int, confidence: float) -> Interval:
    """The percentile interval of a rate, reaching to the exact bound where the rate is 0 or 1.

    With no error among `units` independent trials (subjects, not pairs, of which one subject has many) the upper end is
    `unseen_rate`; with nothing but errors the lower end is the same distance from 1. Other values of the rate keep
    their percentiles.
    """
    bound = unseen_rate(units, confidence)
    if value <= 0:
        return Interval(0.0, max(interval.high, bound))
    if value >= 1:
        return Interval(min(interval.low, 1.0 - bound), 1.0)
    return interval


def unseen_rate(units: int, confidence: float = 0.95) -> float:
    """The highest rate of an error that none of `units` independent trials showed (Clopper and Pearson).

    `1 - tail ** (1 / units)`, with `tail` half of `1 - confidence`: at 95 % about `3.7 / units`.
    """
    return float(1.0 - ((1 - confidence) / 2) ** (1 / units))


def mean_over_keys(statistics: Sequence[Statistic], keys: Counts, weights: Weights) -> dict[str, float]:
    """Mean of the figures of the drawn keys, of which `keys` says how often each counts."""
    drawn = np.flatnonzero(keys).tolist()
    figures = [statistics[key](weights) for key in drawn]
    return {name: float(np.average([each[name] for each in figures], weights=keys[drawn])) for name in figures[0]}


class PairSubjects:
    """Subjects of the first and second image of listed pairs, `(P,)`, and the weights of the pairs when they are drawn.

    A mated pair (`same`) counts as often as its subject was drawn, a non-mated pair as often as the product of the
    counts of its two subjects says.
    """

    def __init__(self, left: ArrayLike, right: ArrayLike, same: ArrayLike) -> None:
        left, right, self._same = np.asarray(left), np.asarray(right), np.asarray(same).astype(bool)
        if not left.shape == right.shape == self._same.shape or left.ndim != 1:
            raise DataError(
                f"bootstrap: expected three lists of one length, received shapes {left.shape}, {right.shape}, "
                f"{self._same.shape}"
            )
        subjects, index = np.unique(np.concatenate([left, right]), return_inverse=True)
        self._left, self._right = np.split(index, 2)
        self.subjects = len(subjects)

    def weights(self, counts: Counts) -> Weights:
        """Weights of the pairs, `(P,)`, whole numbers."""
        return np.where(self._same, counts[self._left], counts[self._left] * counts[self._right])

    def usable(self, counts: Counts) -> bool:
        """Whether pairs of both kinds are left."""
        weights = self.weights(counts)
        return bool(weights[self._same].any() and weights[~self._same].any())

    def units(self) -> dict[Kind, int]:
        """Number of subjects with pairs of each kind; of `both`, the smaller number."""
        mated = len(np.unique(self._left[self._same]))
        non_mated = len(np.unique(np.concatenate([self._left[~self._same], self._right[~self._same]])))
        return {"mated": mated, "non-mated": non_mated, "both": min(mated, non_mated)}


def bootstrap_intervals(
    statistics: Sequence[Statistic],
    pairs: PairSubjects,
    *,
    replicates: int = 200,
    confidence: float = 0.95,
    seed: int = 1,
    rates: Mapping[str, Kind] | None = None,
) -> dict[str, Interval]:
    """Percentile intervals of figures averaged over keys, subjects and keys drawn anew each time.

    Args:
        statistics: One for each key, all giving the same names; one alone where there is no key.
        pairs: Subjects of the pairs.
        replicates: How many times to draw; a few hundred settle a 95 % interval.
        confidence: Share of the draws that the interval holds.
        seed: Of the draws.
        rates: Figures that are rates, and the pairs they count among; where there is no error, or nothing else, their
            intervals reach to the exact bound for the number of subjects with such pairs.

    Raises:
        DataError: No statistic, no replicate, or too few subjects (see `group_draws`).

    Examples:
        >>> distances = np.array([1.0, 2.0, 3.0, 4.0])
        >>> def mean(weights):
        ...     return {"mean": float(np.average(distances, weights=weights))}
        >>> pairs = PairSubjects([0, 1, 0, 1], [0, 1, 1, 2], [True, True, False, False])
        >>> low, high = bootstrap_intervals([mean], pairs)["mean"]
        >>> 1.5 <= low < distances.mean() < high <= 3.5
        True
    """
    if not statistics or replicates < 1 or not 0 < confidence < 1:
        raise DataError(
            "bootstrap: expected a statistic, at least one replicate and 0 < confidence < 1, "
            f"received {len(statistics)}, {replicates}, {confidence}"
        )
    every_key, every_subject = np.ones(len(statistics)), np.ones(pairs.subjects)
    values = mean_over_keys(statistics, every_key, pairs.weights(every_subject))
    samples = bootstrap_samples(
        lambda subjects, keys: [*mean_over_keys(statistics, keys, pairs.weights(subjects)).values()],
        {"subjects": pairs.subjects, "keys": len(statistics)},
        replicates=replicates,
        seed=seed,
        usable=pairs.usable,
    )
    intervals = dict(zip(values, percentile_intervals(samples, confidence), strict=True))
    units = pairs.units()
    for name, kind in (rates or {}).items():
        if name in intervals:
            intervals[name] = rate_interval(intervals[name], values[name], units=units[kind], confidence=confidence)
    return intervals
