import itertools
from pathlib import Path

import numpy as np
import pytest

from iom.baselines import BASELINES
from iom.config import CodeConfig
from iom.data.folders import FaceFolder
from iom.errors import DataError
from iom.training import calibration
from iom.training.calibration import ValidationPairs, validation_keys

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
    code = CodeConfig(code_length=64, alphabet_size=4)
    return BASELINES["grp"](SIZE, code, 0)


def test_pairs_by_hand(people):
    pairs = ValidationPairs(people, group_separator="_", seed=1)
    mated = others = 0
    for i, j in itertools.combinations(range(len(people)), 2):
        names = [people.subjects[people.labels[row]] for row in (i, j)]
        mated += names[0] == names[1]
        others += names[0][:2] != names[1][:2]
    assert (pairs.all.mated_count, pairs.all.non_mated_count) == (mated, others)
    assert len(pairs.all.images) == 12
    np.testing.assert_array_equal(pairs.labels, people.labels[pairs.images])


def test_without_a_separator_kin_are_non_mated(people):
    pairs = ValidationPairs(people, group_separator="", seed=1)
    assert pairs.all.mated_count + pairs.all.non_mated_count == 48 * 47 // 2


def test_rates_by_hand(people, embeddings, baseline):
    pairs = ValidationPairs(people, group_separator="_", seed=1)
    keys = validation_keys(1, "keys", 3)
    assert len({key.secret for key in keys}) == 3
    left, right = np.triu_indices(48, k=1)
    same = people.labels[left] == people.labels[right]
    other_family = people.labels[left] // 2 != people.labels[right] // 2
    rates = []
    for key in keys:
        codes = baseline.hash(embeddings, key)
        by_hand = (codes[left] != codes[right]).sum(1)
        mated, others = by_hand[same], by_hand[other_family]
        points = [((others <= t).mean(), (mated > t).mean()) for t in range(65)]
        rates.append(np.mean(min(points, key=lambda point: abs(point[0] - point[1]))))
    found = pairs.equal_error_rate(embeddings, baseline, keys)
    assert abs(found - np.mean(rates)) < 0.01


def test_an_fmr_that_cannot_be_seen(people):
    pairs = ValidationPairs(people, group_separator="_", seed=1)
    pairs.check_resolution(1e-2)
    with pytest.raises(DataError, match=r"1e-06 cannot be seen in 960 non-mated"):
        pairs.check_resolution(1e-6)


@pytest.mark.parametrize(("subjects", "images"), [(["a"], 4), (["a", "b"], 1)])
def test_both_kinds_of_pairs_are_needed(subjects, images):
    with pytest.raises(DataError, match="both are needed"):
        ValidationPairs(folder(subjects, images), group_separator="", seed=1)


def test_families_alone_leave_no_non_mated_pair():
    with pytest.raises(DataError, match="0 non-mated"):
        ValidationPairs(folder(["F1_a", "F1_b"], 3), group_separator="_", seed=1)


def test_a_large_part_is_thinned_by_whole_subjects(people, monkeypatch):
    monkeypatch.setattr(calibration, "MAX_IMAGES", 22)
    pairs = ValidationPairs(people, group_separator="", seed=1)
    assert len(pairs.images) == 20
    assert set(np.bincount(people.labels[pairs.images])) == {0, 4}
    assert len(pairs.all.images) == 5
