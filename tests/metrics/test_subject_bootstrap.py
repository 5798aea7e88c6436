import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.errors import DataError
from iom.metrics.error_curve import RankedScores
from iom.metrics.subject_bootstrap import SubjectBootstrap, SubjectPairs, key_draws, subject_draws
from iom.metrics.uncertainty import subject_weights


def made(seed, *, subjects=12, limit=36):
    """All pairs of 12 subjects x 4 images with integer distances, and those up to a limit."""
    generator = np.random.default_rng(seed)
    of_image = np.repeat(np.arange(subjects), 4).astype(np.int32)
    left, right = np.triu_indices(len(of_image), k=1)
    left, right = of_image[left], of_image[right]
    same = left == right
    distances = np.where(same, generator.integers(5, 35, len(same)), generator.integers(18, 60, len(same)))
    near = ~same & (distances <= limit)
    mated = SubjectPairs(distances[same], left[same], right[same])
    near = SubjectPairs(distances[near], left[near], right[near])
    bootstrap = SubjectBootstrap(mated, near, np.full(subjects, 4))
    return bootstrap, distances, left, right, same


@given(st.integers(0, 500))
def test_the_curve_equals_that_of_all_weighted_pairs(seed):
    bootstrap, distances, left, right, same = made(seed)
    ranked = RankedScores(distances[same], distances[~same])
    weightings = subject_weights(left, right, same, replicates=3, seed=seed)
    for counts, weights in zip(subject_draws(12, replicates=3, seed=seed), weightings, strict=True):
        exact = ranked.curve(weights[same], weights[~same])
        curve = bootstrap.curve(counts)
        assert curve.equal_error_rate() == pytest.approx(exact.equal_error_rate(), abs=1e-12)
        for fmr in (0.01, 0.05, 0.1):
            assert curve.fnmr_at_fmr(fmr) == pytest.approx(exact.fnmr_at_fmr(fmr), abs=1e-12)
        low = exact.thresholds <= 36
        shared = np.isin(exact.thresholds[low], curve.thresholds)
        kept = np.isin(curve.thresholds, exact.thresholds[low])
        np.testing.assert_allclose(exact.fmr[low][shared], curve.fmr[kept], atol=1e-12)
        np.testing.assert_allclose(exact.fnmr[low][shared], curve.fnmr[kept], atol=1e-12)


def test_every_subject_once_is_the_sample_itself():
    bootstrap, distances, _, _, same = made(1)
    exact = RankedScores(distances[same], distances[~same]).curve()
    assert bootstrap.curve(np.ones(12)).equal_error_rate() == pytest.approx(exact.equal_error_rate(), abs=1e-12)


def test_near_pairs_that_do_not_reach_far_enough_are_refused():
    bootstrap, *_ = made(1, limit=19)
    with pytest.raises(DataError, match="keep more near pairs"):
        bootstrap.curve(np.ones(12))


def test_draws_repeat_and_are_complete():
    first, second = (list(subject_draws(9, replicates=4, seed=2)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert all(counts.sum() == 9 for counts in first)
    drawn = key_draws(5, replicates=7, seed=2)
    assert drawn.shape == (7, 5)
    np.testing.assert_array_equal(drawn, key_draws(5, replicates=7, seed=2))


def test_without_pairs():
    nothing = SubjectPairs(np.empty(0), np.empty(0, np.int32), np.empty(0, np.int32))
    with pytest.raises(DataError, match="mated and near"):
        SubjectBootstrap(nothing, nothing, np.array([1, 2]))
    bootstrap, *_ = made(1)
    with pytest.raises(DataError, match="too few subjects"):
        bootstrap.curve(np.eye(12)[0] * 12)
