"""Collection of the data of a report: figures of all systems on one benchmark, curves, and the optional sections."""

import dataclasses
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pydantic
from numpy.typing import NDArray
from tqdm import tqdm

from iom._environment import environment
from iom.config import EvaluateConfig
from iom.data.benchmarks.base import PairBenchmark
from iom.errors import DataError
from iom.evaluation.report.data import (
    BAD_FIGURE,
    BenchmarkSummary,
    CalibrationCheck,
    Curve,
    EmbedderSummary,
    Figure,
    HardestPair,
    Histogram,
    KeySpread,
    ReportData,
    Sections,
)
from iom.evaluation.report.sections import (
    attack_keys,
    attack_section,
    bin_edges,
    compared_pairs,
    draw_victims,
    identification_section,
    linkability_section,
)
from iom.evaluation.report.text import attack_estimate, summary
from iom.evaluation.score_files import benchmark_names
from iom.evaluation.scores import (
    COSINE_UNIT,
    FLOAT,
    FMRS,
    GIVEN,
    OWN_KEY,
    RATES,
    CodeSystem,
    PairScores,
    SystemScores,
    code_scores,
    figures,
    float_scores,
    float_system,
    has_folds,
    resolves,
)
from iom.evaluation.systems import hasher_folders
from iom.metrics.bootstrap import Interval, PairSubjects, bootstrap_intervals
from iom.models.face_hasher import load

