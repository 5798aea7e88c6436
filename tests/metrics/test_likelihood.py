import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from iom.errors import DataError
from iom.metrics.likelihood import (
    LikelihoodRatio,
    fit_likelihood_ratio,
    isotonic_log_ratios,
    log_ratio_cost,
    probability_text,
    reliability,
)
from iom.metrics.verification import ErrorCurve, RankedScores, error_curve

DISTANCES = st.lists(st.integers(0, 12), min_size=1, max_size=40)
RATIO = LikelihoodRatio(slope=-0.02, offset=13.0, low=-1.8, high=3.9)


@pytest.fixture
def distances():
    stream = np.random.default_rng(4)
    return stream.binomial(200, 0.35, size=300), stream.binomial(200, 0.5, size=900)


def fit(mated, non_mated, units=(10**6, 10**6)):
    """Bounds so wide that they do not matter."""
    return fit_likelihood_ratio(error_curve(mated, non_mated), comparisons=(len(mated), len(non_mated)), units=units)


def test_the_line_is_that_of_an_independent_library(distances):
    mated, non_mated = distances
    a, b = len(mated), len(non_mated)
    # The targets of Platt are pairs of weighted labels.
    labels = np.repeat([1, 0, 1, 0], [a, a, b, b])
    weights = np.repeat([(a + 1) / (a + 2) / a, 1 / (a + 2) / a, 1 / (b + 2) / b, (b + 1) / (b + 2) / b], [a, a, b, b])
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
    model.fit(np.concatenate([mated, mated, non_mated, non_mated])[:, None] / 100, labels, weights * 1e3)
    found = fit(mated, non_mated)
    assert found.slope == pytest.approx(model.coef_[0, 0] / 100 / math.log(10), rel=1e-4)
    assert found.offset == pytest.approx(model.intercept_[0] / math.log(10), rel=1e-4)
    there = model.predict_proba([[0.85]])[0, 1]
    assert found.probability(85) == pytest.approx(there, rel=1e-4)


def test_isotonic_ratios_are_those_of_an_independent_library(distances):
    mated, non_mated = distances
    values = np.concatenate(distances)
    labels = np.repeat([1.0, 0.0], [len(mated), len(non_mated)])
    weights = np.repeat([1 / len(mated), 1 / len(non_mated)], [len(mated), len(non_mated)])
    model = IsotonicRegression(increasing=False).fit(values, labels, sample_weight=weights)
    curve = error_curve(*distances)
    with np.errstate(divide="ignore"):
        share = model.predict(curve.thresholds[1:])
        expected = np.log10(share / (1 - share))
    np.testing.assert_allclose(isotonic_log_ratios(curve), expected, rtol=1e-6)


@given(DISTANCES, DISTANCES, st.lists(st.floats(-6, 6), min_size=13, max_size=13))
def test_the_cost_by_a_loop(mated, non_mated, ratios):
    curve = error_curve(mated, non_mated)
    of_same = sum(math.log2(1 + 10 ** -ratios[distance]) for distance in mated) / len(mated)
    of_others = sum(math.log2(1 + 10 ** ratios[distance]) for distance in non_mated) / len(non_mated)
    found = log_ratio_cost(curve, [ratios[int(distance)] for distance in curve.thresholds[1:]])
    assert found == pytest.approx((of_same + of_others) / 2, abs=1e-9)
    # No falling ratios cost less than the isotonic ones; those of no ratio at all cost 1.
    least = log_ratio_cost(curve, isotonic_log_ratios(curve))
    assert least <= log_ratio_cost(curve, sorted(np.resize(ratios, len(curve.thresholds) - 1), reverse=True)) + 1e-9
    assert 0 <= least <= 1 + 1e-9


def test_weights_are_repetitions():
    scores = RankedScores([1, 4, 6], [3, 5, 7])
    weighted = scores.curve([1, 0, 2], [3, 1, 1])
    repeated = error_curve([1, 6, 6], [3, 3, 3, 5, 7])
    assert log_ratio_cost(weighted, RATIO.log10(weighted.thresholds[1:])) == pytest.approx(
        log_ratio_cost(repeated, RATIO.log10(repeated.thresholds[1:]))
    )
    assert log_ratio_cost(weighted, isotonic_log_ratios(weighted)) == pytest.approx(
        log_ratio_cost(repeated, isotonic_log_ratios(repeated))
    )


