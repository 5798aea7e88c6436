"""DET points with bands, and score histograms, of every system and scenario, for a report."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.config.schema import ScenarioConfig
from iom.data.benchmarks.base import PairBenchmark
from iom.evaluation.report.plots import bin_edges
from iom.evaluation.scores import PairScores, SystemScores
from iom.metrics.bootstrap import PairSubjects, bootstrap_intervals

POINTS = 48
"""FMRs at which a DET curve is written down, evenly spaced on a logarithmic axis."""
OPERATING_FMRS = (1e-3, 1e-2)
"""FMR of the threshold that is shown where a system has none of its own, the first resolved."""


def det_curves(
    scores: tuple[SystemScores, ...],
    benchmark: PairBenchmark,
    *,
    scenario: ScenarioConfig,
    seed: int,
    advance: Callable[[], object],
) -> Iterator[dict[str, Any]]:
    """FNMR at each FMR from one false match up to 1: mean over keys, with its interval.

    Args:
        scores: Of all systems.
        benchmark: Whose pairs they are.
        scenario: Draws and confidence of the intervals.
        seed: Of the draws.
        advance: Called after each curve.
    """
    fmrs = np.geomspace(1 / np.count_nonzero(~benchmark.same), 1.0, POINTS)
    for entry in scores:
        by_key = [_fnmrs(scored, fmrs)(None) for scored in entry.by_key]
        names = list(by_key[0])
        curve: dict[str, Any] = {
            "system": entry.system,
            "scenario": entry.scenario,
            "fmr": fmrs.tolist(),
            "fnmr": [float(np.mean([values[name] for values in by_key])) for name in names],
        }
        if scenario.bootstrap:
            found = bootstrap_intervals(
                [_fnmrs(scored, fmrs) for scored in entry.by_key],
                PairSubjects(benchmark.subjects[benchmark.left], benchmark.subjects[benchmark.right], benchmark.same),
                replicates=scenario.bootstrap,
                confidence=scenario.confidence,
                seed=seed,
                rates=dict.fromkeys(names, "mated"),
            )
            curve["low"] = [found[name].low for name in names]
            curve["high"] = [found[name].high for name in names]
        advance()
        yield curve


def histograms(scores: tuple[SystemScores, ...]) -> Iterator[dict[str, Any]]:
    """Shares of both kinds of distance, all keys together, and the threshold of the decision."""
    for entry in scores:
        mated = np.concatenate([scored.mated for scored in entry.by_key])
        non_mated = np.concatenate([scored.non_mated for scored in entry.by_key])
        edges = bin_edges(mated, non_mated)
        threshold, origin = operating_threshold(entry)
        yield {
            "system": entry.system,
            "scenario": entry.scenario,
            "unit": entry.unit,
            "edges": edges.tolist(),
            "mated": (np.histogram(mated, edges)[0] / len(mated)).tolist(),
            "non_mated": (np.histogram(non_mated, edges)[0] / len(non_mated)).tolist(),
            "threshold": threshold,
            "threshold_from": origin,
        }


def operating_threshold(scores: SystemScores) -> tuple[float, str]:
    """The system's own threshold, else the mean over keys of that at a low FMR, else at the EER.

    Returns:
        The distance, and where it comes from, in words.
    """
    decision = scores.by_key[0].decision
    if decision is not None:
        return float(decision), "its own, calibrated on other data"
    return measured_threshold(scores)


def measured_threshold(scores: SystemScores) -> tuple[float, str]:
    """`operating_threshold` from these distances alone, whatever the system's own one is."""
    curves = [scored.ranked.curve() for scored in scores.by_key]
    for fmr in OPERATING_FMRS:
        found = [curve.threshold_at_fmr(fmr) for curve in curves]
        if fmr * len(scores.by_key[0].non_mated) >= 1 and np.isfinite(found).all():
            return float(np.mean(found)), f"at an FMR of {fmr:g} on these pairs"
    found = [curve.threshold_at_equal_error() for curve in curves]
    return float(np.mean(found)), "at the EER on these pairs"


def _fnmrs(scores: PairScores, fmrs: NDArray[np.float64]) -> Callable[[NDArray[np.float64] | None], dict[str, float]]:
    """FNMR at each FMR, by its number as text; weights of None count each pair once."""

    def at_each(weights: NDArray[np.float64] | None) -> dict[str, float]:
        if weights is None:
            curve = scores.ranked.curve()
        else:
            curve = scores.ranked.curve(weights[scores.same], weights[~scores.same])
        # Room for rounding: an FMR of exactly one pair in B must not come out as none.
        last = np.searchsorted(curve.fmr, fmrs * (1 + 1e-9), side="right") - 1
        return {str(number): float(value) for number, value in enumerate(curve.fnmr[last])}

    return at_each
