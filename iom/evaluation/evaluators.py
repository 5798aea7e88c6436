"""Evaluation of systems on a benchmark of 1:N identification, by the evaluator that the configuration names."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from iom._registry import lookup
from iom.config import EvaluateConfig
from iom.data.benchmarks.base import IdentificationBenchmark
from iom.data.benchmarks.folders import folder_identification
from iom.data.benchmarks.ijb import read_ijb_identification
from iom.data.benchmarks.megaface import read_megaface
from iom.errors import ConfigError
from iom.evaluation.blufr import BlufrEvaluator, read_blufr
from iom.evaluation.identification import DistractorEvaluator, IdentificationEvaluator
from iom.evaluation.scores import FLOAT, CodeSystem, Embeddings, float_system, scenarios_of
from iom.evaluation.systems import check_systems, load_code_systems
from iom.models.embedder import open_embedder

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
