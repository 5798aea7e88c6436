"""Bootstrap intervals over subjects and keys, the units that were sampled; not over pairs.

The pairs of one subject share its images, and all distances under one key share that key. A
bootstrap that draws single pairs takes them for independent and reports intervals that are too
narrow. Here whole subjects are drawn with replacement (a subset bootstrap: Bolle, Ratha and
Pankanti, CVIU 95, 2004), and so are keys.

Where a sample holds no error, no draw of it does, and the percentiles have no width. Such a rate
gets the exact bound of Clopper and Pearson (Biometrika 26, 1934) for no error among as many trials
as there are subjects: see `rate_interval`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom._random import numpy_stream
from iom.errors import DataError

Weights = NDArray[np.float64]
Statistic = Callable[[Weights], Mapping[str, float]]
"""Named figures of a list of pairs, given how often each pair counts, `(P,)`."""

Kind = Literal["mated", "non-mated", "both"]
"""Pairs that a rate counts errors among."""

_DRAWS_PER_REPLICATE = 20


class Interval(NamedTuple):
    """Interval of a figure."""

    low: float
    high: float


def rate_interval(interval: Interval, value: float, *, units: int, confidence: float) -> Interval:
    """The percentile interval of a rate, reaching to the exact bound where the rate is 0 or 1.

    With no error among `units` independent trials the upper end is `1 - tail ** (1 / units)`, with
    `tail` half of `1 - confidence` (at 95 % about `3.7 / units`); with nothing but errors the lower
    end is the same distance from 1. Other rates keep their percentiles.

    Args:
        interval: Percentiles of the bootstrap.
        value: The rate itself, 0..1.
        units: Independent trials: subjects, not pairs, of which one subject has many.
        confidence: Of the interval.
    """
    bound = 1.0 - ((1 - confidence) / 2) ** (1 / units)
    if value <= 0:
        return Interval(0.0, max(interval.high, bound))
    if value >= 1:
        return Interval(min(interval.low, 1.0 - bound), 1.0)
    return interval


def subject_counts(left: ArrayLike, right: ArrayLike, same: ArrayLike) -> dict[Kind, int]:
    """Number of subjects with pairs of each kind; of `both`, the smaller number."""
    left, right, same = np.asarray(left), np.asarray(right), np.asarray(same).astype(bool)
    mated = len(np.unique(left[same]))
    non_mated = len(np.unique(np.concatenate([left[~same], right[~same]])))
    return {"mated": mated, "non-mated": non_mated, "both": min(mated, non_mated)}


def subject_weights(
    left: ArrayLike, right: ArrayLike, same: ArrayLike, *, replicates: int, seed: int
) -> Iterator[Weights]:
    """Weights of pairs when subjects are drawn with replacement.

    As many subjects are drawn as there are. A mated pair counts as often as its subject was drawn,
    a non-mated pair as often as the product of its two subjects' counts says. Draws that leave no
    mated or no non-mated pair are drawn again.

    Args:
        left: Subject of the first image of each pair, `(P,)`.
        right: Subject of the second, `(P,)`.
        same: Whether a pair is mated, `(P,)`.
        replicates: How many times to draw.
        seed: The same seed gives the same draws, so that two systems can be compared on them.

    Yields:
        `(P,)` weights, whole numbers.

    Raises:
        DataError: Lengths that differ, or subjects so few that draws keep failing.
    """
    left, right, same = np.asarray(left), np.asarray(right), np.asarray(same).astype(bool)
    if not left.shape == right.shape == same.shape or left.ndim != 1:
        raise DataError(
            f"bootstrap: expected three lists of one length, received shapes {left.shape}, {right.shape}, {same.shape}"
        )
    subjects, index = np.unique(np.concatenate([left, right]), return_inverse=True)
    first, second = np.split(index, 2)
    generator = numpy_stream(seed, "bootstrap/subjects")
    for _ in range(replicates):
        for _ in range(_DRAWS_PER_REPLICATE):
            drawn = generator.integers(len(subjects), size=len(subjects))
            count = np.bincount(drawn, minlength=len(subjects)).astype(np.float64)
            weights = np.where(same, count[first], count[first] * count[second])
            if weights[same].any() and weights[~same].any():
                break
        else:
            raise DataError(
                f"bootstrap: {len(subjects)} subjects are too few, draws keep missing mated or "
                "non-mated pairs; use more subjects or no bootstrap"
            )
        yield weights


def bootstrap_intervals(
    statistics: Sequence[Statistic],
    left: ArrayLike,
    right: ArrayLike,
    same: ArrayLike,
    *,
    replicates: int = 200,
    confidence: float = 0.95,
    seed: int = 1,
    rates: Mapping[str, Kind] | None = None,
) -> dict[str, Interval]:
    """Percentile intervals of figures averaged over keys, subjects and keys drawn anew each time.

    Args:
        statistics: One for each key, all giving the same names; one alone where there is no key.
        left: Subject of the first image of each pair, `(P,)`.
        right: Subject of the second, `(P,)`.
        same: Whether a pair is mated, `(P,)`.
        replicates: How many times to draw; a few hundred settle a 95 % interval.
        confidence: Share of the draws that the interval holds.
        seed: Of the draws.
        rates: Figures that are rates, and the pairs they count among; where there is no error, or
            nothing else, their intervals reach to the exact bound for the number of subjects with
            such pairs (see `rate_interval`).

    Returns:
        Interval of each named figure.

    Raises:
        DataError: No statistic, no replicate, or subjects too few (see `subject_weights`).

    Example:
        >>> distances = np.array([1.0, 2.0, 3.0, 4.0])
        >>> def mean(weights):
        ...     return {"mean": float(np.average(distances, weights=weights))}
        >>> same = [True, True, False, False]
        >>> low, high = bootstrap_intervals([mean], [0, 1, 0, 1], [0, 1, 1, 2], same)["mean"]
        >>> 1.5 <= low < distances.mean() < high <= 3.5
        True
    """
    if not statistics or replicates < 1 or not 0 < confidence < 1:
        raise DataError(
            "bootstrap: expected a statistic, at least one replicate and 0 < confidence < 1, "
            f"received {len(statistics)}, {replicates}, {confidence}"
        )
    generator = numpy_stream(seed, "bootstrap/keys")
    values: dict[str, list[float]] = {}
    for weights in subject_weights(left, right, same, replicates=replicates, seed=seed):
        drawn = generator.integers(len(statistics), size=len(statistics))
        keys, counts = np.unique(drawn, return_counts=True)
        figures = [statistics[key](weights) for key in keys]
        for name in figures[0]:
            column = [figure[name] for figure in figures]
            values.setdefault(name, []).append(float(np.average(column, weights=counts)))
    tail = (1 - confidence) / 2
    found = {
        name: Interval(*(float(edge) for edge in np.quantile(drawn, (tail, 1 - tail))))
        for name, drawn in values.items()
    }
    if not rates:
        return found
    units = subject_counts(left, right, same)
    whole = [statistic(np.ones(len(np.asarray(same)))) for statistic in statistics]
    for name, kind in rates.items():
        if name in found:
            value = float(np.mean([figures[name] for figures in whole]))
            found[name] = rate_interval(found[name], value, units=units[kind], confidence=confidence)
    return found
