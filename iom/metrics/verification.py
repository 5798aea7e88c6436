"""Verification metrics, 1:1: FMR and FNMR (ISO/IEC 19795-1) at every observed threshold, ties included, and summaries.

Scores are distances: lower means more alike, a comparison matches when `distance <= threshold`, and equal distances are
never split. Thresholds are the observed distances themselves, never a grid, led by minus infinity, at which everything
is rejected.

A code distance is one of 0..M, so tens of millions of comparisons fit into M + 1 counts without loss
(`histogram_curve`).
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class ErrorCurve:
    """Both error rates by threshold (the points of a DET curve).

    Attributes:
        thresholds: Minus infinity, then every distinct observed distance, rising, `(T,)`.
        fmr: Share of non-mated distances at or below each threshold, rising from 0 to 1, `(T,)`.
        fnmr: Share of mated distances above each threshold, falling from 1 to 0, `(T,)`.
    """

    thresholds: NDArray[np.float64]
    fmr: NDArray[np.float64]
    fnmr: NDArray[np.float64]

    def equal_error_rate(self) -> float:
        """The rate at which FMR and FNMR are equal, between two observed points by linear interpolation of the curve.

        This is the intersection of the ROC polygon with the anti-diagonal.
        """
        after = self._crossing()
        excess = self.fmr - self.fnmr
        share = -excess[after - 1] / (excess[after] - excess[after - 1])
        return float(self.fmr[after - 1] + share * (self.fmr[after] - self.fmr[after - 1]))

    def threshold_at_equal_error(self) -> float:
        """The observed distance at which FMR and FNMR differ least; the lower one in a tie."""
        after = self._crossing()
        candidates = [index for index in (after - 1, after) if index > 0]
        gaps = [abs(self.fmr[index] - self.fnmr[index]) for index in candidates]
        return float(self.thresholds[candidates[int(np.argmin(gaps))]])

    def area_under_curve(self) -> float:
        """Area under the ROC (1 - FNMR over FMR), 1 for a perfect separation.

        The probability that a mated distance is below a non-mated one, ties counting one half (Mann and Whitney). A
        `DataError` for a curve of `AllPairs` that ends at a limit.
        """
        if np.isinf(self.thresholds[-1]):
            raise DataError("area under the curve: expected all distances; ask for the curve up to an FMR of 1")
        return float(np.trapezoid(1.0 - self.fnmr, self.fmr))

    def fnmr_at_fmr(self, fmr: float) -> float:
        """FNMR at `threshold_at_fmr`, without interpolation: the lowest FNMR whose FMR does not exceed `fmr`.

        With B non-mated comparisons the FMR has a resolution of 1 / B: below it this is the FNMR at an FMR of zero,
        whatever was asked for. Do not quote such a figure.
        """
        return float(self.fnmr[self._last_at_fmr(fmr)])

    def threshold_at_fmr(self, fmr: float) -> float:
        """The largest observed distance whose FMR does not exceed `fmr`; minus infinity where the lowest one does."""
        return float(self.thresholds[self._last_at_fmr(fmr)])

    def rates_at(self, threshold: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """FMR and FNMR at a threshold, or at several."""
        point = np.searchsorted(self.thresholds, threshold, side="right") - 1
        return self.fmr[point], self.fnmr[point]

    def _crossing(self) -> int:
        """First point at which FMR has reached FNMR; never point 0, where it is 0 against 1."""
        return int(np.argmax(self.fmr >= self.fnmr))

    def _last_at_fmr(self, fmr: float) -> int:
        if not 0 <= fmr <= 1:
            raise DataError(f"fmr: expected 0 to 1, received {fmr}")
        return int(np.searchsorted(self.fmr, fmr, side="right")) - 1


class RankedScores:
    """Finite distances of mated `(A,)` and non-mated `(B,)` comparisons, sorted once for curves under several weights.

    Examples:
        >>> curve = RankedScores([1, 2, 4], [3, 4, 5, 6]).curve()
        >>> curve.thresholds.tolist()
        [-inf, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        >>> curve.fmr.tolist()
        [0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0]
        >>> round(curve.equal_error_rate(), 6)  # between (1/4, 1/3) and (1/2, 0): 2/7
        0.285714
    """

    def __init__(self, mated: ArrayLike, non_mated: ArrayLike) -> None:
        kinds = (_checked(mated, "mated"), _checked(non_mated, "non-mated"))
        self._thresholds = np.unique(np.concatenate(kinds))
        self._orders = tuple(np.argsort(scores, kind="stable") for scores in kinds)
        self._counts = tuple(
            np.searchsorted(scores[order], self._thresholds, side="right")
            for scores, order in zip(kinds, self._orders, strict=True)
        )

    def curve(self, mated_weights: ArrayLike | None = None, non_mated_weights: ArrayLike | None = None) -> ErrorCurve:
        """The curve, each comparison counting as often as its weight says (once by default)."""
        accepted, mated = self._accepted(0, mated_weights, "mated")
        falsely_accepted, non_mated = self._accepted(1, non_mated_weights, "non-mated")
        return ErrorCurve(
            thresholds=np.concatenate([[-np.inf], self._thresholds]),
            fmr=np.concatenate([[0.0], falsely_accepted / non_mated]),
            fnmr=np.concatenate([[1.0], (mated - accepted) / mated]),
        )

    def _accepted(self, kind: int, weights: ArrayLike | None, name: str) -> tuple[NDArray[np.float64], float]:
        """Weight at or below each threshold, and the total weight."""
        order, counts = self._orders[kind], self._counts[kind]
        if weights is None:
            return counts.astype(np.float64), float(len(order))
        weights = np.asarray(weights, np.float64)
        if weights.shape != order.shape or not np.all(weights >= 0) or not weights.any():
            raise DataError(
                f"{name} weights: expected {len(order)} numbers, at least 0 and not all 0, "
                f"received shape {weights.shape}"
            )
        cumulative = np.concatenate([[0.0], np.cumsum(weights[order])])
        return cumulative[counts], float(cumulative[-1])


def error_curve(mated: ArrayLike, non_mated: ArrayLike) -> ErrorCurve:
    """FMR and FNMR of mated `(A,)` and non-mated `(B,)` distances at every observed threshold.

    A `DataError` if a kind is missing, or a distance is not finite.
    """
    return RankedScores(mated, non_mated).curve()


def histogram_curve(mated: ArrayLike, non_mated: ArrayLike) -> ErrorCurve:
    """The curve of counted distances; equal to `error_curve` of the distances themselves.

    Args:
        mated: Mated comparisons at each distance 0, 1, 2 ..., `(T,)`; weights of comparisons will do.
        non_mated: Non-mated ones, `(T,)`.

    Raises:
        DataError: Lengths that differ, a negative count, or a kind without any comparison.

    Examples:
        >>> curve = histogram_curve([0, 1, 1, 0, 1], [0, 0, 0, 1, 3])
        >>> curve.thresholds.tolist()  # only distances that occur
        [-inf, 1.0, 2.0, 3.0, 4.0]
        >>> curve.fmr.tolist()
        [0.0, 0.0, 0.0, 0.25, 1.0]
    """
    kinds = [_checked_counts(mated, "mated"), _checked_counts(non_mated, "non-mated")]
    if len(kinds[0]) != len(kinds[1]):
        raise DataError(
            "histograms: expected a mated and a non-mated count for each distance, received "
            f"{len(kinds[0])} and {len(kinds[1])}"
        )
    observed = np.flatnonzero((kinds[0] > 0) | (kinds[1] > 0))
    return RankedScores(observed, observed).curve(*(counts[observed] for counts in kinds))


class FoldAccuracy(NamedTuple):
    """Accuracy over folds: mean and (population) standard deviation."""

    mean: float
    std: float


class FoldedScores:
    """Accuracy on each fold at the threshold that is best on all other folds (LFW, view 2).

    Every threshold between two neighbouring distances of the other folds is equally good on them: the middle is taken,
    and of several equally good gaps the lowest, with the fewest false matches. Two folds are enough; LFW has ten.

    Args:
        distances: `(P,)`, ranked once for all weights.
        same: Whether a pair is mated, `(P,)`.
        fold: Fold of each pair, `(P,)`.

    Raises:
        DataError: Lengths that differ, distances that are not finite, fewer than two folds.

    Examples:
        >>> FoldedScores([1, 5, 2, 6, 4, 7], [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2]).accuracy()
        FoldAccuracy(mean=0.6666666666666666, std=0.23570226039551584)
    """

    def __init__(self, distances: ArrayLike, same: ArrayLike, fold: ArrayLike) -> None:
        values = np.asarray(distances, np.float64)
        self._same = np.asarray(same).astype(bool)
        self._fold = np.unique(np.asarray(fold), return_inverse=True)[1]
        if not values.shape == self._same.shape == self._fold.shape or values.ndim != 1:
            raise DataError(
                "fold accuracy: expected three lists of one length, received shapes "
                f"{values.shape}, {self._same.shape}, {self._fold.shape}"
            )
        if not np.isfinite(values).all():
            raise DataError("fold accuracy: expected finite distances, received others")
        if values.size == 0 or self._fold.max() < 1:
            raise DataError("fold accuracy: expected two folds or more")
        self._thresholds, rank = np.unique(values, return_inverse=True)
        self._folds = int(self._fold.max()) + 1
        self._columns = len(self._thresholds) + 1  # the first one rejects everything
        self._cell = self._fold * self._columns + rank + 1

    def accuracy(self, weights: ArrayLike | None = None) -> FoldAccuracy:
        """Mean and standard deviation over the folds that have any weight; each pair counts as `weights` `(P,)` say."""
        count: NDArray[np.float64] = np.ones(len(self._same)) if weights is None else np.asarray(weights, np.float64)
        if count.shape != self._same.shape:
            raise DataError(f"fold accuracy: expected {len(self._same)} weights, received {count.shape}")
        # Accepting a pair gains its weight where it is mated and loses it where it is not.
        gain = np.bincount(
            self._cell, weights=np.where(self._same, count, -count), minlength=self._folds * self._columns
        ).reshape(self._folds, self._columns)
        rejected = np.bincount(self._fold, np.where(self._same, 0, count), self._folds)
        correct = rejected[:, None] + np.cumsum(gain, axis=1)
        total = np.bincount(self._fold, count, self._folds)
        used = np.flatnonzero(total)
        if len(used) < 2:
            raise DataError("fold accuracy: expected weight in two folds or more")
        best = self._chosen(correct.sum(axis=0) - correct)
        shares = correct[used, best[used]] / total[used]
        return FoldAccuracy(float(shares.mean()), float(shares.std()))

    def _chosen(self, correct: NDArray[np.float64]) -> NDArray[np.intp]:
        """Column of each fold's threshold; `correct` `(F, T)` are the correct decisions on the other folds."""
        first = np.argmax(correct, axis=1)
        # Columns of a gap are those of the fold that is judged: they change nothing elsewhere.
        leaves = (correct != correct.max(axis=1, keepdims=True)) & (np.arange(self._columns) > first[:, None])
        after = np.where(leaves.any(axis=1), np.argmax(leaves, axis=1), 0)
        inside = (first > 0) & (after > 0)  # a gap without an end has no middle
        middle = (self._thresholds[first - 1] + self._thresholds[after - 1]) / 2
        column = np.searchsorted(self._thresholds, middle, side="right")
        return np.asarray(np.where(inside, column, first))


def _checked(scores: ArrayLike, kind: str) -> NDArray[np.float64]:
    values: NDArray[Any] = np.asarray(scores)
    if values.ndim != 1 or values.size == 0:
        raise DataError(f"{kind} distances: expected a list of at least one, received shape {values.shape}")
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise DataError(f"{kind} distances: expected numbers, received {values.dtype}")
    values = values.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        first = ", ".join(f"{values[row]} at place {row + 1}" for row in bad[:3])
        raise DataError(
            f"{kind} distances: expected finite numbers, received {len(bad)} that are not, among {values.size}: {first}"
        )
    return values


def _checked_counts(counts: ArrayLike, kind: str) -> NDArray[Any]:
    values: NDArray[Any] = np.asarray(counts)
    if values.ndim != 1 or not np.all(values >= 0) or not np.isfinite(values).all():
        raise DataError(f"{kind} counts: expected numbers of at least 0, received others")
    if not values.any():
        raise DataError(f"{kind} counts: expected at least one comparison, received none")
    return values
