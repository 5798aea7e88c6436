"""Evaluation of systems on a benchmark of pairs, as `iom evaluate` runs it, or of 1:N identification."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from iom._registry import lookup
from iom.config import EvaluateConfig
from iom.data.benchmarks import load_benchmark
from iom.data.benchmarks.base import IdentificationBenchmark, PairBenchmark
from iom.data.benchmarks.folders import folder_identification
from iom.data.benchmarks.ijb import read_ijb_identification
from iom.data.benchmarks.megaface import read_megaface
from iom.errors import ConfigError
from iom.evaluation.blufr import BlufrEvaluator, read_blufr
from iom.evaluation.identification import DistractorEvaluator, IdentificationEvaluator
from iom.evaluation.report.collect import EvaluationInputs, collect
from iom.evaluation.report.data import EmbedderSummary, ReportData
from iom.evaluation.report.sections import check_attacks
from iom.evaluation.scores import FLOAT, CodeSystem, Embeddings, float_system, scenarios_of
from iom.evaluation.systems import check_systems, load_code_systems
from iom.models.embedder import Embedder, open_embedder

_IMAGES_AT_A_TIME = 256


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
    return collect(config, prepare(config, full=full, progress=progress), full=full, progress=progress)


def prepare(config: EvaluateConfig, *, full: bool = False, progress: bool = False) -> EvaluationInputs:
    """Load everything and embed the images; all inputs are checked before the first image is embedded."""
    check_systems(config)
    if full:
        check_attacks(config)
    benchmark = load_benchmark(config.benchmark, seed=config.seed)
    embedder = open_embedder(config.embedder)
    systems = load_code_systems(config, embedder)
    return EvaluationInputs(
        benchmark,
        embed_benchmark(embedder, benchmark, progress=progress),
        systems,
        EmbedderSummary(name=embedder.name, fingerprint=embedder.fingerprint, embedding_size=embedder.embedding_size),
    )


def embed_benchmark(embedder: Embedder, benchmark: PairBenchmark, *, progress: bool = False) -> NDArray[np.float32]:
    """Embeddings of what a benchmark compares, `(N, D)`, unit length: images, or groups of them."""
    rows = _embed_images(embedder, benchmark, progress=progress)
    return rows if benchmark.pooling is None else benchmark.pooling.pooled(rows)


def _embed_images(embedder: Embedder, benchmark: PairBenchmark, *, progress: bool) -> NDArray[np.float32]:
    images = benchmark.images
    if isinstance(images, tuple):
        return embedder.embed_files(images, progress=progress)
    parts = []
    with tqdm(total=len(images), desc=f"embedding ({embedder.name})", unit="image", disable=not progress) as bar:
        for start in range(0, len(images), _IMAGES_AT_A_TIME):
            parts.append(embedder.embed(images[start : start + _IMAGES_AT_A_TIME]))
            bar.update(len(parts[-1]))
    return np.concatenate(parts)


Embed = Callable[[Sequence[Path]], Embeddings]


class SystemFigure(NamedTuple):
    """One figure of one system in one scenario (`none`, `own_key`, `stolen_key`), the mean over keys.

    `system` is `float`, a baseline or a trained hasher; the names of the ends of an interval end in `_low` and `_high`.
    """

    system: str
    scenario: str
    name: str
    value: float


class Evaluator(Protocol):
    """Evaluation of systems, in its `scenarios` if they have a key, on one benchmark, whose embeddings it holds."""

    scenarios: tuple[str, ...]

    def run(self, system: CodeSystem, scenario: str) -> Iterator[tuple[str, float]]:
        """Name and value of each figure of a system in a scenario."""
        ...


def run_evaluator(evaluator: Evaluator, systems: Iterable[CodeSystem]) -> Iterator[SystemFigure]:
    """Figures of all systems in all scenarios of an evaluator."""
    for system in systems:
        for scenario in scenarios_of(system, evaluator.scenarios):
            for name, value in evaluator.run(system, scenario):
                yield SystemFigure(system.name, scenario, name, value)


def identify(config: EvaluateConfig, *, progress: bool = False) -> Iterator[SystemFigure]:
    """Figures of the evaluator that `config.benchmark.source` names, for every system."""
    check_systems(config)
    make = lookup(EVALUATORS, config.benchmark.source, "identification protocol")
    embedder = open_embedder(config.embedder)
    evaluator = make(config, lambda files: embedder.embed_files(files, progress=progress))
    named = load_code_systems(config, embedder) | {FLOAT: float_system(embedder.embedding_size)}
    return run_evaluator(evaluator, [named[name] for name in config.scenario.systems])


def _identification(benchmark: IdentificationBenchmark, config: EvaluateConfig, embed: Embed) -> Evaluator:
    return IdentificationEvaluator(
        benchmark,
        embed(benchmark.images),
        keys=config.scenario.keys,
        seed=config.seed,
        pooling=config.benchmark.pooling,
    )


def _folder(config: EvaluateConfig, embed: Embed) -> Evaluator:
    benchmark = folder_identification(
        *_paths(config, "root"), name=config.benchmark.name, gallery_images=config.benchmark.gallery_images
    )
    return _identification(benchmark, config, embed)


def _ijb(config: EvaluateConfig, embed: Embed) -> Evaluator:
    benchmark = read_ijb_identification(
        *_paths(config, "path", "root"), name=config.benchmark.name, align_into=config.benchmark.align_into
    )
    return _identification(benchmark, config, embed)


def _megaface(config: EvaluateConfig, embed: Embed) -> Evaluator:
    paths = _paths(config, "path", "distractors", "root", "distractor_root")
    benchmark = read_megaface(*paths, name=config.benchmark.name)
    return DistractorEvaluator(benchmark, embed(benchmark.images), keys=config.scenario.keys, seed=config.seed)


def _blufr(config: EvaluateConfig, embed: Embed) -> Evaluator:
    protocol = read_blufr(*_paths(config, "path", "root"))
    return BlufrEvaluator(protocol, embed(protocol.images), seed=config.seed)


def _paths(config: EvaluateConfig, *fields: str) -> tuple[Path, ...]:
    empty = [field for field in fields if not getattr(config.benchmark, field)]
    if empty:
        raise ConfigError(f"benchmark: source '{config.benchmark.source}' needs benchmark.{empty[0]}")
    return tuple(Path(getattr(config.benchmark, field)) for field in fields)


EVALUATORS: dict[str, Callable[[EvaluateConfig, Embed], Evaluator]] = {
    "folder": _folder,
    "ijb": _ijb,
    "megaface": _megaface,
    "blufr": _blufr,
}
"""Makers of evaluators, by the name that `benchmark.source` gives."""
