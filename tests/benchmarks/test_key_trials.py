"""Trials over keys against the bootstrap that weighs every pair, and linkability between keys."""

import numpy as np
import pytest

from benchmarks.key_linkability import key_linkability
from benchmarks.key_trials import Draws, code_trials, codes_under_keys, float_trial
from iom.codes.packing import pack
from iom.config import HasherConfig
from iom.errors import DataError
from iom.evaluation.systems import baseline_system
from iom.metrics.all_pairs import AllPairs
from iom.metrics.bootstrap import PairSubjects, bootstrap_intervals
from iom.metrics.verification import error_curve

IMAGES = np.array([3, 1, 5, 2, 4, 1, 6, 3, 3, 2])
SUBJECTS = np.repeat(np.arange(10), IMAGES)


def codes_of(seed, length=20, alphabet=3):
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, alphabet, size=(10, length))[SUBJECTS]
    changed = generator.random(codes.shape) < 0.5
    return np.where(changed, generator.integers(0, alphabet, size=codes.shape), codes)


@pytest.fixture
def embeddings():
    generator = np.random.default_rng(5)
    rows = generator.normal(size=(10, 32))[SUBJECTS] + 0.8 * generator.normal(size=(30, 32))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_intervals_are_those_of_the_bootstrap_over_all_pairs(embeddings):
    """The bootstrap that weighs every pair, on the same draws of subjects and keys."""
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
    subjects = PairSubjects(SUBJECTS[left], SUBJECTS[right], same)
    expected = bootstrap_intervals(statistics, subjects, replicates=12, seed=4)["eer"]
    assert trials.interval("eer") == pytest.approx(expected, abs=1e-9)
    ones = np.ones(len(same))
    assert trials.mean("eer") == pytest.approx(np.mean([each(ones)["eer"] for each in statistics]))
    assert trials.std("eer") > 0


def test_a_difference_has_a_narrower_interval_than_its_parts(embeddings):
    pairs, draws = AllPairs(SUBJECTS), Draws(replicates=40)
    unprotected = float_trial(pairs, embeddings, draws)
    codes = codes_under_keys(
        baseline_system("grp", 32, HasherConfig(code_length=64, alphabet_size=4)), embeddings, keys=4, seed=1
    )
    trials = code_trials(pairs, codes, draws)
    assert trials.difference(trials, "eer") == (0, 0)
    low, high = trials.difference(unprotected, "eer")
    assert low <= trials.mean("eer") - unprotected.mean("eer") <= high
    assert high - low < np.ptp(trials.interval("eer")) + np.ptp(unprotected.interval("eer"))
    with pytest.raises(DataError, match="same draws"):
        trials.difference(code_trials(pairs, codes, Draws(replicates=3)), "eer")
    with pytest.raises(DataError, match="no draws"):
        code_trials(pairs, codes, Draws(replicates=0)).interval("eer")


def test_one_key_for_all_is_linkable_and_unrelated_codes_are_not(embeddings):
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
