"""Figures of 1:1 verification of one system under one key. To add one, write its function and name it here."""

from collections.abc import Iterator

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


Weights = NDArray[np.float64]
"""How often each pair counts, `(P,)`; None counts each once."""


def fold_accuracy(scores: PairScores, weights: Weights | None = None) -> Iterator[tuple[str, float]]:
    """LFW's `accuracy`, the threshold of nine folds applied to the tenth, and `accuracy_std`; none of a single fold."""
    if has_folds(scores):
        accuracy = scores.folded.accuracy(weights)
        yield "accuracy", accuracy.mean
        yield "accuracy_std", accuracy.std


def operating_points(scores: PairScores, weights: Weights | None = None) -> Iterator[tuple[str, float]]:
    """`eer`, `auc`, `fnmr_at_fmr_X` at each resolved FMR, and thresholds `threshold_at_eer`, `threshold_at_fmr_X`."""
    fmrs = {name: fmr for name, fmr in FMRS.items() if resolves(scores, fmr)}
    curve = scores.curve(weights)
    yield "eer", curve.equal_error_rate()
    yield "auc", curve.area_under_curve()
    for name, fmr in fmrs.items():
        yield f"fnmr_at_fmr_{name}", curve.fnmr_at_fmr(fmr)
    yield "threshold_at_eer", curve.threshold_at_equal_error()
    for name, fmr in fmrs.items():
        yield f"threshold_at_fmr_{name}", max(curve.threshold_at_fmr(fmr), REJECTS_EVERYTHING)


def own_decision(scores: PairScores, weights: Weights | None = None) -> Iterator[tuple[str, float]]:
    """`fmr_at_decision`, `fnmr_at_decision` at the system's own `decision` threshold, calibrated on other data."""
    if scores.decision is None:
        return
    same, matches = scores.same, scores.distances <= scores.decision
    weights = np.ones(len(same)) if weights is None else weights
    yield "fmr_at_decision", float(np.average(matches[~same], weights=weights[~same]))
    yield "fnmr_at_decision", float(np.average(~matches[same], weights=weights[same]))
    yield "decision", float(scores.decision)


def has_folds(scores: PairScores) -> bool:
    """Whether a threshold can be chosen on other folds than those it is judged on."""
    return bool(np.any(scores.fold != scores.fold[0]))


def resolves(scores: PairScores, fmr: float) -> bool:
    """Whether there are enough non-mated pairs for one false match at this FMR."""
    return fmr * int(np.count_nonzero(~scores.same)) >= 1


PAIR_METRICS = (fold_accuracy, operating_points, own_decision)
"""All are computed, in this order, for every system, scenario and key; reports and intervals follow."""


def figures(scores: PairScores, weights: Weights | None = None) -> Iterator[tuple[str, float]]:
    """Name and value of every figure of the pairs under one key."""
    for metric in PAIR_METRICS:
        yield from metric(scores, weights)
