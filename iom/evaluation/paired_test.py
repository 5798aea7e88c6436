"""From embeddings to a report: every system and scenario on one benchmark."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from iom.config.schema import EvaluateConfig
from iom.data.benchmarks.base import PairBenchmark
from iom.evaluation.evaluators import FMRS, GIVEN, RATES, figures, has_folds, resolves
from iom.evaluation.report.result_files import Report, Row
from iom.evaluation.scores import COSINE_UNIT, FLOAT, CodeSystem, PairScores, SystemScores, code_scores, float_scores
from iom.metrics.bootstrap import Interval, PairSubjects, Statistic, bootstrap_intervals


def report_on(
    config: EvaluateConfig,
    benchmark: PairBenchmark,
    embeddings: NDArray[np.float32],
    systems: Mapping[str, CodeSystem],
    *,
    embedder: dict[str, Any],
    progress: bool = False,
) -> Report:
    """Evaluate every system that `config.scenario.systems` names.

    All systems see the same embeddings, the same pairs, the same test keys and the same bootstrap draws.

    Args:
        config: What to evaluate.
        benchmark: The pairs.
        embeddings: Unit-length, `(N, D)` for the N images of the benchmark.
        systems: The code systems by name; the float embedding comes by its name alone.
        embedder: What the report says about the embedder.
        progress: Show a progress bar.
    """
    names = config.scenario.systems
    keyed = len(config.scenario.scenarios)
    scenarios = sum(1 if name == FLOAT else keyed for name in names)
    scores: list[SystemScores] = []
    rows: list[Row] = []
    with tqdm(total=scenarios, desc="scoring", unit="scenario", disable=not progress) as bar:
        for name in names:
            for entry in _scores_of(name, config, benchmark, embeddings, systems):
                scores.append(entry)
                rows += _rows(entry, config, benchmark)
                bar.update()
    return Report(
        config=config,
        benchmark=_benchmark_summary(benchmark),
        embedder=embedder,
        systems={name: _system_summary(name, systems) for name in names},
        rows=tuple(rows),
        scores=tuple(scores),
        notes=tuple(_notes(scores[0].by_key[0])),
    )


def _scores_of(
    name: str,
    config: EvaluateConfig,
    benchmark: PairBenchmark,
    embeddings: NDArray[np.float32],
    systems: Mapping[str, CodeSystem],
) -> Iterator[SystemScores]:
    if name == FLOAT:
        yield float_scores(benchmark, embeddings)
        return
    yield from code_scores(
        systems[name],
        benchmark,
        embeddings,
        keys=config.scenario.keys,
        seed=config.seed,
        scenarios=config.scenario.scenarios,
    )


def _rows(scores: SystemScores, config: EvaluateConfig, benchmark: PairBenchmark) -> Iterator[Row]:
    by_key = [dict(figures(entry)) for entry in scores.by_key]
    intervals = _intervals(scores, config, benchmark)
    for metric in by_key[0]:
        values = tuple(entry[metric] for entry in by_key)
        interval = None if metric in GIVEN else intervals.get(metric)
        yield Row(
            system=scores.system,
            scenario=scores.scenario,
            protocol=benchmark.name,
            metric=metric,
            value=float(np.mean(values)),
            low=interval.low if interval else None,
            high=interval.high if interval else None,
            by_key=values,
            std=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        )


def _intervals(scores: SystemScores, config: EvaluateConfig, benchmark: PairBenchmark) -> dict[str, Interval]:
    if not config.scenario.bootstrap:
        return {}
    return bootstrap_intervals(
        [_statistic(entry) for entry in scores.by_key],
        PairSubjects(benchmark.subjects[benchmark.left], benchmark.subjects[benchmark.right], benchmark.same),
        replicates=config.scenario.bootstrap,
        confidence=config.scenario.confidence,
        seed=config.seed,
        rates=RATES,
    )


def _statistic(scores: PairScores) -> Statistic:
    return lambda weights: dict(figures(scores, weights))


def _benchmark_summary(benchmark: PairBenchmark) -> dict[str, Any]:
    mated = int(np.count_nonzero(benchmark.same))
    return {
        "name": benchmark.name,
        "pairs": len(benchmark),
        "mated": mated,
        "non_mated": len(benchmark) - mated,
        "images": len(benchmark.images),
        "subjects": len(np.unique(benchmark.subjects)),
        "folds": benchmark.folds,
    }


def _system_summary(name: str, systems: Mapping[str, CodeSystem]) -> dict[str, Any]:
    if name == FLOAT:
        return {"unit": COSINE_UNIT}
    system = systems[name]
    summary: dict[str, Any] = {"unit": system.comparator.unit}
    if not system.alphabet_size:
        return summary | {"real_numbers": system.code_length}
    return summary | {"code_length": system.code_length, "alphabet_size": system.alphabet_size}


def _notes(scores: PairScores) -> Iterator[str]:
    if not has_folds(scores):
        yield "one fold only: no accuracy, since its threshold must come from other folds"
    for name, fmr in FMRS.items():
        if not resolves(scores, fmr):
            yield f"too few non-mated pairs for an FMR of {name}: its figures are left out"
