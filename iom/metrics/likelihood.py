"""Likelihood ratios of distances: fit, probability, and cost (Cllr, Brummer and du Preez, CSL 20, 2006).

The likelihood ratio of a distance says how many times likelier it is between two samples of one subject than between
samples of two. It is a property of the comparison alone; with a prior probability that both are of one subject it gives
the probability after the comparison (Bayes' rule). Ratios are decimal logarithms here: 3 is a thousand to one for one
subject, 0 says nothing.

The data come as an `ErrorCurve`, whose steps are the shares of mated and of non-mated comparisons at each distance; so
both kinds weigh the same however many comparisons there are, which is a prior of 0.5.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iom.errors import DataError
from iom.metrics.bootstrap import unseen_rate
from iom.metrics.verification import ErrorCurve

PRIOR = 0.5
"""Probability before the comparison that both samples are of one subject, where none is given."""
BIN = 0.5
"""Width of a bin of `reliability`, of the decimal logarithm."""
NEWTON_STEPS, RIDGE = 100, 1e-12
LN10 = math.log(10)


@dataclasses.dataclass(frozen=True)
class LikelihoodRatio:
    """Decimal logarithm of the likelihood ratio of a distance: `offset + slope * distance`, within `low` and `high`.

    The slope is at most 0. The bounds are the strongest statements that the calibration data support, see
    `fit_likelihood_ratio`.

    Examples:
        >>> ratio = LikelihoodRatio(slope=-0.02, offset=13.0, low=-1.8, high=3.9)
        >>> ratio.log10([0, 600, 650, 1500]).tolist()
        [3.9, 1.0, 0.0, -1.8]
        >>> ratio.probability(650), round(ratio.probability(600), 3), round(ratio.probability(600, prior=0.01), 3)
        (0.5, 0.909, 0.092)
    """

    slope: float
    offset: float
    low: float
    high: float

    def __post_init__(self) -> None:
        values = (self.slope, self.offset, self.low, self.high)
        numbers = all(isinstance(each, int | float) and math.isfinite(each) for each in values)
        if not (numbers and self.slope <= 0 and self.low <= 0 <= self.high):
            raise DataError(
                "likelihood ratio: expected finite numbers, slope <= 0 and low <= 0 <= high, received "
                f"{str(values)[:200]}"
            )

    def log10(self, distance: ArrayLike) -> NDArray[np.float64]:
        """Decimal logarithm of the ratio of each distance, in its shape."""
        return np.clip(self.offset + self.slope * np.asarray(distance, np.float64), self.low, self.high)

    def probability(self, distance: float, prior: float = PRIOR) -> float:
        """Probability that both samples are of one subject, given `prior`, that before the comparison.

        Raises:
            DataError: A prior that is not between 0 and 1, or a distance that is not finite.
        """
        if not 0 < prior < 1:
            raise DataError(f"prior: expected more than 0 and less than 1, received {prior}")
        if not math.isfinite(distance):
            raise DataError(f"distance: expected a finite number, received {distance}")
        log_odds = LN10 * float(self.log10(distance)) + math.log(prior) - math.log1p(-prior)
        return float(np.exp(-np.logaddexp(0.0, -log_odds)))


def probability_text(probability: float) -> str:
    """A probability with three decimals or more: two digits of what is left to 0 or 1, so that 0.99987 is no 1.

    Example:
        >>> probability_text(0.972), probability_text(0.99987), probability_text(0.00002)
        ('0.972', '0.99987', '0.000020')
    """
    rest = min(probability, 1 - probability)
    return f"{probability:.{max(3, 1 - math.floor(math.log10(rest)))}f}" if rest > 0 else f"{probability:g}"


def fit_likelihood_ratio(
    curve: ErrorCurve, *, comparisons: tuple[int, int], units: tuple[int, int], confidence: float = 0.95
) -> LikelihoodRatio:
    """Logistic regression of mated against non-mated distances, both kinds weighing the same.

    The targets are those of Platt (Advances in Large Margin Classifiers, 2000), `(N + 1) / (N + 2)` for `N` mated and
    `1 / (N + 2)` for `N` non-mated comparisons in place of 1 and 0, so that distances that separate all comparisons
    have a finite slope. Distances that do not fall from non-mated to mated give a ratio of 1 throughout.

    A line goes on beyond all data. What it claims there is bounded: had no non-mated comparison reached a distance,
    their rate could still be the `unseen_rate` (about `3.7 / units` at 95 %), and no ratio is above its inverse;
    likewise none is below the rate that mated ones could still have.

    Args:
        curve: Of all comparisons.
        comparisons: Numbers of mated and non-mated ones behind the curve; more keys of the same images are no more.
        units: Numbers of independent ones: of mated, the subjects that have some; of non-mated, the pairs of subjects.
        confidence: Of the bounds.

    Raises:
        DataError: A curve of `AllPairs` that ends at a limit.

    Examples:
        >>> from iom.metrics.verification import error_curve
        >>> curve = error_curve([1, 2, 3, 4], [3, 5, 6, 7, 8])
        >>> ratio = fit_likelihood_ratio(curve, comparisons=(4, 5), units=(4, 5))
        >>> [round(value, 2) for value in ratio.log10([0, 2, 4, 6, 9]).tolist()]
        [0.28, 0.28, -0.01, -0.22, -0.22]
    """
    distances, mated, non_mated = _shares(curve)
    centre, scale = distances.mean(), distances.std()
    slope = offset = 0.0
    if scale > 0:
        standard = (distances - centre) / scale
        towards = mated * (comparisons[0] + 1) / (comparisons[0] + 2) + non_mated / (comparisons[1] + 2)
        fitted = _logistic_line(standard, mated + non_mated, towards) / LN10
        if fitted[0] < 0:
            slope, offset = float(fitted[0] / scale), float(fitted[1] - fitted[0] * centre / scale)
    unseen = [unseen_rate(count, confidence) for count in units]
    return LikelihoodRatio(slope, offset, low=math.log10(unseen[0]), high=-math.log10(unseen[1]))


def _logistic_line(
    values: NDArray[np.float64], total: NDArray[np.float64], towards: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Slope and offset of the log odds: `towards` of the weight `total` at each value is mated.

    Newton's method with halved steps; the cost is convex in the two.
    """
    design = np.stack([values, np.ones_like(values)])

    def cost(line: NDArray[np.float64]) -> float:
        log_odds = line @ design
        return float((total * np.logaddexp(0.0, log_odds) - towards * log_odds).sum())

    line, least = np.array([-1.0, 0.0]), math.inf
    for _ in range(NEWTON_STEPS):
        share = np.exp(-np.logaddexp(0.0, -(line @ design)))
        gradient = design @ (total * share - towards)
        curvature = (design * (total * share * (1.0 - share))) @ design.T + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        found = cost(line)
        while cost(line - step) > found and np.abs(step).max() > RIDGE:
            step = step / 2
        line = line - step
        if not found < least or np.abs(step).max() <= RIDGE:
            break
        least = found
    return line


