"""Evaluators: each turns the scores of one system under one key into named figures.

A new one is a class with `run`, and a line in `EVALUATORS`; reports and intervals follow.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from iom.evaluation.scores import PairScores
from iom.metrics.bootstrap import Kind

FMRS = {"1e-2": 1e-2, "1e-3": 1e-3}
"""False match rates at which the FNMR is quoted, by the name that the figure bears."""

RATES: dict[str, Kind] = {
    "accuracy": "both",
    "eer": "both",
    "auc": "both",
    **dict.fromkeys((f"fnmr_at_fmr_{name}" for name in FMRS), "mated"),
    "fmr_at_decision": "non-mated",
    "fnmr_at_decision": "mated",
}
"""Figures that are rates, and the pairs whose subjects they rest on."""

GIVEN = ("decision",)
"""Figures that are not measured and so have no interval."""

REJECTS_EVERYTHING = -1.0
"""Threshold where only rejecting everything keeps to an FMR: no distance is negative."""


class Evaluator(Protocol):
    """What computes figures."""

    def run(self, weights: NDArray[np.float64] | None = None) -> Iterator[tuple[str, float]]:
        """Name and value of each figure; `weights` `(P,)` say how often each pair counts."""


class FoldEvaluator:
    """Accuracy as LFW defines it: the threshold of nine folds applied to the tenth.

    Left out where the benchmark has a single fold.
    """

    def __init__(self, scores: PairScores) -> None:
        self._scores = scores

    def run(self, weights: NDArray[np.float64] | None = None) -> Iterator[tuple[str, float]]:
        """`accuracy`, and `accuracy_std` over the folds."""
        if not has_folds(self._scores):
            return
        accuracy = self._scores.folded.accuracy(weights)
        yield "accuracy", accuracy.mean
        yield "accuracy_std", accuracy.std


class OperatingPointEvaluator:
    """Error rates from all distances, and the thresholds that give them.

    FNMR at an FMR is left out where the benchmark has too few non-mated pairs to tell that FMR from zero.
    """

    def __init__(self, scores: PairScores) -> None:
        self._scores = scores
        self._fmrs = {name: fmr for name, fmr in FMRS.items() if resolves(scores, fmr)}

    def run(self, weights: NDArray[np.float64] | None = None) -> Iterator[tuple[str, float]]:
        """`eer`, `auc`, `fnmr_at_fmr_X`, `threshold_at_eer`, `threshold_at_fmr_X`."""
        if weights is None:
            curve = self._scores.ranked.curve()
        else:
            same = self._scores.same
            curve = self._scores.ranked.curve(weights[same], weights[~same])
        yield "eer", curve.equal_error_rate()
        yield "auc", curve.area_under_curve()
        for name, fmr in self._fmrs.items():
            yield f"fnmr_at_fmr_{name}", curve.fnmr_at_fmr(fmr)
        yield "threshold_at_eer", curve.threshold_at_equal_error()
        for name, fmr in self._fmrs.items():
            threshold = max(curve.threshold_at_fmr(fmr), REJECTS_EVERYTHING)
            yield f"threshold_at_fmr_{name}", threshold


class DecisionEvaluator:
    """Errors at the system's own threshold, calibrated on other data: what a user would meet.

    Left out for systems without one.
    """

    def __init__(self, scores: PairScores) -> None:
        self._scores = scores

    def run(self, weights: NDArray[np.float64] | None = None) -> Iterator[tuple[str, float]]:
        """`fmr_at_decision`, `fnmr_at_decision` and the threshold itself, `decision`."""
        if self._scores.decision is None:
            return
        same = self._scores.same
        matches = self._scores.distances <= self._scores.decision
        weights = np.ones(len(same)) if weights is None else weights
        yield "fmr_at_decision", float(np.average(matches[~same], weights=weights[~same]))
        yield "fnmr_at_decision", float(np.average(~matches[same], weights=weights[same]))
        yield "decision", float(self._scores.decision)


def has_folds(scores: PairScores) -> bool:
    """Whether a threshold can be chosen on other folds than those it is judged on."""
    return bool(np.any(scores.fold != scores.fold[0]))


def resolves(scores: PairScores, fmr: float) -> bool:
    """Whether there are enough non-mated pairs for one false match at this FMR."""
    return fmr * int(np.count_nonzero(~scores.same)) >= 1


EVALUATORS: dict[str, Callable[[PairScores], Evaluator]] = {
    "folds": FoldEvaluator,
    "operating_points": OperatingPointEvaluator,
    "decision": DecisionEvaluator,
}
"""All run, in this order, on every system, scenario and key."""


def figures(scores: PairScores, weights: NDArray[np.float64] | None = None) -> Iterator[tuple[str, float]]:
    """Name and value of every figure that any evaluator gives."""
    for evaluator in EVALUATORS.values():
        yield from evaluator(scores).run(weights)