CURVE_POINTS = 48
"""FMRs of a DET curve, evenly spaced on a logarithmic axis."""
OPERATING_FMRS = (1e-3, 1e-2)
"""FMR of the threshold shown for a system that has none of its own: the first that is resolved."""
UNNAMED_SOURCES = ("bin", "carray")
"""Benchmarks that do not name the subjects of their images."""
ATTACK_METRICS = (
    "cosine", "sar", "prar", "prar_other", "linking_auc", "linking_auc_same", "linking_eer", "rank_one", "rank_ten"
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationInputs:
    """Pairs, unit-length embeddings `(N, D)` of the compared images or templates, and code systems by name."""

    benchmark: PairBenchmark
    embeddings: NDArray[np.float32]
    systems: Mapping[str, CodeSystem]
    embedder: EmbedderSummary


def score_systems(
    config: EvaluateConfig, inputs: EvaluationInputs, *, progress: bool = False
) -> tuple[SystemScores, ...]:
    """Distances of all pairs by system and scenario; all systems see the same embeddings, pairs and test keys."""
    scores: list[SystemScores] = []
    for name in tqdm(config.scenario.systems, desc="scoring", unit="system", disable=not progress):
        if name == FLOAT:
            scores.append(float_scores(inputs.benchmark, inputs.embeddings))
            continue
        scores += code_scores(
            inputs.systems[name],
            inputs.benchmark,
            inputs.embeddings,
            keys=config.scenario.keys,
            seed=config.seed,
            scenarios=config.scenario.scenarios,
        )
    return tuple(scores)


def collect(
    config: EvaluateConfig,
    inputs: EvaluationInputs,
    *,
    scores: Sequence[SystemScores] | None = None,
    full: bool = False,
    progress: bool = False,
) -> ReportData:
    """Compute the data of a report; `full` adds all that `config.report` asks for. `scores` are of `score_systems`."""
    scores = score_systems(config, inputs, progress=progress) if scores is None else scores
    benchmark, names = inputs.benchmark, config.scenario.systems
    named = names_subjects(benchmark, config.benchmark.source)
    notes = list(_notes(scores[0].by_key[0]))
    if full and not named and (config.report.identification or config.report.attacks):
        notes.append("the benchmark does not name the subjects of its images: no identification and no attacks")
    rows: list[Figure] = []
    per_key: list[KeySpread] = []
    try:
        for entry in tqdm(scores, desc="figures", unit="scenario", disable=not progress):
            for figure, spread in _figures(entry, config, benchmark):
                rows.append(figure)
                per_key += [spread] if spread else []
        sections = Sections(
            curves=list(_curves(scores, config, benchmark, with_intervals=full and config.scenario.bootstrap > 0)),
            histograms=list(_histograms(scores)),
        )
        data = ReportData(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seed=config.seed,
            benchmark=_benchmark_summary(benchmark),
            embedder=inputs.embedder,
            systems={name: _system_summary(name, inputs.systems) for name in names},
            rows=rows,
            per_key=per_key,
            notes=notes,
            config=config.model_dump(mode="json"),
            environment=environment(),
            sections=sections,
        )
        if not full:
            return data
        sections = _full_sections(config, inputs, scores, data, named=named, progress=progress)
        rows = [*rows, *_section_figures(sections, benchmark.name)]
        data = data.model_copy(update={"sections": sections, "rows": rows})
        return data.model_copy(update={"summary": summary(data)})
    except pydantic.ValidationError as error:
        raise DataError(f"report: {BAD_FIGURE} ({error.errors()[0]['loc']})") from error


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
    for fmr in OPERATING_FMRS:
        found = [curve.threshold_at_fmr(fmr) for curve in curves]
        if resolves(scores.by_key[0], fmr) and np.isfinite(found).all():
            return float(np.mean(found)), f"at FMR {fmr:g} on these pairs"
    found = [curve.threshold_at_equal_error() for curve in curves]
    return float(np.mean(found)), "at the EER on these pairs"


def hardest_pairs(scores: Sequence[SystemScores], benchmark: PairBenchmark, *, count: int) -> Iterator[HardestPair]:
    """The `count` furthest mated and nearest non-mated pairs by the mean distance over keys.

    Not in `own_key`, where the keys alone separate non-mated pairs.
    """
    names = benchmark_names(benchmark)
    for entry in scores:
        if entry.scenario == OWN_KEY:
            continue
        by_key = np.stack([scored.distances for scored in entry.by_key]).astype(np.float64)
        threshold, _ = operating_threshold(entry)
        mean, matches = by_key.mean(axis=0), (by_key <= threshold).mean(axis=0)
        for kind, of_kind, order in (
            ("mated, furthest apart", benchmark.same, -mean),
            ("non-mated, nearest", ~benchmark.same, mean),
        ):
            rows = np.flatnonzero(of_kind)
            for row in rows[np.argsort(order[rows], kind="stable")[:count]].tolist():
                yield HardestPair(
                    **_place(entry),
                    kind=kind,
                    left=names[int(benchmark.left[row])],
                    right=names[int(benchmark.right[row])],
                    distance=float(mean[row]),
                    threshold=threshold,
                    matches=float(matches[row]),
                )


def _place(scores: SystemScores) -> dict[str, Any]:
    return {"system": scores.system, "scenario": scores.scenario}


def _figures(
    scores: SystemScores, config: EvaluateConfig, benchmark: PairBenchmark
) -> Iterator[tuple[Figure, KeySpread | None]]:
    """Every figure of `evaluators`, and where there are several keys its values under each."""
    by_key = [dict(figures(entry)) for entry in scores.by_key]
    # A default argument binds each entry: a closure would see the last one.
    statistics = [lambda weights, entry=entry: dict(figures(entry, weights)) for entry in scores.by_key]
    intervals = _intervals(statistics, config, benchmark, RATES) if config.scenario.bootstrap else {}
    for metric in by_key[0]:
        values = [entry[metric] for entry in by_key]
        place = _place(scores) | {"protocol": benchmark.name, "metric": metric}
        low, high = (None, None) if metric in GIVEN else intervals.get(metric, (None, None))
        spread = KeySpread(**place, values=values, std=float(np.std(values, ddof=1))) if len(values) > 1 else None
        yield Figure(**place, value=float(np.mean(values)), low=low, high=high), spread


def _intervals(
    statistics: Sequence[Callable[..., Any]], config: EvaluateConfig, benchmark: PairBenchmark, rates: Mapping[str, Any]
) -> dict[str, Interval]:
    return bootstrap_intervals(
        statistics,
        PairSubjects(benchmark.subjects[benchmark.left], benchmark.subjects[benchmark.right], benchmark.same),
        replicates=config.scenario.bootstrap,
        confidence=config.scenario.confidence,
        seed=config.seed,
        rates=rates,
    )


def _curves(
    scores: Sequence[SystemScores], config: EvaluateConfig, benchmark: PairBenchmark, *, with_intervals: bool
) -> Iterator[Curve]:
    """FNMR at each FMR from one false match up to 1."""
    fmrs = np.geomspace(1 / np.count_nonzero(~benchmark.same), 1.0, CURVE_POINTS)
    for entry in scores:
        statistics = [_fnmrs(scored, fmrs) for scored in entry.by_key]
        by_key = [list(statistic(None).values()) for statistic in statistics]
        edges: dict[str, Any] = {}
        if with_intervals:
            names = list(map(str, range(len(fmrs))))
            found = _intervals(statistics, config, benchmark, dict.fromkeys(names, "mated"))
            edges = {side: [getattr(found[name], side) for name in names] for side in ("low", "high")}
        fnmr = np.mean(by_key, axis=0).tolist()
        yield Curve(**_place(entry), fmr=fmrs.tolist(), fnmr=fnmr, by_key=by_key, **edges)


def _fnmrs(scores: PairScores, fmrs: NDArray[np.float64]) -> Callable[[NDArray[np.float64] | None], dict[str, float]]:
    """FNMR at each FMR, by its number as text; weights of `None` count each pair once."""

    def at_each(weights: NDArray[np.float64] | None) -> dict[str, float]:
        curve = scores.curve(weights)
        # The factor leaves room for rounding: an FMR of exactly one pair in B must not be read as none.
        last = np.searchsorted(curve.fmr, fmrs * (1 + 1e-9), side="right") - 1
        return {str(number): float(value) for number, value in enumerate(curve.fnmr[last])}

    return at_each


def _histograms(scores: Sequence[SystemScores]) -> Iterator[Histogram]:
    for entry in scores:
        mated = np.concatenate([scored.mated for scored in entry.by_key])
        non_mated = np.concatenate([scored.non_mated for scored in entry.by_key])
        edges = bin_edges(mated, non_mated)
        threshold, origin = operating_threshold(entry)
        yield Histogram(
            **_place(entry),
            unit=entry.unit,
            edges=edges.tolist(),
            mated=(np.histogram(mated, edges)[0] / len(mated)).tolist(),
            non_mated=(np.histogram(non_mated, edges)[0] / len(non_mated)).tolist(),
            threshold=threshold,
            threshold_from=origin,
        )


def _full_sections(
    config: EvaluateConfig,
    inputs: EvaluationInputs,
    scores: Sequence[SystemScores],
    data: ReportData,
    *,
    named: bool,
    progress: bool,
) -> Sections:
    asked, benchmark, embeddings, seed = config.report, inputs.benchmark, inputs.embeddings, config.seed
    people = np.unique(benchmark.subjects, return_inverse=True)[1].astype(np.int64)
    systems = {**inputs.systems, FLOAT: float_system(embeddings.shape[1])}
    found: dict[str, list[Any]] = {"identification": [], "linkability": [], "attacks": []}
    if asked.linkability:
        pairs = compared_pairs(benchmark, named=named, limit=asked.pairs, seed=seed)
    if asked.attacks and named:
        victims, keys = draw_victims(embeddings, people, wanted=asked.victims, seed=seed), attack_keys(config)
        thresholds = {entry.system: observed_threshold(entry)[0] for entry in scores if entry.scenario != OWN_KEY}
    for name in tqdm(config.scenario.systems, desc="report", unit="system", disable=not progress):
        system = systems[name]
        if asked.identification and named:
            confidence = config.scenario.confidence
            found["identification"].append(
                identification_section(system, embeddings, people, asked, confidence=confidence, seed=seed)
            )
        if asked.linkability:
            found["linkability"].append(linkability_section(system, embeddings, people, pairs, asked, seed=seed))
        if asked.attacks and named:
            rows = attack_section(config, name, victims, keys, thresholds[name])
            found["attacks"] += [row.to_dict() for row in rows]
    return data.sections.model_copy(
        update={
            "calibration": list(_calibration(config, scores, data)),
            "hardest_pairs": list(hardest_pairs(scores, benchmark, count=asked.worst_pairs)),
            **found,
        }
    )


def _calibration(
    config: EvaluateConfig, scores: Sequence[SystemScores], data: ReportData
) -> Iterator[CalibrationCheck]:
    """Target and observed rates at each system's calibrated threshold."""
    folders = hasher_folders(config)
    for entry in scores:
        if entry.scenario == OWN_KEY or entry.by_key[0].decision is None:
            continue
        calibration = load(folders[entry.system], opens_embedder=False).calibration
        yield CalibrationCheck(
            **_place(entry),
            threshold=float(entry.by_key[0].decision),
            target_fmr=calibration.fmr if calibration else None,
            calibrated_fnmr=calibration.fnmr if calibration else None,
            fmr=data.row(entry.system, entry.scenario, "fmr_at_decision"),
            fnmr=data.row(entry.system, entry.scenario, "fnmr_at_decision"),
        )


def _section_figures(sections: Sections, benchmark: str) -> Iterator[Figure]:
    place: dict[str, Any]
    for found in sections.identification:
        place = {"system": found.system, "scenario": found.scenario, "protocol": f"{benchmark}, search"}
        for metric, estimate in found.figures.items():
            yield Figure(**place, metric=metric, **estimate.model_dump())
    for linked in sections.linkability:
        place = {"system": linked.system, "scenario": linked.scenario, "protocol": f"{benchmark}, two keys"}
        yield Figure(**place, metric="d_sys", **linked.estimate.model_dump())
        for metric in ("d_sys_floor", "maximal_linkability"):
            yield Figure(**place, metric=metric, value=getattr(linked, metric))
    for attack in sections.attacks:
        protocol = f"{benchmark}, {attack['attack']}, {attack['records']} records"
        place = {"system": attack["system"], "scenario": "full_disclosure", "protocol": protocol}
        for metric in ATTACK_METRICS:
            if reached := attack_estimate(attack, metric):
                yield Figure(**place, metric=metric, **reached.model_dump())


def _benchmark_summary(benchmark: PairBenchmark) -> BenchmarkSummary:
    mated = int(np.count_nonzero(benchmark.same))
    return BenchmarkSummary(
        name=benchmark.name,
        pairs=len(benchmark),
        mated=mated,
        non_mated=len(benchmark) - mated,
        images=len(benchmark.images),
        subjects=len(np.unique(benchmark.subjects)),
        folds=benchmark.folds,
    )


def _system_summary(name: str, systems: Mapping[str, CodeSystem]) -> dict[str, Any]:
    if name == FLOAT:
        return {"unit": COSINE_UNIT}
    system = systems[name]
    unit = {"unit": system.comparator.unit}
    if not system.alphabet_size:
        return unit | {"real_numbers": system.code_length}
    return unit | {"code_length": system.code_length, "alphabet_size": system.alphabet_size}


def _notes(scores: PairScores) -> Iterator[str]:
    if not has_folds(scores):
        yield "one fold only: no accuracy, since its threshold must come from other folds"
    for name, fmr in FMRS.items():
        if not resolves(scores, fmr):
            yield f"too few non-mated pairs for an FMR of {name}: its figures are left out"
