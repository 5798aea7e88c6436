"""The whole evaluation that `iom evaluate` runs: load, embed, score, report."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from iom.config.schema import EvaluateConfig
from iom.data.benchmarks import load_benchmark
from iom.data.benchmarks.base import PairBenchmark
from iom.evaluation.paired_test import report_on
from iom.evaluation.report.result_files import Report
from iom.evaluation.scores import CodeSystem
from iom.evaluation.systems import check_systems, load_code_systems
from iom.models.embedder import Embedder, open_embedder

_IMAGES_AT_A_TIME = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """What an evaluation is computed from.

    Attributes:
        benchmark: The pairs.
        embeddings: Of what it compares, `(N, D)`, unit length.
        systems: The code systems by name.
        embedder: What a report says about the embedder.
    """

    benchmark: PairBenchmark
    embeddings: NDArray[np.float32]
    systems: dict[str, CodeSystem]
    embedder: dict[str, Any]


def evaluate(config: EvaluateConfig, *, progress: bool = False) -> Report:
    """Evaluate every system that `config.scenario.systems` names.

    Args:
        config: What to evaluate.
        progress: Show progress bars.

    Raises:
        ConfigError: An unknown system, source or setting.
        DataError: The benchmark is missing, damaged or inconsistent.
        WeightsError: Embedder or hasher are missing, damaged, or do not belong together.
    """
    return pair_report(config, prepare(config, progress=progress), progress=progress)


def prepare(config: EvaluateConfig, *, progress: bool = False) -> Prepared:
    """Load everything and embed the images.

    What can be wrong with the configuration, the weights and the benchmark is found before the first image is embedded.
    Raises as `evaluate` does.
    """
    check_systems(config)
    benchmark = load_benchmark(config.benchmark, seed=config.seed)
    embedder = open_embedder(config.embedder)
    systems = load_code_systems(config, embedder)
    return Prepared(
        benchmark,
        embed_benchmark(embedder, benchmark, progress=progress),
        systems,
        {"name": embedder.name, "fingerprint": embedder.fingerprint, "embedding_size": embedder.embedding_size},
    )


def pair_report(config: EvaluateConfig, prepared: Prepared, *, progress: bool = False) -> Report:
    """The figures of all systems on the benchmark's pairs."""
    return report_on(
        config, prepared.benchmark, prepared.embeddings, prepared.systems, embedder=prepared.embedder, progress=progress
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
