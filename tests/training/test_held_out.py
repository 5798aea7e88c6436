from pathlib import Path

import numpy as np
import pytest

from iom.baselines import BASELINES
from iom.config.hashing import HasherConfig
from iom.data.folders import FaceFolder
from iom.errors import DataError
from iom.training import held_out
from iom.training.held_out import HeldOutPairs, held_out_keys

SIZE = 32


def folder(subjects, images):
    paths = tuple(f"{name}/{i}.png" for name in subjects for i in range(images))
    labels = np.repeat(np.arange(len(subjects)), images)
    return FaceFolder(Path("faces"), paths, labels, tuple(subjects))


@pytest.fixture
def people():
    return folder([f"F{i // 2}_M{i % 2}" for i in range(12)], 4)


@pytest.fixture
def embeddings(people):
    stream = np.random.default_rng(0)
    centres = stream.normal(size=(12, SIZE))
    rows = centres[people.labels] + 0.9 * stream.normal(size=(len(people), SIZE))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("float32")


@pytest.fixture
def baseline():
    code = HasherConfig(code_length=64, alphabet_size=4, learned_layer=False, projection="gaussian")
    return BASELINES["grp"](SIZE, code, 0)


def test_pairs_by_hand(people):
    pairs = HeldOutPairs.of(people, group_separator="_", seed=1)
    expected = {}
    for i in range(len(people)):
        for j in range(i + 1, len(people)):
            names = [people.subjects[people.labels[row]] for row in (i, j)]
            if names[0] == names[1] or names[0][:2] != names[1][:2]:
                expected[i, j] = names[0] == names[1]
    found = zip(pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist(), strict=True)
    assert {(i, j): same for i, j, same in found} == expected
    assert pairs.subjects == 12
    np.testing.assert_array_equal(pairs.labels, people.labels[pairs.images])


def test_without_a_separator_kin_are_non_mated(people):
    pairs = HeldOutPairs.of(people, group_separator="", seed=1)
    assert len(pairs.same) == 48 * 47 // 2


def test_rates_by_hand(people, embeddings, baseline):
    pairs = HeldOutPairs.of(people, group_separator="_", seed=1)
    keys = held_out_keys(1, "keys", 3)
    assert len({key.secret for key in keys}) == 3
    rates = []
    for key, distances in zip(keys, pairs.code_distances(embeddings, baseline.hash, 4, keys=keys), strict=True):
        codes = baseline.hash(embeddings, key)
        by_hand = (codes[pairs.left] != codes[pairs.right]).sum(1)
        np.testing.assert_array_equal(distances, by_hand)
        mated, others = by_hand[pairs.same], by_hand[~pairs.same]
        points = [((others <= t).mean(), (mated > t).mean()) for t in range(65)]
        rates.append(np.mean(min(points, key=lambda point: abs(point[0] - point[1]))))
    found = pairs.equal_error_rate(embeddings, baseline.hash, 4, keys=keys)
    assert abs(found - np.mean(rates)) < 0.01


def test_an_fmr_that_cannot_be_seen(people):
    pairs = HeldOutPairs.of(people, group_separator="_", seed=1)
    pairs.check_resolution(1e-2)
    with pytest.raises(DataError, match=r"1e-06 cannot be seen in 960 non-mated"):
        pairs.check_resolution(1e-6)


@pytest.mark.parametrize(("subjects", "images"), [(["a"], 4), (["a", "b"], 1)])
def test_both_kinds_of_pairs_are_needed(subjects, images):
    with pytest.raises(DataError, match="both are needed"):
        HeldOutPairs.of(folder(subjects, images), group_separator="", seed=1)


def test_families_alone_leave_no_non_mated_pair():
    with pytest.raises(DataError, match="0 non-mated"):
        HeldOutPairs.of(folder(["F1_a", "F1_b"], 3), group_separator="_", seed=1)


def test_a_large_part_is_thinned_by_whole_subjects(people, monkeypatch):
    monkeypatch.setattr(held_out, "LARGEST", 22)
    pairs = HeldOutPairs.of(people, group_separator="", seed=1)
    assert len(pairs.images) == 20
    assert set(np.bincount(people.labels[pairs.images])) == {0, 4}
    assert pairs.subjects == 5
