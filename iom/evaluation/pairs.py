"""Comparison of pairs: figures, DET curves, histograms, hardest pairs, calibration, and unlinkability of two keys."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.data.benchmarks.base import PairBenchmark
from iom.errors import DataError
from iom.evaluation.records import (
    CalibrationCheck,
    Curve,
    Estimate,
    Figure,
    HardestPair,
    Histogram,
    KeySpread,
    LinkabilityResult,
    Record,
    Reliability,
    named_figures,
)
from iom.evaluation.score_files import benchmark_names
from iom.evaluation.scores import (
    FLOAT,
    OWN_KEY,
    RATES,
    CodeSystem,
    EvaluationInputs,
    PairScores,
    SystemScores,
    common_key,
    figures,
    resolved_fmrs,
)
from iom.metrics.bootstrap import (
    Counts,
    Interval,
    Kind,
    PairSubjects,
    Weights,
    bootstrap_intervals,
    bootstrap_samples,
    percentile_intervals,
    unseen_rate,
)
from iom.metrics.likelihood import PRIOR, LikelihoodRatio, reliability
from iom.metrics.protection import linkability_floor, local_linkability, maximal_linkability, system_linkability
from iom.metrics.verification import RankedScores

CURVE_POINTS = 48
"""FMRs of a DET curve, evenly spaced on a logarithmic axis."""
OPERATING_FMRS = ("1e-3", "1e-2")
"""FMR of the threshold shown for a system that has none of its own: the first that is resolved."""
UNNAMED_SOURCES = ("bin", "carray")
"""Benchmarks that do not name the subjects of their images."""
MAX_BINS = 64
NORMAL = 1.96
Rows = NDArray[np.int64]


class PairEvaluator:
    """Figures of the pairs in each scenario, DET curve and histogram; in full the hardest pairs and the calibration."""

    def __init__(self, inputs: EvaluationInputs) -> None:
        self._inputs, benchmark = inputs, inputs.benchmark
        subjects = benchmark.subjects
        self._of_pairs = PairSubjects(subjects[benchmark.left], subjects[benchmark.right], benchmark.same)

    def run(self, system: CodeSystem) -> Iterator[Record]:
        inputs, benchmark = self._inputs, self._inputs.benchmark
        for entry in inputs.scores(system):
            found: dict[str, Figure] = {}
            for figure in self._figures(entry):
                if isinstance(figure, Figure):
                    found[figure.metric] = figure
                yield figure
            yield self._curve(entry)
            yield _histogram(entry)
            if inputs.full and entry.scenario != OWN_KEY:
                yield from hardest_pairs(entry, benchmark, count=inputs.config.report.worst_pairs)
                if system.calibration:
                    yield CalibrationCheck(
                        **entry.place,
                        threshold=float(system.calibration.threshold),
                        target_fmr=system.calibration.fmr,
                        calibrated_fnmr=system.calibration.fnmr,
                        fmr=found["fmr_at_decision"],
                        fnmr=found["fnmr_at_decision"],
                    )
                if entry.by_key[0].likelihood:
                    yield self._reliability(entry, entry.by_key[0].likelihood)

    def _figures(self, scores: SystemScores) -> Iterator[Figure | KeySpread]:
        """Every figure of `PAIR_METRICS`, and where there are several keys its values under each."""
        by_key = [dict(figures(entry)) for entry in scores.by_key]
        intervals: dict[str, Interval] = {}
        if self._inputs.config.scenario.bootstrap:
            # A default argument binds each entry: a closure would see the last one.
            statistics = [lambda weights, entry=entry: dict(figures(entry, weights)) for entry in scores.by_key]
            intervals = self._intervals(statistics, RATES)
        for metric in by_key[0]:
            values = [entry[metric] for entry in by_key]
            # The decision threshold is not measured; a minCllr without errors would have an interval of no width.
            none = metric == "decision" or (metric == "min_cllr" and not any(values))
            low, high = (None, None) if none else intervals.get(metric, (None, None))
            place = scores.place | {"protocol": self._inputs.benchmark.name, "metric": metric}
            yield Figure(**place, value=float(np.mean(values)), low=low, high=high)
            if len(values) > 1:
                yield KeySpread(**place, values=values, std=float(np.std(values, ddof=1)))

    def _curve(self, scores: SystemScores) -> Curve:
        """FNMR at each FMR from one false match up to 1."""
        fmrs = np.geomspace(1 / np.count_nonzero(~self._inputs.benchmark.same), 1.0, CURVE_POINTS)
        statistics = [functools.partial(_fnmrs, scored, fmrs) for scored in scores.by_key]
        by_key = [list(statistic().values()) for statistic in statistics]
        edges: dict[str, Any] = {}
        if self._inputs.full and self._inputs.config.scenario.bootstrap:
            names = list(map(str, range(len(fmrs))))
            found = self._intervals(statistics, dict.fromkeys(names, "mated"))
            edges = {side: [getattr(found[name], side) for name in names] for side in ("low", "high")}
        fnmr = np.mean(by_key, axis=0).tolist()
        return Curve(**scores.place, fmr=fmrs.tolist(), fnmr=fnmr, by_key=by_key, **edges)

    def _reliability(self, scores: SystemScores, ratio: LikelihoodRatio) -> Reliability:
        """All keys together; bins without comparisons are left out."""
        config, same = self._inputs.config, self._inputs.benchmark.same
        ranked = RankedScores(
            np.concatenate([scored.mated for scored in scores.by_key]),
            np.concatenate([scored.non_mated for scored in scores.by_key]),
        )

        def bins(subjects: Counts, keys: Counts) -> NDArray[np.float64]:
            weights = np.outer(keys, self._of_pairs.weights(subjects))
            return reliability(ranked.curve(weights[:, same].ravel(), weights[:, ~same].ravel()), ratio)

        groups = {"subjects": self._of_pairs.subjects, "keys": len(scores.by_key)}
        found = bins(*(np.ones(count) for count in groups.values()))
        filled = np.isfinite(found[2])
        mated, non_mated, predicted = found[:, filled]
        bounds: list[Any] = [(None, None)] * len(predicted)
        if config.scenario.bootstrap:
            draws = bootstrap_samples(
                bins, groups, replicates=config.scenario.bootstrap, seed=config.seed, usable=self._of_pairs.usable
            )
            bounds = _bounds_of_shares(
                found[:2, filled], draws[:, :2, filled], self._of_pairs.units(), config.scenario.confidence
            )
        return Reliability(
            **scores.place,
            prior=PRIOR,
            predicted=predicted.tolist(),
            observed=(mated / (mated + non_mated)).tolist(),
            low=[low for low, _ in bounds],
            high=[high for _, high in bounds],
            share=((mated + non_mated) / 2).tolist(),
        )

    def _intervals(self, statistics: Sequence[Callable[..., Any]], rates: Mapping[str, Any]) -> dict[str, Interval]:
        config = self._inputs.config
        return bootstrap_intervals(
            statistics,
            self._of_pairs,
            replicates=config.scenario.bootstrap,
            confidence=config.scenario.confidence,
            seed=config.seed,
            rates=rates,
        )


def _bounds_of_shares(
    found: NDArray[np.float64], draws: NDArray[np.float64], units: Mapping[Kind, int], confidence: float
) -> list[Interval]:
    """Intervals of the share of mated comparisons in each bin, of both kinds `(2, B)` and those of draws `(R, 2, B)`.

    A kind that a bin has none of could still have its `unseen_rate` there.
    """
    total, observed = draws.sum(axis=1), found[0] / found.sum(axis=0)
    # A draw that leaves a bin empty says nothing of it.
    shares = np.divide(draws[:, 0], total, where=total > 0, out=np.tile(observed, (len(draws), 1)))
    unseen = [unseen_rate(units[kind], confidence) for kind in ("mated", "non-mated")]
    least = np.where(found[1] > 0, 1.0, found[0] / (found[0] + unseen[1]))
    most = np.where(found[0] > 0, 0.0, unseen[0] / (unseen[0] + found[1]))
    intervals = percentile_intervals(shares, confidence)
    return [
        Interval(min(edges.low, low), max(edges.high, high))
        for edges, low, high in zip(intervals, least.tolist(), most.tolist(), strict=True)
    ]


def _fnmrs(scores: PairScores, fmrs: NDArray[np.float64], weights: Weights | None = None) -> dict[str, float]:
    """FNMR at each FMR, by its number as text."""
    curve = scores.curve(weights)
    # The factor leaves room for rounding: an FMR of exactly one pair in B must not be read as none.
    last = np.searchsorted(curve.fmr, fmrs * (1 + 1e-9), side="right") - 1
    return {str(number): float(value) for number, value in enumerate(curve.fnmr[last])}


def names_subjects(benchmark: PairBenchmark, source: str) -> bool:
    """Whether the subjects of a benchmark are its people.

    Where a list contradicts its folders, or has no names, two subjects of a `PairBenchmark` may be one person: good
    enough for a bootstrap, wrong for identification.
    """
    if source in UNNAMED_SOURCES:
        return False
    if source != "pairs" or not isinstance(benchmark.images, tuple):
        return True
    folders = np.unique([str(path.parent) for path in benchmark.images], return_inverse=True)[1]
    both = np.unique(np.stack([folders, benchmark.subjects]), axis=1).shape[1]
    return bool(both == len(np.unique(folders)) == len(np.unique(benchmark.subjects)))


def operating_threshold(scores: SystemScores) -> tuple[float, str]:
    """The system's calibrated threshold, else `observed_threshold`; and a phrase that names it."""
    decision = scores.by_key[0].decision
    if decision is not None:
        return float(decision), "calibrated on other data"
    return observed_threshold(scores)


