"""Evaluation of systems on a benchmark of pairs, as `iom evaluate` runs it, or of 1:N identification."""

import collections
import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, get_args

import numpy as np
import pydantic

from iom._environment import environment
from iom._progress import tqdm
from iom._registry import lookup
from iom.attacks import ATTACKS
from iom.config import EvaluateConfig
from iom.data.benchmarks import SOURCES, BenchmarkSource, load_benchmark
from iom.data.benchmarks.base import PairBenchmark
from iom.errors import DataError
from iom.evaluation.attacks import AttackEvaluator, attacked_system
from iom.evaluation.identification import BlufrEvaluator, DistractorEvaluator, IdentificationEvaluator, SearchEvaluator
from iom.evaluation.pairs import LinkabilityEvaluator, PairEvaluator, names_subjects
from iom.evaluation.records import BenchmarkSummary, EmbedderSummary, Figure, KeySpread, Record, ReportData, Sections
from iom.evaluation.report.text import summary
from iom.evaluation.scores import FLOAT, REPORT_FMRS, CodeSystem, EvaluationInputs, Evaluator, resolved_fmrs
from iom.evaluation.stolen_store import StolenStoreEvaluator
from iom.evaluation.systems import check_systems, load_code_systems
from iom.models.embedder import embed_benchmark, open_embedder

EVALUATORS: dict[str, Callable[[EvaluationInputs], Evaluator]] = {
    "pairs": PairEvaluator,
    "identification": SearchEvaluator,
    "linkability": LinkabilityEvaluator,
    "attacks": AttackEvaluator,
    "stolen_store": StolenStoreEvaluator,
    "folder": IdentificationEvaluator,
    "ijb": IdentificationEvaluator,
    "megaface": DistractorEvaluator,
    "blufr": BlufrEvaluator,
}
"""Evaluators of pairs and those that `config.report` asks for, then those of identification, by `benchmark.source`."""
SECTIONS = ("identification", "linkability", "attacks", "stolen_store")
"""Those that `config.report` asks for."""
PROTOCOLS = {
    "folder": BenchmarkSource("iom.data.benchmarks.folders:folder_identification", ("root",), ("gallery_images",)),
    "ijb": BenchmarkSource("iom.data.benchmarks.identification:read_ijb_identification", options=("align_into",)),
    "megaface": BenchmarkSource(
        "iom.data.benchmarks.identification:read_megaface", ("path", "distractors", "root", "distractor_root")
    ),
    "blufr": BenchmarkSource("iom.data.benchmarks.identification:read_blufr"),
}
"""Readers of identification protocols, by the name that `benchmark.source` gives."""


def evaluate(config: EvaluateConfig, *, full: bool = False, progress: bool = False) -> ReportData:
    """Evaluate every system that `config.scenario.systems` names.

    Args:
        config: What to evaluate.
        full: Also compute what `config.report` asks for: identification, unlinkability, attacks.
        progress: Show progress bars.

    Raises:
        ConfigError: An unknown system, attack, source or setting.
        DataError: The benchmark is missing, damaged, inconsistent, or too small for a section.
        WeightsError: Embedder or hasher are missing, damaged, or do not belong together.
    """
    return collect(prepare(config, full=full, progress=progress), progress=progress)


def identify(config: EvaluateConfig, *, progress: bool = False) -> Iterator[Figure]:
    """Figures of the identification protocol that `config.benchmark.source` names, for every system."""
    lookup(PROTOCOLS, config.benchmark.source, "identification protocol")
    inputs = prepare(config, sources=PROTOCOLS, progress=progress)
    for record in run_evaluators([config.benchmark.source], inputs, progress=progress):
        if isinstance(record, Figure):
            yield record


def prepare(
    config: EvaluateConfig,
    *,
    full: bool = False,
    sources: Mapping[str, BenchmarkSource] = SOURCES,
    progress: bool = False,
) -> EvaluationInputs:
    """Load everything and embed the images; all inputs are checked before the first image is embedded."""
    check_systems(config)
    for name in config.report.attack_names:
        lookup(ATTACKS, name, "attack")
    benchmark = load_benchmark(config.benchmark, seed=config.seed, sources=sources)
    embedder = open_embedder(config.embedder)
    systems = load_code_systems(config, embedder)
    for system in systems.values() if full and config.report.attacks else ():
        attacked_system(system, embedder.embedding_size)
    if isinstance(benchmark, PairBenchmark):
        rows = embed_benchmark(embedder, benchmark, progress=progress)
    else:
        rows = embedder.embed_files(benchmark.images, progress=progress)
    about = EmbedderSummary(
        name=embedder.name, fingerprint=embedder.fingerprint, embedding_size=embedder.embedding_size
    )
    return EvaluationInputs(config, benchmark, rows, systems, about, full)


def run_evaluators(names: Iterable[str], inputs: EvaluationInputs, *, progress: bool = False) -> Iterator[Record]:
    """Results of evaluators, keys of `EVALUATORS`, for every system."""
    for name, evaluator in [(name, EVALUATORS[name](inputs)) for name in names]:
        for system in tqdm(inputs.chosen, desc=name, unit="system", disable=not progress):
            yield from evaluator.run(system)


def collect(inputs: EvaluationInputs, *, progress: bool = False) -> ReportData:
    """Compute the data of a report."""
    config, benchmark = inputs.config, inputs.benchmark
    names, notes = ["pairs"], list(_notes(benchmark))
    if inputs.full:
        named = names_subjects(benchmark, config.benchmark.source)
        chosen = config.report if config.report.attacks else config.report.replace(stolen_store=False)
        asked = [name for name in SECTIONS if getattr(chosen, name)]
        names += [name for name in asked if named or name == "linkability"]
        if len(names) <= len(asked):
            notes.append("the benchmark does not name the subjects of its images: no identification and no attacks")
    found: dict[type[Record], list[Any]] = collections.defaultdict(list)
    try:
        for record in run_evaluators(names, inputs, progress=progress):
            found[type(record)].append(record)
        data = ReportData(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seed=config.seed,
            benchmark=_benchmark_summary(benchmark),
            embedder=inputs.embedder,
            systems={system.name: _system_summary(system) for system in inputs.chosen},
            rows=found[Figure],
            per_key=found[KeySpread],
            notes=notes,
            config=config.model_dump(mode="json"),
            environment=environment(),
            # Each topic is a list of records of one kind.
            sections=Sections(**{t: found[get_args(of.annotation)[0]] for t, of in Sections.model_fields.items()}),
        )
    except pydantic.ValidationError as error:
        raise DataError(f"report: a figure is not a finite number ({error.errors()[0]['loc']})") from error
    return data.model_copy(update={"summary": summary(data)}) if inputs.full else data


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


def _system_summary(system: CodeSystem) -> dict[str, Any]:
    unit = {"unit": system.comparator.unit}
    if system.alphabet_size:
        return unit | {"code_length": system.code_length, "alphabet_size": system.alphabet_size}
    return unit if system.name == FLOAT else unit | {"real_numbers": system.code_length}


def _notes(benchmark: PairBenchmark) -> Iterator[str]:
    if benchmark.folds < 2:
        yield "one fold only: no accuracy, since its threshold must come from other folds"
    resolved = resolved_fmrs(int(np.count_nonzero(~benchmark.same)))
    for name in REPORT_FMRS:
        if name not in resolved:
            yield f"too few non-mated pairs for an FMR of {name}: its figures are left out"
