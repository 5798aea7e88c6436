"""False match and false non-match rates at every observed threshold, ties included.

Scores are distances: lower means more alike, and a comparison matches when
`distance <= threshold`. Thresholds are the observed distances themselves, never a grid, led by
minus infinity, at which everything is rejected. FMR and FNMR are those of ISO/IEC 19795-1.
"""

import dataclasses
from typing import Any

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
        """The rate at which FMR and FNMR are equal.

        Both are step functions of the threshold and need not meet in an observed point. Then the
        two neighbouring points of the curve are joined by a straight line, and the rate is taken
        where that line crosses FMR = FNMR. The same as intersecting the ROC polygon with the
        anti-diagonal.
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
        """Area under the ROC (1 - FNMR over FMR).

        The probability that a mated distance is below a non-mated one, ties counting one half
        (Mann and Whitney); 1 is a perfect separation.
        """
        return float(np.trapezoid(1.0 - self.fnmr, self.fmr))

    def fnmr_at_fmr(self, fmr: float) -> float:
        """FNMR at `threshold_at_fmr`: the lowest FNMR whose FMR does not exceed `fmr`."""
        return float(self.fnmr[self._last_at_fmr(fmr)])

    def threshold_at_fmr(self, fmr: float) -> float:
        """The largest observed distance whose FMR does not exceed `fmr`.

        Minus infinity when even the lowest observed distance exceeds it: only rejecting everything
        keeps the promise.
        """
        return float(self.thresholds[self._last_at_fmr(fmr)])

    def _crossing(self) -> int:
        """First point at which FMR has reached FNMR; never point 0, where it is 0 against 1."""
        return int(np.argmax(self.fmr >= self.fnmr))

    def _last_at_fmr(self, fmr: float) -> int:
        if not 0 <= fmr <= 1:
            raise DataError(f"fmr: expected 0 to 1, received {fmr}")
        return int(np.searchsorted(self.fmr, fmr, side="right")) - 1


class RankedScores:
    """Distances sorted once, so that a curve under other weights costs no sorting.

    Args:
        mated: Distances of mated comparisons, `(A,)`.
        non_mated: Distances of non-mated comparisons, `(B,)`.

    Raises:
        DataError: A kind is missing, or a distance is not finite.

    Example:
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
        """The curve, each comparison counting as often as its weight says (once by default).

        Raises:
            DataError: Weights of another length, negative, or all zero.
        """
        accepted, mated = self._accepted(0, mated_weights, "mated")
        falsely_accepted, non_mated = self._accepted(1, non_mated_weights, "non-mated")
        return ErrorCurve(
            thresholds=np.concatenate([[-np.inf], self._thresholds]),
            fmr=np.concatenate([[0.0], falsely_accepted / non_mated]),
            fnmr=np.concatenate([[1.0], (mated - accepted) / mated]),
        )

    def _accepted(self, kind: int, weights: ArrayLike | None, name: str) -> tuple[NDArray[np.float64], float]:
        """Weight at or below each threshold, and the whole weight."""
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
    """FMR and FNMR at every observed threshold.

    Args:
        mated: Distances of mated comparisons, `(A,)`.
        non_mated: Distances of non-mated comparisons, `(B,)`.

    Raises:
        DataError: A kind is missing, or a distance is not finite.
    """
    return RankedScores(mated, non_mated).curve()


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
