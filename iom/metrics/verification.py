"""Figures of 1:1 verification, from all observed distances.

Lower distances are more alike; a comparison matches when `distance <= threshold`; equal distances
are never split. For several figures of the same distances take `error_curve` once and ask it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom.errors import DataError
from iom.metrics.error_curve import error_curve


class FoldAccuracy(NamedTuple):
    """Accuracy over folds: mean and (population) standard deviation."""

    mean: float
    std: float


def equal_error_rate(mated: ArrayLike, non_mated: ArrayLike) -> float:
    """Rate at which FMR equals FNMR; interpolated as `ErrorCurve.equal_error_rate` says.

    Args:
        mated: Distances of mated comparisons, `(A,)`.
        non_mated: Distances of non-mated comparisons, `(B,)`.

    Raises:
        DataError: A kind is missing, or a distance is not finite.

    Example:
        >>> equal_error_rate([0.1, 0.2, 0.3, 0.6], [0.5, 0.7, 0.8, 0.9])
        0.25
        >>> equal_error_rate([1, 1], [1, 1])
        0.5
    """
    return error_curve(mated, non_mated).equal_error_rate()


def area_under_curve(mated: ArrayLike, non_mated: ArrayLike) -> float:
    """Probability that a mated distance is below a non-mated one, ties counting one half.

    Example:
        >>> area_under_curve([1, 2], [2, 3])
        0.875
    """
    return error_curve(mated, non_mated).area_under_curve()


def threshold_at_fmr(mated: ArrayLike, non_mated: ArrayLike, fmr: float) -> float:
    """The largest observed distance, of either kind, whose FMR does not exceed `fmr`.

    Minus infinity when only rejecting everything keeps to `fmr`.

    Example:
        >>> threshold_at_fmr([1, 2, 4], [3, 5, 6, 7], 0.25)
        4.0
    """
    return error_curve(mated, non_mated).threshold_at_fmr(fmr)


def fnmr_at_fmr(mated: ArrayLike, non_mated: ArrayLike, fmr: float) -> float:
    """FNMR at `threshold_at_fmr`, without interpolation.

    With B non-mated comparisons the FMR has a resolution of 1 / B: below it this is the FNMR at an
    FMR of zero, whatever was asked for. Do not quote such a figure.

    Example:
        >>> fnmr_at_fmr([1, 2, 4, 6], [3, 5, 6, 7], 0.25)
        0.25
    """
    return error_curve(mated, non_mated).fnmr_at_fmr(fmr)


def ten_fold_accuracy(
    distances: ArrayLike, same: ArrayLike, fold: ArrayLike, *, weights: ArrayLike | None = None
) -> FoldAccuracy:
    """Accuracy on each fold at the threshold that is best on all other folds (LFW, view 2).

    Every threshold between two neighbouring distances of the other folds is equally good on them:
    the middle is taken, and of several equally good gaps the lowest, with the fewest false matches.
    Two folds are enough; LFW has ten.

    Args:
        distances: `(P,)`.
        same: Whether a pair is mated, `(P,)`.
        fold: Fold of each pair, `(P,)`.
        weights: How often each pair counts, `(P,)`; a fold without weight is left out.

    Raises:
        DataError: Lengths that differ, distances that are not finite, fewer than two folds.

    Example:
        >>> ten_fold_accuracy([1, 5, 2, 6, 4, 7], [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2])
        FoldAccuracy(mean=0.6666666666666666, std=0.23570226039551584)
    """
    return FoldedScores(distances, same, fold).accuracy(weights)


class FoldedScores:
    """Distances ranked once for `ten_fold_accuracy`, to be counted under other weights."""

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
        """Mean and standard deviation over the folds that have any weight."""
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
        """Column of each fold's threshold; `correct` `(F, T)` is what is right on other folds."""
        first = np.argmax(correct, axis=1)
        # Columns of a gap are those of the fold that is judged: they change nothing elsewhere.
        leaves = (correct != correct.max(axis=1, keepdims=True)) & (np.arange(self._columns) > first[:, None])
        after = np.where(leaves.any(axis=1), np.argmax(leaves, axis=1), 0)
        inside = (first > 0) & (after > 0)  # a gap without an end has no middle
        middle = (self._thresholds[first - 1] + self._thresholds[after - 1]) / 2
        column = np.searchsorted(self._thresholds, middle, side="right")
        return np.asarray(np.where(inside, column, first))
