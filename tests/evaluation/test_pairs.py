import dataclasses

import numpy as np
import pytest

from iom.evaluation.scores import REJECTS_EVERYTHING, PairScores, figures
from iom.metrics.likelihood import LikelihoodRatio
from iom.metrics.verification import FoldedScores, error_curve


def scores_of(mated, non_mated, folds=2):
    distances = np.concatenate([mated, non_mated])
    same = np.arange(len(distances)) < len(mated)
    return PairScores(distances, same, np.arange(len(distances)) % folds)


def test_known_scores_give_the_known_figures():
    generator = np.random.default_rng(0)
    mated, non_mated = generator.integers(100, 320, 900), generator.integers(250, 512, 1000)
    scores = scores_of(mated, non_mated)
    found = dict(figures(scores))
    accuracy = FoldedScores(scores.distances, scores.same, scores.fold).accuracy()
    assert (found["accuracy"], found["accuracy_std"]) == accuracy
    assert found["eer"] == error_curve(mated, non_mated).equal_error_rate()
    assert found["auc"] == error_curve(mated, non_mated).area_under_curve()
    assert found["fnmr_at_fmr_1e-2"] == error_curve(mated, non_mated).fnmr_at_fmr(1e-2)
    assert found["fnmr_at_fmr_1e-3"] == error_curve(mated, non_mated).fnmr_at_fmr(1e-3)
    assert found["threshold_at_fmr_1e-3"] == error_curve(mated, non_mated).threshold_at_fmr(1e-3)
    assert np.mean(non_mated <= found["threshold_at_fmr_1e-2"]) <= 1e-2


def test_separable_scores():
    found = dict(figures(scores_of(np.arange(100), np.arange(1000, 2000))))
    assert (found["accuracy"], found["accuracy_std"]) == (1.0, 0.0)
    assert (found["eer"], found["auc"], found["fnmr_at_fmr_1e-3"]) == (0.0, 1.0, 0.0)


def test_rates_that_the_benchmark_cannot_tell_from_zero_are_left_out():
    found = dict(figures(scores_of(np.arange(50), np.arange(40, 999 + 40))))
    assert "fnmr_at_fmr_1e-2" in found
    assert "fnmr_at_fmr_1e-3" not in found
    assert "threshold_at_fmr_1e-3" not in found


def test_a_single_fold_has_no_accuracy():
    found = dict(figures(scores_of(np.arange(5), np.arange(3, 9), folds=1)))
    assert "accuracy" not in found
    assert "eer" in found


def test_where_nothing_may_be_accepted_the_threshold_is_below_every_distance():
    found = dict(figures(scores_of(np.full(9, 7), np.zeros(200, int))))
    assert found["threshold_at_fmr_1e-2"] == REJECTS_EVERYTHING
    assert found["fnmr_at_fmr_1e-2"] == 1.0


def test_errors_at_a_threshold_from_other_data():
    mated, non_mated = np.array([1, 2, 3, 8]), np.array([3, 6, 7, 8, 9])
    scores = scores_of(mated, non_mated)
    assert "decision" not in dict(figures(scores))
    found = dict(figures(dataclasses.replace(scores, decision=3)))
    assert found["fmr_at_decision"] == 1 / 5
    assert found["fnmr_at_decision"] == 1 / 4
    assert found["decision"] == 3


def test_weights_count_like_copies():
    generator = np.random.default_rng(1)
    made = scores_of(generator.integers(0, 60, 300), generator.integers(40, 99, 1200))
    scores = dataclasses.replace(made, decision=50)
    weights = generator.integers(0, 3, 1500).astype(float)
    rows = np.repeat(np.arange(1500), weights.astype(int))
    copies = PairScores(scores.distances[rows], scores.same[rows], scores.fold[rows], 50)
    assert dict(figures(scores, weights)) == pytest.approx(dict(figures(copies)))


def test_the_cost_of_a_likelihood_ratio_from_other_data():
    mated, non_mated = np.array([1, 2, 3, 8]), np.array([3, 6, 7, 8, 9])
    scores = scores_of(mated, non_mated)
    assert not {"cllr", "min_cllr"} & dict(figures(scores)).keys()
    ratio = LikelihoodRatio(slope=-0.5, offset=2.5, low=-1.0, high=1.5)
    found = dict(figures(dataclasses.replace(scores, likelihood=ratio)))
    of_same = np.mean([np.log2(1 + 10 ** -ratio.log10(distance)) for distance in mated])
    of_others = np.mean([np.log2(1 + 10 ** ratio.log10(distance)) for distance in non_mated])
    assert found["cllr"] == pytest.approx((of_same + of_others) / 2)
    assert 0 < found["min_cllr"] < found["cllr"]
