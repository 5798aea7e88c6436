"""Our figures for scores of others, and our scores for their programs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from iom.data.benchmarks.base import PairBenchmark
from iom.errors import DataError
from iom.evaluation.protocols import identification_figures
from iom.evaluation.score_files import ScoreTable, write_scores
from iom.evaluation.scores import PairScores, SystemScores
from iom.metrics.verification import error_curve

FMRS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
SUFFIX = {"four": ".txt", "five": ".txt", "csv": ".csv"}


def table_figures(table: ScoreTable, *, identification: bool = False) -> Iterator[tuple[str, float]]:
    """EER, AUC, FNMR at each FMR that the comparisons resolve; CMC and open-set rates.

    Args:
        table: The comparisons.
        identification: Also take them as searches: needs names of references, and each probe once with each reference.

    Raises:
        DataError: A kind of comparison is missing, or searches are incomplete.
    """
    mated, non_mated = table.by_kind()
    curve = error_curve(mated, non_mated)
    yield "mated", len(mated)
    yield "non_mated", len(non_mated)
    yield "eer", curve.equal_error_rate()
    yield "auc", curve.area_under_curve()
    for fmr in FMRS:
        if fmr * len(non_mated) >= 1:
            yield f"fnmr_at_fmr_{fmr:.0e}".replace("e-0", "e-"), curve.fnmr_at_fmr(fmr)
    if identification:
        yield from identification_figures(table.searches())


def score_table(benchmark: PairBenchmark, scores: PairScores) -> ScoreTable:
    """A benchmark's pairs as comparisons of a reference (left) with a probe (right).

    Raises:
        DataError: Pairs whose label contradicts the subjects, which such a file cannot express.
    """
    names = np.array(_names(benchmark))
    subjects = benchmark.subjects
    left, right = subjects[benchmark.left], subjects[benchmark.right]
    wrong = np.flatnonzero((left == right) != benchmark.same)
    if len(wrong):
        raise DataError(
            f"{benchmark.name}: {len(wrong)} pairs have a label that contradicts their subjects, "
            f"first pair {wrong[0] + 1}; a score file cannot say that"
        )
    return ScoreTable(
        claimed=left.astype(str),
        real=right.astype(str),
        probe=names[benchmark.right],
        distances=scores.distances.astype(np.float64),
        reference=names[benchmark.left],
    )


def write_system_scores(
    benchmark: PairBenchmark, systems: Sequence[SystemScores], folder: Path, form: str
) -> list[Path]:
    """One file for each system, scenario and key: `<system>-<scenario>-<key>`."""
    written = []
    for system in systems:
        for number, scores in enumerate(system.by_key):
            path = folder / f"{system.system}-{system.scenario}-{number}{SUFFIX[form]}"
            write_scores(path, score_table(benchmark, scores), form)
            written.append(path)
    return written


def _names(benchmark: PairBenchmark) -> list[str]:
    if benchmark.pooling is not None or not isinstance(benchmark.images, tuple):
        return [f"{benchmark.name}/{row}" for row in range(benchmark.templates)]
    return ["/".join(path.parts[-2:]).replace(" ", "_") for path in benchmark.images]