def observed_threshold(scores: SystemScores) -> tuple[float, str]:
    """Mean over keys of the threshold at a low FMR on these pairs, else of that at the EER; and which of them."""
    curves = [scored.ranked.curve() for scored in scores.by_key]
    for fmr in resolved_fmrs(len(scores.by_key[0].non_mated), OPERATING_FMRS).values():
        found = [curve.threshold_at_fmr(fmr) for curve in curves]
        if np.isfinite(found).all():
            return float(np.mean(found)), f"at FMR {fmr:g} on these pairs"
    found = [curve.threshold_at_equal_error() for curve in curves]
    return float(np.mean(found)), "at the EER on these pairs"


def hardest_pairs(scores: SystemScores, benchmark: PairBenchmark, *, count: int) -> Iterator[HardestPair]:
    """The `count` furthest mated and nearest non-mated pairs by the mean distance over keys."""
    names = benchmark_names(benchmark)
    by_key = np.stack([scored.distances for scored in scores.by_key]).astype(np.float64)
    threshold, _ = operating_threshold(scores)
    mean, matches = by_key.mean(axis=0), (by_key <= threshold).mean(axis=0)
    for kind, of_kind, order in (
        ("mated, furthest apart", benchmark.same, -mean),
        ("non-mated, nearest", ~benchmark.same, mean),
    ):
        rows = np.flatnonzero(of_kind)
        for row in rows[np.argsort(order[rows], kind="stable")[:count]].tolist():
            yield HardestPair(
                **scores.place,
                kind=kind,
                left=names[int(benchmark.left[row])],
                right=names[int(benchmark.right[row])],
                distance=float(mean[row]),
                threshold=threshold,
                matches=float(matches[row]),
            )


