"""The 1:N evaluation of a configuration: load, embed, search, figures for every system."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from iom._registry import lookup
from iom.config.schema import EvaluateConfig
from iom.data.benchmarks.base import IdentificationBenchmark
from iom.data.benchmarks.folders import folder_identification
from iom.data.benchmarks.ijb import read_ijb_identification
from iom.data.benchmarks.megaface import read_megaface
from iom.errors import ConfigError
from iom.evaluation.blufr import BlufrEvaluator
from iom.evaluation.blufr_protocol import read_blufr
from iom.evaluation.identification import Figure, distractor_figures, search_figures
from iom.evaluation.protocols import float_system, keys_of, scenarios_of
from iom.evaluation.scores import FLOAT, OWN_KEY, STOLEN_KEY, CodeSystem, Embeddings
from iom.evaluation.systems import check_systems, load_code_systems
from iom.models.embedder import open_embedder

Embed = Callable[[Sequence[Path]], Embeddings]
Protocol = Callable[[EvaluateConfig, Embed, Callable[[], Sequence[CodeSystem]]], Iterator[Figure]]
"""Configuration, what embeds files, and what makes the systems (once the lists are read)."""


def identify(config: EvaluateConfig, *, progress: bool = False) -> Iterator[Figure]:
    """Figures of the protocol that `config.benchmark.source` names, for every system.

    Args:
        config: What to evaluate.
        progress: Show progress bars.

    Raises:
        ConfigError: An unknown protocol or system, or a path that the protocol needs is not set.
        DataError: Lists or images are missing, damaged or inconsistent.
        WeightsError: Embedder or hasher are missing, damaged, or do not belong together.
    """
    check_systems(config)
    protocol = lookup(PROTOCOLS, config.benchmark.source, "identification protocol")
    embedder = open_embedder(config.embedder)

    def systems() -> Sequence[CodeSystem]:
        named = load_code_systems(config, embedder)
        named[FLOAT] = float_system(embedder.embedding_size)
        return [named[name] for name in config.scenario.systems]

    return protocol(config, lambda files: embedder.embed_files(files, progress=progress), systems)


def _searches(read: Callable[[EvaluateConfig], IdentificationBenchmark]) -> Protocol:
    def run(config: EvaluateConfig, embed: Embed, systems: Callable[[], Sequence[CodeSystem]]) -> Iterator[Figure]:
        benchmark = read(config)
        return search_figures(
            benchmark,
            embed(benchmark.images),
            systems(),
            keys=config.scenario.keys,
            seed=config.seed,
            pooling=config.benchmark.pooling,
        )

    return run


def _megaface(config: EvaluateConfig, embed: Embed, systems: Callable[[], Sequence[CodeSystem]]) -> Iterator[Figure]:
    paths = _paths(config, "path", "distractors", "root", "distractor_root")
    benchmark = read_megaface(*paths, name=config.benchmark.name)
    return distractor_figures(
        benchmark, embed(benchmark.images), systems(), keys=config.scenario.keys, seed=config.seed
    )


def _blufr(config: EvaluateConfig, embed: Embed, systems: Callable[[], Sequence[CodeSystem]]) -> Iterator[Figure]:
    """One test key, since the protocol's own spread is that over trials."""
    protocol = read_blufr(*_paths(config, "path", "root"))
    rows = embed(protocol.images)
    for system in systems():
        for scenario in scenarios_of(system, (OWN_KEY, STOLEN_KEY)):
            keys = keys_of(scenario, protocol.subjects, seed=config.seed)
            templates = system.templates(rows, keys)
            for name, value in BlufrEvaluator(protocol, templates, system.comparator).run():
                yield system.name, scenario, name, value


def _ijb(config: EvaluateConfig) -> IdentificationBenchmark:
    return read_ijb_identification(
        *_paths(config, "path", "root"), name=config.benchmark.name, align_into=config.benchmark.align_into
    )


def _folder(config: EvaluateConfig) -> IdentificationBenchmark:
    return folder_identification(
        *_paths(config, "root"), name=config.benchmark.name, gallery_images=config.benchmark.gallery_images
    )


def _paths(config: EvaluateConfig, *fields: str) -> tuple[Path, ...]:
    empty = [field for field in fields if not getattr(config.benchmark, field)]
    if empty:
        raise ConfigError(f"benchmark: source '{config.benchmark.source}' needs benchmark.{empty[0]}")
    return tuple(Path(getattr(config.benchmark, field)) for field in fields)


PROTOCOLS: dict[str, Protocol] = {
    "folder": _searches(_folder),
    "ijb": _searches(_ijb),
    "megaface": _megaface,
    "blufr": _blufr,
}
"""Identification protocols, by the name that `benchmark.source` gives."""