@given(DISTANCES, DISTANCES, st.integers(1, 50), st.integers(1, 50))
def test_it_falls_and_keeps_to_what_the_units_support(mated, non_mated, subjects, pairs):
    found = fit(mated, non_mated, units=(subjects, pairs))
    ratios = found.log10(np.arange(-1000, 1000, 7))
    assert (np.diff(ratios) <= 0).all()
    # The exact bound of an error that was never seen, 2.5 % at each end.
    assert ratios.max() <= -math.log10(1 - 0.025 ** (1 / pairs)) + 1e-12
    assert ratios.min() >= math.log10(1 - 0.025 ** (1 / subjects)) - 1e-12


@pytest.mark.parametrize("count", [1, 2, 30, 100_000])
def test_distances_that_separate_all_comparisons(count):
    found = fit(np.full(count, 10), np.full(count, 20))
    assert -100 < found.slope < 0
    assert found.probability(15) == pytest.approx(0.5)
    # Certainty grows with the number of comparisons: that of the targets, no more.
    assert found.probability(10) == pytest.approx((count + 1) / (count + 2), rel=1e-4)
    few = fit(np.full(count, 10), np.full(count, 20), units=(2, 1))
    assert few.probability(-1e9) == pytest.approx(1 / (1 + 0.975))


@pytest.mark.parametrize(("mated", "non_mated"), [([20, 21], [3, 4]), ([5, 5], [5]), ([1, 9], [1, 9])])
def test_distances_that_say_nothing_or_the_contrary(mated, non_mated):
    found = fit(mated, non_mated)
    assert found.log10([0, 5, 30]) == pytest.approx(0, abs=1e-6)
    assert found.probability(7, prior=0.2) == pytest.approx(0.2)


def test_the_prior_moves_the_odds():
    for prior in (1e-9, 0.01, 0.5, 0.99):
        odds = prior / (1 - prior) * 10 ** RATIO.log10(610).item()
        assert RATIO.probability(610, prior) == pytest.approx(odds / (1 + odds))
    assert isinstance(RATIO.probability(610), float)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1, 0.0), "prior"), ((1, 1.0), "prior"), ((1, math.nan), "prior"), ((math.nan,), "distance")],
)
def test_what_is_no_probability(arguments, message):
    with pytest.raises(DataError, match=message):
        RATIO.probability(*arguments)


@pytest.mark.parametrize("changed", [{"slope": 0.1}, {"low": 1.0}, {"high": -1.0}, {"offset": math.nan}, {"low": "x"}])
def test_what_is_no_ratio(changed):
    with pytest.raises(DataError, match="likelihood ratio: expected"):
        LikelihoodRatio(**{"slope": -0.1, "offset": 0.0, "low": -1.0, "high": 1.0} | changed)


@given(st.lists(st.integers(500, 800), min_size=1), st.lists(st.integers(500, 800), min_size=1))
def test_reliability_by_a_loop(mated, non_mated):
    found = reliability(error_curve(mated, non_mated), RATIO)
    expected = np.zeros((3, 12))  # from -1.8 to 3.9 in steps of 0.5
    for kind, distances in enumerate((mated, non_mated)):
        for distance in distances:
            number = min(11, int((RATIO.log10(distance) + 1.8) // 0.5))
            expected[kind, number] += 1 / len(distances)
            expected[2, number] += RATIO.probability(distance) / len(distances)
    with np.errstate(invalid="ignore"):
        expected[2] /= expected[:2].sum(axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_ratio_is_reliable_where_it_was_fitted():
    stream = np.random.default_rng(4)
    mated, non_mated = stream.normal(70, 7, 20_000).round(), stream.normal(100, 7, 90_000).round()  # a true line
    ratio = fit(mated, non_mated)
    of_mated, of_others, predicted = reliability(error_curve(mated, non_mated), ratio)
    full = (of_mated > 0.002) & (of_others > 0.002)
    assert full.sum() > 4
    np.testing.assert_allclose((of_mated / (of_mated + of_others))[full], predicted[full], atol=0.03)


def test_a_curve_that_ends_at_a_limit_is_refused():
    cut = ErrorCurve(np.array([-np.inf, 1.0, np.inf]), np.array([0, 0.1, 1]), np.array([1, 0.5, 0]))
    with pytest.raises(DataError, match="expected all distances"):
        fit_likelihood_ratio(cut, comparisons=(2, 10), units=(2, 10))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.500"), (0.0149, "0.015"), (0.99987, "0.99987"), (0.9999996, "0.99999960"), (1.3e-5, "0.000013"),
     (0.99991, "0.999910"), (0.0, "0"), (1.0, "1")],
)  # fmt: skip
def test_a_probability_as_text_is_not_rounded_to_certainty(value, text):
    assert probability_text(value) == text
