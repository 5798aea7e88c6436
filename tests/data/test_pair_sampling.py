import numpy as np
import pytest

from iom.config import BenchmarkConfig
from iom.data.benchmarks import load_benchmark
from iom.data.benchmarks.folders import sample_pairs, sample_subjects
from iom.errors import ConfigError, DataError
from iom.synthetic import write_folder


def test_all_mated_pairs_as_many_others_and_no_subject_in_two_folds():
    labels = np.repeat(np.arange(25), [3, 2, 4, 2, 2] * 5)
    left, right, same, fold = sample_pairs(labels, np.random.default_rng(0))
    mated = {
        (i, j) for i in range(len(labels)) for j in range(i + 1, len(labels))
        if labels[i] == labels[j]
    }  # fmt: skip
    assert set(zip(left[same].tolist(), right[same].tolist(), strict=True)) == mated
    np.testing.assert_array_equal(same, labels[left] == labels[right])
    folds_of = [set(fold[(labels[left] == s) | (labels[right] == s)]) for s in range(25)]
    assert all(len(folds) == 1 for folds in folds_of)
    for number in range(10):
        assert (same[fold == number]).sum() == (~same[fold == number]).sum()


def test_whole_subjects_are_drawn():
    labels = np.repeat(np.arange(10), 3)
    rows = sample_subjects(labels, np.random.default_rng(0), max_images=20)
    assert len(rows) == 18
    assert set(np.bincount(labels[rows], minlength=10)) == {0, 3}
    assert len(sample_subjects(labels, np.random.default_rng(0), max_images=30)) == 30


def test_a_folder_of_subjects_is_a_benchmark(tmp_path):
    write_folder(tmp_path / "faces", 6, 3, seed=1)
    config = BenchmarkConfig(name="own", source="folder", root=str(tmp_path / "faces"))
    benchmark = load_benchmark(config, seed=1)
    assert (len(benchmark), int(benchmark.same.sum()), benchmark.folds) == (36, 18, 3)
    names = [path.parent.name for path in benchmark.images]
    assert [names[i] == names[j] for i, j in zip(benchmark.left, benchmark.right, strict=True)] == (
        benchmark.same.tolist()
    )
    again = load_benchmark(config, seed=1)
    np.testing.assert_array_equal(benchmark.right, again.right)


def test_a_folder_must_be_named_and_there():
    with pytest.raises(ConfigError, match=r"needs benchmark\.root"):
        load_benchmark(BenchmarkConfig(source="folder"), seed=1)
    with pytest.raises(DataError, match="absent"):
        load_benchmark(BenchmarkConfig(source="folder", root="absent"), seed=1)