def isotonic_log_ratios(curve: ErrorCurve) -> NDArray[np.float64]:
    """The falling log10 likelihood ratios with the lowest cost on these very comparisons, of each distance, `(T - 1,)`.

    Pool adjacent violators (PAV). Infinite where only one kind of comparison is found: a reference for other ratios,
    nothing to decide by. NaN where no comparison has any weight.

    Examples:
        >>> from iom.metrics.verification import error_curve
        >>> isotonic_log_ratios(error_curve([1, 2, 4], [3, 4, 5])).round(3).tolist()  # at 1, 2, 3, 4, 5
        [inf, inf, -0.301, -0.301, -inf]
    """
    from scipy.optimize import isotonic_regression

    _, mated, non_mated = _shares(curve)
    total = mated + non_mated
    used = total > 0  # weights of a bootstrap leave distances out
    share = np.full(len(total), np.nan)
    share[used] = isotonic_regression(mated[used] / total[used], weights=total[used], increasing=False).x
    with np.errstate(divide="ignore"):
        return np.asarray(np.log10(share) - np.log10(1 - share))


def log_ratio_cost(curve: ErrorCurve, log_ratios: ArrayLike) -> float:
    """Cllr, bits: the cost of log10 likelihood ratios, one for each distance of the curve, `(T - 1,)`.

    0 is certain and right, 1 as good as a ratio of 1 throughout, above 1 is worse than no ratio at all. It counts both
    what the distances cannot tell (Cllr of `isotonic_log_ratios`, "minCllr") and what is lost in calibration.

    Examples:
        >>> from iom.metrics.verification import error_curve
        >>> curve = error_curve([1, 2], [2, 3])
        >>> log_ratio_cost(curve, [0, 0, 0]), log_ratio_cost(curve, isotonic_log_ratios(curve))
        (1.0, 0.5)
    """
    _, mated, non_mated = _shares(curve)
    log_odds = LN10 * np.asarray(log_ratios, np.float64)
    cost = 0.0
    for share, signed in ((mated, -log_odds), (non_mated, log_odds)):
        found = share > 0  # where there are none the ratio may be infinite
        cost += float(share[found] @ np.logaddexp(0.0, signed[found]))
    return float(cost / 2 / math.log(2))


def reliability(curve: ErrorCurve, ratio: LikelihoodRatio) -> NDArray[np.float64]:
    """Shares of mated and of non-mated comparisons, and predicted probability, `(3, B)`, by bins of the ratio.

    Bins are `BIN` of log10 wide, from the lowest ratio to the highest. Of a reliable ratio the first row over the sum
    of the first two is the third, the mean probability of both kinds at a prior of 0.5, NaN in an empty bin.

    Examples:
        >>> from iom.metrics.verification import error_curve
        >>> ratio = LikelihoodRatio(slope=-1.0, offset=1.0, low=-1.0, high=1.0)
        >>> reliability(error_curve([0, 0, 0, 2], [0, 2, 2, 2]), ratio).round(2).tolist()
        [[0.25, 0.0, 0.0, 0.75], [0.75, 0.0, 0.0, 0.25], [0.09, nan, nan, 0.91]]
    """
    distances, *shares = _shares(curve)
    log_ratios = ratio.log10(distances)
    size = max(1, math.ceil((ratio.high - ratio.low) / BIN))
    bins = np.minimum((log_ratios - ratio.low) // BIN, size - 1).astype(np.intp)
    mated, non_mated = (np.bincount(bins, share, minlength=size) for share in shares)
    probability = np.exp(-np.logaddexp(0.0, -LN10 * log_ratios))
    total = np.bincount(bins, sum(shares) * probability, minlength=size)
    filled = mated + non_mated > 0
    predicted = np.divide(total, mated + non_mated, where=filled, out=np.full(size, np.nan))
    return np.stack([mated, non_mated, predicted])


def _shares(curve: ErrorCurve) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Distances, and the shares of mated and non-mated comparisons at each of them, `(T - 1,)`."""
    if np.isinf(curve.thresholds[-1]):
        raise DataError("likelihood ratio: expected all distances; ask for the curve up to an FMR of 1")
    return curve.thresholds[1:], -np.diff(curve.fnmr), np.diff(curve.fmr)