def _histogram(scores: SystemScores) -> Histogram:
    mated = np.concatenate([scored.mated for scored in scores.by_key])
    non_mated = np.concatenate([scored.non_mated for scored in scores.by_key])
    edges = bin_edges(mated, non_mated)
    threshold, origin = operating_threshold(scores)
    return Histogram(
        **scores.place,
        unit=scores.unit,
        edges=edges.tolist(),
        mated=(np.histogram(mated, edges)[0] / len(mated)).tolist(),
        non_mated=(np.histogram(non_mated, edges)[0] / len(non_mated)).tolist(),
        threshold=threshold,
        threshold_from=origin,
    )


def bin_edges(mated: NDArray[Any], non_mated: NDArray[Any]) -> NDArray[np.float64]:
    """Bins over both kinds of distance; of whole width for codes, or bins would fill unevenly."""
    both = np.concatenate([mated, non_mated])
    low, high = both.min(), both.max()
    if np.issubdtype(both.dtype, np.integer):
        step = max(1, math.ceil((high - low + 1) / MAX_BINS))
        return np.arange(low, high + 1 + step, step) - 0.5
    return np.linspace(low, max(high, low + 1e-6), MAX_BINS + 1)


def compared_pairs(benchmark: PairBenchmark, *, named: bool, limit: int, seed: int) -> tuple[Rows, Rows]:
    """Mated and non-mated pairs for linking: rows under a first and a second key, `(2, P)`; `limit` of each are drawn.

    Where its subjects are its people (`named`) all ordered pairs of images of a subject are compared, and randomly
    drawn ones of two subjects, else the listed pairs.
    """
    if named:
        subjects = benchmark.subjects
        other = np.asarray(
            numpy_stream(seed, "report/linkability-strangers").integers(len(subjects), size=(2, 2 * limit)), np.int64
        )
        other = other[:, subjects[other[0]] != subjects[other[1]]]
        order = np.argsort(subjects, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(subjects[order])) + 1)
        within = [rows[np.stack(np.nonzero(~np.eye(len(rows), dtype=bool)))] for rows in groups]
        mated = np.concatenate(within, axis=1).astype(np.int64)
        if not mated.shape[1] or not other.shape[1]:
            raise DataError("linkability: expected two subjects or more, one of them with two images")
    else:
        sides = np.stack([benchmark.left, benchmark.right])
        both = np.concatenate([sides, sides[::-1]], axis=1)
        same = np.tile(benchmark.same, 2)
        mated, other = both[:, same], both[:, ~same]
    stream = numpy_stream(seed, "report/linkability-pairs")
    mated, other = (
        pairs if pairs.shape[1] <= limit else pairs[:, stream.permutation(pairs.shape[1])[:limit]]
        for pairs in (mated, other)
    )
    return mated, other


