"""Closed-set and open-set search among the templates of a benchmark of pairs, for a report.

Keys are stolen, one for all: a search under a key of each subject's own would need to know who the
probe is. The galleries are those of `split_galleries`. Intervals: the subjects of
the probes and the keys are drawn anew; the galleries stay as they are.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.data.benchmarks.folders import split_galleries
from iom.evaluation.protocols import FPIRS, keys_of, scenarios_of, search_templates
from iom.evaluation.scores import STOLEN_KEY, CodeSystem, Embeddings
from iom.metrics.bootstrap import Interval
from iom.metrics.identification import RANKS, Searches, identification_intervals

POINTS = 32
Weights = NDArray[np.float64]


def identification_sections(
    systems: Sequence[CodeSystem],
    embeddings: Embeddings,
    subjects: NDArray[np.int64],
    *,
    keys: int,
    replicates: int,
    confidence: float,
    seed: int,
    advance: Callable[[], object],
) -> Iterator[dict[str, Any]]:
    """CMC rank 1 to 10, DIR by FPIR, and the figures of both with intervals.

    Args:
        systems: `protocols.float_system` and others.
        embeddings: Unit length, `(N, D)`.
        subjects: `(N,)`, numbers from 0.
        keys: Repetitions under fresh test keys.
        replicates: Draws of the bootstrap; 0 for no intervals.
        confidence: Of the intervals.
        seed: Of test keys and draws.
        advance: Called after each system.

    Raises:
        DataError: Fewer than two subjects with two images.
    """
    galleries, probes = split_galleries(subjects)
    probe_subjects = subjects[probes]
    for system in systems:
        for scenario in scenarios_of(system, (STOLEN_KEY,)):
            repetitions = keys if scenario == STOLEN_KEY else 1
            by_key = []
            for repetition in range(repetitions):
                key = keys_of(scenario, subjects, seed=seed, repetition=repetition)
                templates = system.templates(embeddings, key)
                by_key.append(
                    [
                        search_templates(system.comparator, templates, subjects, gallery=rows, probes=probes)
                        for rows in galleries.values()
                    ]
                )
            fpirs = _fpirs(by_key[0])
            once = np.ones(len(probes))
            values = _mean([_figures(found, once, fpirs) for found in by_key])
            intervals = _intervals(by_key, probe_subjects, fpirs, replicates, confidence, seed) if replicates else None
            advance()
            yield _section(system.name, scenario, galleries, len(probes), fpirs, values, intervals)


def _fpirs(searches: Sequence[Searches]) -> NDArray[np.float64]:
    strangers = min(int(np.count_nonzero(~found.enrolled)) for found in searches)
    return np.geomspace(1 / max(strangers, 2), 1.0, POINTS)


def _figures(searches: Sequence[Searches], weights: Weights, fpirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over galleries of CMC (RANKS), DIR at `FPIRS`, DIR at the curve's FPIRs."""
    asked = np.concatenate([list(FPIRS.values()), fpirs])
    return _mean(
        [
            np.concatenate([one.cmc(weights=weights), one.identification_rates_at_fpirs(asked, weights=weights)])
            for one in searches
        ]
    )


def _intervals(
    by_key: Sequence[Sequence[Searches]],
    probe_subjects: NDArray[np.int64],
    fpirs: NDArray[np.float64],
    replicates: int,
    confidence: float,
    seed: int,
) -> NDArray[np.float64]:
    """Both edges of every figure, `(2, F)`.

    Raises:
        DataError: So few subjects that no draw has enrolled people and strangers.
    """
    cmc, rates = identification_intervals(
        by_key,
        probe_subjects,
        points=[(float(fpir), 1) for fpir in (*FPIRS.values(), *fpirs)],
        replicates=replicates,
        confidence=confidence,
        seed=seed,
    )
    return np.asarray([*cmc, *rates], np.float64).T


def _mean(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.asarray(np.mean(np.stack(values), axis=0))


def _section(
    system: str,
    scenario: str,
    galleries: dict[str, NDArray[np.int64]],
    probes: int,
    fpirs: NDArray[np.float64],
    values: NDArray[np.float64],
    intervals: NDArray[np.float64] | None,
) -> dict[str, Any]:
    edges = [None] * len(values) if intervals is None else [Interval(*e) for e in intervals.T]
    names = [f"cmc_rank_{rank}" for rank in range(1, RANKS + 1)]
    names += [f"dir_at_fpir_{name}_rank_1" for name in FPIRS]
    figures = {}
    for name, value, edge in zip(names, values, edges, strict=False):
        fpir = FPIRS.get(name.removeprefix("dir_at_fpir_").removesuffix("_rank_1"))
        if fpir is None or fpir >= fpirs[0]:
            figures[name] = {
                "value": float(value),
                "low": None if edge is None else float(edge.low),
                "high": None if edge is None else float(edge.high),
            }
    curve = slice(len(names), None)
    section: dict[str, Any] = {
        "system": system,
        "scenario": scenario,
        "gallery_sizes": [len(rows) for rows in galleries.values()],
        "probes": probes,
        "figures": figures,
        "fpir": fpirs.tolist(),
        "dir": values[curve].tolist(),
    }
    if intervals is not None:
        section["low"], section["high"] = intervals[0][curve].tolist(), intervals[1][curve].tolist()
    return section
