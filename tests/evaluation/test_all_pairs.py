import itertools

import numpy as np
import pytest

from benchmarks.key_linkability import key_linkability
from benchmarks.key_trials import Draws, code_trials, codes_under_keys, float_trial
from iom.codes.packing import pack
from iom.data.folders import FaceFolder
from iom.errors import DataError
from iom.evaluation import all_pairs
from iom.evaluation.all_pairs import AllPairs, first_images
from iom.metrics.error_curve import error_curve
from iom.metrics.uncertainty import bootstrap_intervals

IMAGES = np.array([3, 1, 5, 2, 4, 1, 6, 3, 3, 2])
SUBJECTS = np.repeat(np.arange(10), IMAGES)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks that end within subjects, and at none of them."""
    monkeypatch.setattr(all_pairs, "ROWS", 7)


def codes_of(seed, length=20, alphabet=3):
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, alphabet, size=(10, length))[SUBJECTS]
    changed = generator.random(codes.shape) < 0.5
    return np.where(changed, generator.integers(0, alphabet, size=codes.shape), codes)


def looped(codes):
    """Distance, subjects of every pair, by a plain loop."""
    for i, j in itertools.combinations(range(len(codes)), 2):
        yield int((codes[i] != codes[j]).sum()), SUBJECTS[i], SUBJECTS[j]


def test_codes_are_counted_as_a_loop_counts_them():
    codes = codes_of(1)
    pairs = AllPairs(SUBJECTS)
    counted = pairs.count_codes(pack(codes, 3))
    mated, non_mated = np.zeros(21, int), np.zeros(21, int)
    for distance, left, right in looped(codes):
        (mated if left == right else non_mated)[distance] += 1
    np.testing.assert_array_equal(counted.mated, mated)
    np.testing.assert_array_equal(counted.non_mated, non_mated)
    assert (pairs.mated_count, pairs.non_mated_count) == (mated.sum(), non_mated.sum())
    limit = counted.limit(0.1)
    assert np.cumsum(non_mated)[limit] >= 0.1 * non_mated.sum() > np.cumsum(non_mated)[limit - 1]


def test_across_keys_is_counted_as_a_loop_counts_it():
    first, second = codes_of(1), codes_of(2)
    counted = AllPairs(SUBJECTS).count_across_keys(pack(first, 3), pack(second, 3))
    mated, non_mated = np.zeros(21, int), np.zeros(21, int)
    for i, j in itertools.permutations(range(len(SUBJECTS)), 2):
        distance = int((first[i] != second[j]).sum())
        (mated if SUBJECTS[i] == SUBJECTS[j] else non_mated)[distance] += 1
    np.testing.assert_array_equal(counted.mated, mated)
    np.testing.assert_array_equal(counted.non_mated, non_mated)


def test_near_pairs_are_the_non_mated_ones_up_to_the_limit():
    codes = codes_of(3)
    bootstrap = AllPairs(SUBJECTS).bootstrap_codes(pack(codes, 3), 12)
    expected = sorted(pair for pair in looped(codes) if pair[0] <= 12 and pair[1] != pair[2])
    near = bootstrap._near
    found = zip(near.distances.tolist(), near.left.tolist(), near.right.tolist(), strict=True)
    assert sorted(found) == expected


@pytest.fixture
def embeddings():
    generator = np.random.default_rng(5)
    rows = generator.normal(size=(10, 32))[SUBJECTS] + 0.8 * generator.normal(size=(30, 32))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_float_distances_give_the_curve_of_all_cosines(embeddings):
    curve, bootstrap = AllPairs(SUBJECTS).float_distances(embeddings, fmr=0.4)
    wide = embeddings.astype(np.float64)
    left, right = np.triu_indices(30, k=1)
    distances = 1 - np.einsum("pd,pd->p", wide[left], wide[right])
    same = SUBJECTS[left] == SUBJECTS[right]
    exact = error_curve(distances[same], distances[~same])
    assert curve.equal_error_rate() == pytest.approx(exact.equal_error_rate(), abs=1e-12)
    for fmr in (0.0, 0.01, 0.1, 0.3):
        assert curve.fnmr_at_fmr(fmr) == exact.fnmr_at_fmr(fmr)
    assert curve.area_under_curve() == pytest.approx(exact.area_under_curve(), abs=1e-3)
    whole = bootstrap.curve(np.ones(10))
    assert whole.equal_error_rate() == pytest.approx(exact.equal_error_rate(), abs=1e-12)


def test_intervals_are_those_of_the_bootstrap_over_all_pairs(embeddings, monkeypatch):
    """The bootstrap that weighs every pair, on the same draws of subjects and keys."""
    monkeypatch.setattr("benchmarks.key_trials.LEAST_COVERED", 0.9)
    codes = [codes_of(seed) for seed in (1, 2, 3)]
    pairs, draws = AllPairs(SUBJECTS), Draws(replicates=12, seed=4)
    trials = code_trials(pairs, [pack(each, 3) for each in codes], draws)
    left, right = np.triu_indices(30, k=1)
    same = SUBJECTS[left] == SUBJECTS[right]

    def statistic(each):
        distances = (each[left] != each[right]).sum(axis=1)

        def figures(weights):
            mated = np.repeat(distances[same], weights[same].astype(int))
            non_mated = np.repeat(distances[~same], weights[~same].astype(int))
            return {"eer": error_curve(mated, non_mated).equal_error_rate()}

        return figures

    statistics = [statistic(each) for each in codes]
    subjects = (SUBJECTS[left], SUBJECTS[right], same)
    expected = bootstrap_intervals(statistics, *subjects, replicates=12, seed=4)["eer"]
    assert trials.interval("eer") == pytest.approx(expected, abs=0.05)
    ones = np.ones(len(same))
    assert trials.mean("eer") == pytest.approx(np.mean([each(ones)["eer"] for each in statistics]))
    assert trials.std("eer") > 0


def test_a_difference_has_a_narrower_interval_than_its_parts(embeddings, index_of_max):
    pairs, draws = AllPairs(SUBJECTS), Draws(replicates=40)
    unprotected = float_trial(pairs, embeddings, draws)
    codes = codes_under_keys(index_of_max, embeddings, keys=4, seed=1)
    trials = code_trials(pairs, codes, draws)
    assert trials.difference(trials, "eer") == (0, 0)
    low, high = trials.difference(unprotected, "eer")
    assert low <= trials.mean("eer") - unprotected.mean("eer") <= high
    assert high - low < np.ptp(trials.interval("eer")) + np.ptp(unprotected.interval("eer"))
    with pytest.raises(DataError, match="same draws"):
        trials.difference(code_trials(pairs, codes, Draws(replicates=3)), "eer")
    with pytest.raises(DataError, match="no draws"):
        code_trials(pairs, codes, Draws(replicates=0)).interval("eer")


def test_one_key_for_all_is_linkable_and_unrelated_codes_are_not(embeddings, index_of_max):
    pairs = AllPairs(np.repeat(np.arange(60), 5))
    codes = np.random.default_rng(6).integers(0, 4, size=(60, 64)).repeat(5, axis=0)
    linked = key_linkability(pairs, [pack(codes, 4)] * 3)
    assert linked.d_sys > 0.9997
    assert linked.maximal_linkability == pytest.approx(1, abs=1e-3)
    unrelated = [np.random.default_rng(s).integers(0, 4, size=(300, 64)) for s in range(6)]
    apart = key_linkability(pairs, [pack(each, 4) for each in unrelated])
    assert apart.d_sys < 0.05
    assert apart.d_sys == pytest.approx(apart.d_sys_floor, abs=0.02)
    with pytest.raises(DataError, match="two keys"):
        key_linkability(pairs, [pack(codes, 4)])


@pytest.mark.parametrize(
    ("subjects", "reason"),
    [
        ([1, 1, 2], "from 0"),
        ([0, 2, 2], "side by side"),
        ([0, 1, 0], "side by side"),
        ([0, 1, 2], "two subjects, one of them"),
        ([0, 0, 0], "two subjects, one of them"),
        ([], "from 0"),
    ],
)
def test_subjects_that_do_not_serve(subjects, reason):
    with pytest.raises(DataError, match=reason):
        AllPairs(np.array(subjects))


def test_another_number_of_codes_is_refused(embeddings):
    pairs = AllPairs(SUBJECTS)
    codes = pack(codes_of(1)[:5], 3)
    for call in (
        lambda: pairs.count_codes(codes),
        lambda: pairs.count_across_keys(codes, codes),
        lambda: pairs.bootstrap_codes(codes, 3),
        lambda: pairs.float_distances(embeddings[:5]),
    ):
        with pytest.raises(DataError, match="each of 30 images"):
            call()


def test_the_first_images_of_each_subject(tmp_path):
    names = ("a", "b", "c")
    labels = np.array([0, 0, 0, 1, 2, 2])
    paths = tuple(f"{names[label]}/{i}.jpg" for i, label in enumerate(labels))
    folder = FaceFolder(tmp_path, paths, labels, names)
    assert first_images(folder, 2).tolist() == [0, 1, 3, 4, 5]
    assert first_images(folder, 9).tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(DataError, match="at least 1"):
        first_images(folder, 0)
