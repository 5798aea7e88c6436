"""A small benchmark whose answers are known, without images and models."""

from pathlib import Path

import numpy as np
import pytest

from iom.data.benchmarks.base import PairBenchmark
from iom.evaluation.scores import CodeSystem

SIZE = 32


@pytest.fixture
def benchmark_and_embeddings():
    """40 subjects x 3 images in 4 folds: all mated pairs, and non-mated ones within the fold."""
    generator = np.random.default_rng(7)
    subjects = np.repeat(np.arange(40), 3)
    embeddings = generator.normal(size=(40, SIZE))[subjects] + 0.9 * generator.normal(size=(120, SIZE))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    left, right = np.triu_indices(120, k=1)
    fold = subjects // 10
    kept = fold[left] == fold[right]
    left, right = left[kept], right[kept]
    benchmark = PairBenchmark(
        name="made",
        images=tuple(Path(f"{i}.png") for i in range(120)),
        left=left,
        right=right,
        same=subjects[left] == subjects[right],
        fold=fold[left],
        subjects=subjects,
    )
    return benchmark, embeddings.astype(np.float32)


@pytest.fixture
def index_of_max():
    """A keyed Index-of-Max system: permutation by the key, one fixed random projection."""
    projection = np.random.default_rng(3).normal(size=(SIZE, 64 * 4)).astype(np.float32)

    def hash_embeddings(embeddings, keys):
        keys = keys if isinstance(keys, list) else [keys] * len(embeddings)
        rows = [row[key.permutation(SIZE)] for row, key in zip(embeddings, keys, strict=True)]
        return (np.stack(rows) @ projection).reshape(-1, 64, 4).argmax(axis=2)

    return CodeSystem("grp", 64, 4, hash_embeddings)
