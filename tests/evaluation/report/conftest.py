"""A small evaluation of random vectors, and the data of its report."""

import dataclasses

import numpy as np
import pytest

from iom.baselines import BASELINES
from iom.config import BenchmarkConfig, CodeConfig, EvaluateConfig, ReportConfig, ScenarioConfig
from iom.data.benchmarks import load_benchmark
from iom.evaluation.evaluate import collect
from iom.evaluation.records import EmbedderSummary
from iom.evaluation.scores import EvaluationInputs
from iom.evaluation.systems import baseline_system

SIZE = 32


@pytest.fixture(scope="session")
def made_config():
    return EvaluateConfig(
        seed=4,
        benchmark=BenchmarkConfig(name="made & <odd>", source="synthetic", subjects=24, images=3),
        code=CodeConfig(code_length=64, alphabet_size=4),
        scenario=ScenarioConfig(systems=("float", "grp", "urp"), keys=3, bootstrap=20),
        report=ReportConfig(
            keys=2, replicates=20, pairs=500, victims=6, old_keys=1, worst_pairs=3, known_faces=(0, 5, 50)
        ),
    )


@pytest.fixture(scope="session")
def inputs(made_config):
    """Embeddings at random around a centre for each subject; synthetic images."""
    benchmark = load_benchmark(made_config.benchmark, seed=4)
    generator = np.random.default_rng(7)
    rows = generator.normal(size=(24, SIZE))[benchmark.subjects]
    rows = rows + 0.8 * generator.normal(size=rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    systems = {
        name: dataclasses.replace(baseline_system(name, SIZE, made_config.code, 4), name=name)
        for name in ("grp", "urp")
    }
    assert set(systems) < set(BASELINES)
    embedder = EmbedderSummary(name="made", fingerprint="0" * 64, embedding_size=SIZE)
    return EvaluationInputs(made_config, benchmark, rows.astype(np.float32), systems, embedder, full=True)


@pytest.fixture(scope="session")
def scores(inputs):
    return [entry for system in inputs.chosen for entry in inputs.scores(system)]


@pytest.fixture(scope="session")
def data(inputs):
    return collect(inputs)
