"""Exact error curves from counts of distances, and from more distances than memory holds.

A code distance is one of 0..M, so tens of millions of comparisons fit into M + 1 counts, and the
curve of the counts is the curve of all comparisons. A cosine is not: there the low non-mated
distances, among which every decision falls, are kept one by one and the others counted in bins.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom.errors import DataError
from iom.metrics.error_curve import ErrorCurve, RankedScores

BINS = 1 << 14
"""Bins of the distances that are only counted."""


def histogram_curve(mated: ArrayLike, non_mated: ArrayLike, thresholds: ArrayLike | None = None) -> ErrorCurve:
    """The curve of counted distances; equal to `error_curve` of the distances themselves.

    Args:
        mated: Mated comparisons at each distance, `(T,)`; weights of comparisons will do.
        non_mated: Non-mated ones, `(T,)`.
        thresholds: The distances, rising, `(T,)`; 0, 1, 2 ... by default.

    Raises:
        DataError: Lengths that differ, a negative count, a kind without any comparison, or
            distances that do not rise.

    Example:
        >>> curve = histogram_curve([0, 1, 1, 0, 1], [0, 0, 0, 1, 3])
        >>> curve.thresholds.tolist()  # only distances that occur
        [-inf, 1.0, 2.0, 3.0, 4.0]
        >>> curve.fmr.tolist()
        [0.0, 0.0, 0.0, 0.25, 1.0]
    """
    kinds = [_checked(mated, "mated"), _checked(non_mated, "non-mated")]
    levels = np.arange(len(kinds[0])) if thresholds is None else np.asarray(thresholds)
    if not len(levels) == len(kinds[0]) == len(kinds[1]):
        raise DataError(
            "histograms: expected a mated and a non-mated count for each distance, received "
            f"{len(kinds[0])} and {len(kinds[1])} for {len(levels)}"
        )
    if np.any(np.diff(levels) <= 0):
        raise DataError("histograms: expected rising distances, received others")
    observed = (kinds[0] > 0) | (kinds[1] > 0)
    accepted, falsely_accepted = (np.cumsum(counts[observed]) for counts in kinds)
    total = accepted[-1]
    return ErrorCurve(
        thresholds=np.concatenate([[-np.inf], levels[observed].astype(np.float64)]),
        fmr=np.concatenate([[0.0], falsely_accepted / falsely_accepted[-1]]),
        fnmr=np.concatenate([[1.0], (total - accepted) / total]),
    )


class StreamedDistances:
    """Real distances added block by block: the low ones exactly, the others in bins.

    Every mated distance is kept, and every non-mated one up to `limit`; non-mated ones above are
    counted in bins of `(highest - limit) / BINS`. So the curve is exact at every threshold up to
    `limit`, that is for every FMR up to `exact_to_fmr`; above, an FMR is wrong by one bin's share
    at most, and the area under the curve by as little.

    Args:
        limit: Largest non-mated distance that is kept.
        highest: Largest distance there can be; 2 for `1 - cosine`.
    """

    def __init__(self, limit: float, *, highest: float = 2.0) -> None:
        if not limit < highest:
            raise DataError(f"streamed distances: expected limit < {highest}, received {limit}")
        self.limit = limit
        self._width = (highest - limit) / BINS
        self._mated: list[NDArray[np.float64]] = []
        self._near: list[NDArray[np.float64]] = []
        self._beyond = np.zeros(BINS, np.int64)

    def add(self, mated: NDArray[np.float64], non_mated: NDArray[np.float64]) -> None:
        """Add distances of both kinds, `(A,)` and `(B,)`; either may be empty.

        Raises:
            DataError: A distance is not finite.
        """
        if not (np.isfinite(mated).all() and np.isfinite(non_mated).all()):
            raise DataError("streamed distances: expected finite numbers, received others")
        near = non_mated <= self.limit
        self._mated.append(mated)
        self._near.append(non_mated[near])
        bins = ((non_mated[~near] - self.limit) / self._width).astype(np.int64)
        self._beyond += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)

    @property
    def mated(self) -> NDArray[np.float64]:
        """All mated distances, in the order of their coming."""
        return np.concatenate([np.empty(0), *self._mated])

    @property
    def near(self) -> NDArray[np.float64]:
        """Non-mated distances up to the limit, in the order of their coming."""
        return np.concatenate([np.empty(0), *self._near])

    @property
    def non_mated_count(self) -> int:
        """Non-mated comparisons so far."""
        return int(sum(map(len, self._near)) + self._beyond.sum())

    @property
    def exact_to_fmr(self) -> float:
        """FMR at the limit: up to here the curve is exact."""
        return sum(map(len, self._near)) / max(self.non_mated_count, 1)

    def curve(self) -> ErrorCurve:
        """The curve of everything added; a bin counts at its upper edge."""
        filled = np.flatnonzero(self._beyond)
        edges = self.limit + self._width * (filled + 1)
        near = self.near
        weights = np.concatenate([np.ones(len(near)), self._beyond[filled]])
        ranked = RankedScores(self.mated, np.concatenate([near, edges]))
        return ranked.curve(non_mated_weights=weights)


def _checked(counts: ArrayLike, kind: str) -> NDArray[Any]:
    values: NDArray[Any] = np.asarray(counts)
    if values.ndim != 1 or not np.all(values >= 0) or not np.isfinite(values).all():
        raise DataError(f"{kind} counts: expected numbers of at least 0, received others")
    if not values.any():
        raise DataError(f"{kind} counts: expected at least one comparison, received none")
    return values
