"""Evaluation of systems on a benchmark, as `iom evaluate` runs it: load, embed, score, collect the report."""

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from iom.config import EvaluateConfig
from iom.data.benchmarks import load_benchmark
from iom.data.benchmarks.base import PairBenchmark
from iom.evaluation.report.collect import EvaluationInputs, collect
from iom.evaluation.report.data import EmbedderSummary, ReportData
from iom.evaluation.report.sections import check_attacks
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