class LinkabilityEvaluator:
    """D_sys, its value by sampling alone, maximal linkability, and D(s) by distance (ISO/IEC 30136).

    Templates of a pair are made under two keys; all pairs of keys are counted together; the float embedding links
    fully. The interval of D_sys is 1.96 standard deviations of the bootstrap to either side: noise only adds to D_sys,
    so that percentiles would lie above it.
    """

    def __init__(self, inputs: EvaluationInputs) -> None:
        self._inputs, config = inputs, inputs.config
        named = names_subjects(inputs.benchmark, config.benchmark.source)
        pairs = compared_pairs(inputs.benchmark, named=named, limit=config.report.pairs, seed=config.seed)
        self._mated_count = pairs[0].shape[1]
        self._left, self._right = np.concatenate(pairs, axis=1)

    def run(self, system: CodeSystem) -> Iterator[LinkabilityResult | Figure]:
        config, embeddings, count = self._inputs.config, self._inputs.embeddings, self._mated_count
        by_key, first = [], system.templates(embeddings, common_key(config.seed, 0))
        for number in range(1, 2 if system.name == FLOAT else config.report.keys + 1):
            second = system.templates(embeddings, common_key(config.seed, number))
            by_key.append(system.comparator.paired(first[self._left], second[self._right]))
            first = second
        distances = np.stack(by_key)
        mated, non_mated = distances[:, :count], distances[:, count:]
        edges = bin_edges(mated.ravel(), non_mated.ravel())
        size = len(edges) - 1
        bins = [np.clip(np.searchsorted(edges, kind, side="right") - 1, 0, size - 1) for kind in (mated, non_mated)]
        counts = [np.bincount(kind.ravel(), minlength=size) for kind in bins]
        value = system_linkability(*counts)
        estimates = {
            "d_sys": Estimate(value=value, **self._interval(value, bins, size)),
            "d_sys_floor": Estimate(value=linkability_floor(*counts)),
            "maximal_linkability": Estimate(value=maximal_linkability(*counts)),
        }
        result = LinkabilityResult(
            system=system.name,
            unit=system.comparator.unit,
            pairs_of_keys=len(distances),
            mated=int(counts[0].sum()),
            non_mated=int(counts[1].sum()),
            d_sys=value,
            low=estimates["d_sys"].low,
            high=estimates["d_sys"].high,
            d_sys_floor=estimates["d_sys_floor"].value,
            maximal_linkability=estimates["maximal_linkability"].value,
            edges=edges.tolist(),
            mated_share=(counts[0] / counts[0].sum()).tolist(),
            non_mated_share=(counts[1] / counts[1].sum()).tolist(),
            local=local_linkability(*counts).tolist(),
        )
        yield result
        protocol = f"{self._inputs.benchmark.name}, two keys"
        yield from named_figures(estimates, system=system.name, scenario=result.scenario, protocol=protocol)

    def _interval(self, value: float, bins: Sequence[NDArray[np.intp]], size: int) -> dict[str, float]:
        """Ends of the interval of D_sys, of the `bins` `(K, P)` of mated and non-mated distances by pair of keys."""
        config, subjects = self._inputs.config, self._inputs.people
        if config.report.replicates < 2:
            return {}
        same = np.arange(len(self._left)) < self._mated_count
        of_pairs = PairSubjects(subjects[self._left], subjects[self._right], same)

        def d_sys(subjects: Counts, keys: Counts) -> list[float]:
            weights, drawn = of_pairs.weights(subjects), np.flatnonzero(keys)
            weighted = zip(bins, np.split(weights, [self._mated_count]), strict=True)
            histograms = (
                sum(keys[key] * np.bincount(kind[key], weight, minlength=size) for key in drawn)
                for kind, weight in weighted
            )
            return [system_linkability(*histograms)]

        groups = {"subjects": of_pairs.subjects, "keys": len(bins[0])}
        samples = bootstrap_samples(
            d_sys, groups, replicates=config.report.replicates, seed=config.seed, usable=of_pairs.usable
        )
        half = NORMAL * float(np.std(samples, ddof=1))
        return {"low": max(0.0, value - half), "high": min(1.0, value + half)}
