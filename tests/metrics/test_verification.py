import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, roc_curve

from iom.errors import DataError
from iom.metrics.verification import FoldedScores, RankedScores, error_curve

steady = settings(deadline=None)  # a busy machine is not a failure
few_integers = st.lists(st.integers(0, 12), min_size=1, max_size=30)
floats = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30)
either = st.one_of(few_integers, floats)


def loop_curve(mated, non_mated):
    """The oracle: count at every observed threshold."""
    thresholds = [-np.inf, *sorted(set(map(float, mated)) | set(map(float, non_mated)))]
    fmr = [sum(d <= t for d in non_mated) / len(non_mated) for t in thresholds]
    fnmr = [sum(d > t for d in mated) / len(mated) for t in thresholds]
    return thresholds, fmr, fnmr


@steady
@given(mated=either, non_mated=either)
def test_curve_equals_counting(mated, non_mated):
    curve = error_curve(mated, non_mated)
    thresholds, fmr, fnmr = loop_curve(mated, non_mated)
    assert curve.thresholds.tolist() == thresholds
    assert curve.fmr.tolist() == fmr
    assert curve.fnmr.tolist() == fnmr


@steady
@given(mated=either, non_mated=either)
def test_curve_and_area_equal_those_of_scikit_learn(mated, non_mated):
    truth = np.r_[np.ones(len(mated)), np.zeros(len(non_mated))]
    scores = -np.r_[np.asarray(mated, float), np.asarray(non_mated, float)]
    false, true, thresholds = roc_curve(truth, scores, drop_intermediate=False)
    curve = error_curve(mated, non_mated)
    np.testing.assert_allclose(curve.fmr, false, atol=1e-12)
    np.testing.assert_allclose(1 - curve.fnmr, true, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds[1:], -thresholds[1:])
    assert error_curve(mated, non_mated).area_under_curve() == pytest.approx(auc(false, true), abs=1e-12)


@steady
@given(mated=either, non_mated=either)
def test_area_is_the_probability_of_the_right_order(mated, non_mated):
    wins = sum((m < n) + 0.5 * (m == n) for m in mated for n in non_mated)
    expected = wins / (len(mated) * len(non_mated))
    assert error_curve(mated, non_mated).area_under_curve() == pytest.approx(expected, abs=1e-12)


@steady
@given(mated=either, non_mated=either)
def test_equal_error_rate_lies_on_the_curve_between_its_neighbours(mated, non_mated):
    _, fmr, fnmr = loop_curve(mated, non_mated)
    got = error_curve(mated, non_mated).equal_error_rate()
    # The highest lower bound and the lowest upper bound that the observed points set.
    low = max(min(a, b) for a, b in zip(fmr, fnmr, strict=True))
    high = min(max(a, b) for a, b in zip(fmr, fnmr, strict=True))
    assert low - 1e-12 <= got <= high + 1e-12
    # Swapping the roles of the two kinds mirrors the curve.
    mirrored = error_curve([-d for d in non_mated], [-d for d in mated]).equal_error_rate()
    assert got == pytest.approx(mirrored, abs=1e-12)


def test_equal_error_rate_is_interpolated_on_the_straight_line():
    # Points (FMR, FNMR): (1/4, 1/3) and (1/2, 0); x = y on the line between them at 2/7.
    assert error_curve([1, 2, 4], [3, 4, 5, 6]).equal_error_rate() == pytest.approx(2 / 7)
    assert error_curve([1, 2], [3, 4]).equal_error_rate() == 0
    assert error_curve([3, 4], [1, 2]).equal_error_rate() == 1
    assert error_curve([5], [5]).equal_error_rate() == 0.5


def test_threshold_at_equal_error_is_the_observed_one_with_the_smallest_gap():
    assert error_curve([1, 2, 4], [3, 4, 5, 6]).threshold_at_equal_error() == 3
    assert error_curve([1, 2], [3, 4]).threshold_at_equal_error() == 2
    assert error_curve([5], [5]).threshold_at_equal_error() == 5
    assert error_curve([6], [5]).threshold_at_equal_error() == 5


@steady
@given(mated=either, non_mated=either, target=st.floats(0, 1))
def test_threshold_at_fmr_is_the_largest_that_keeps_the_promise(mated, non_mated, target):
    thresholds, fmr, fnmr = loop_curve(mated, non_mated)
    best = max(i for i, rate in enumerate(fmr) if rate <= target)
    assert error_curve(mated, non_mated).threshold_at_fmr(target) == thresholds[best]
    assert error_curve(mated, non_mated).fnmr_at_fmr(target) == fnmr[best]


def test_three_false_matches_in_three_thousand_are_an_fmr_of_one_in_a_thousand():
    non_mated = np.arange(3000)
    assert error_curve([1.5, 2.5], non_mated).threshold_at_fmr(1e-3) == 2.5
    assert error_curve([1.5, 2.5, 3.5, 9.5], non_mated).fnmr_at_fmr(1e-3) == 0.5


def test_ties_are_never_split():
    # Accepting distance 3 accepts a third of the non-mated pairs: nothing between is possible.
    curve = error_curve([3, 3, 3, 8], [3, 9, 9])
    assert curve.fnmr_at_fmr(0.33) == 1
    assert curve.fnmr_at_fmr(0.34) == 0


@steady
@given(
    mated=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=15),
    non_mated=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=15),
)
def test_a_weight_counts_like_as_many_copies(mated, non_mated):
    (a, wa), (b, wb) = (map(np.array, zip(*pairs, strict=True)) for pairs in (mated, non_mated))
    if not wa.any() or not wb.any():
        with pytest.raises(DataError, match="weights"):
            RankedScores(a, b).curve(wa, wb)
        return
    weighted = RankedScores(a, b).curve(wa, wb)
    repeated = error_curve(np.repeat(a, wa), np.repeat(b, wb))
    assert weighted.equal_error_rate() == pytest.approx(repeated.equal_error_rate(), abs=1e-12)
    assert weighted.area_under_curve() == pytest.approx(repeated.area_under_curve(), abs=1e-12)
    assert weighted.fnmr_at_fmr(0.1) == repeated.fnmr_at_fmr(0.1)


@pytest.mark.parametrize(
    ("mated", "non_mated", "reason"),
    [
        ([], [1.0], "^mated distances: expected a list of at least one"),
        ([1.0], [], "^non-mated distances: expected a list of at least one"),
        ([np.nan, 1.0], [1.0], "^mated .* received 1 that are not, among 2"),
        ([1.0], [np.inf], "^non-mated .* finite"),
        ([[1.0]], [1.0], "received shape"),
        (["near"], [1.0], "expected numbers"),
        ([True], [1.0], "expected numbers, received bool"),
        ([1j], [1.0], "expected numbers, received complex"),
    ],
)
def test_unusable_distances_are_refused(mated, non_mated, reason):
    with pytest.raises(DataError, match=reason):
        error_curve(mated, non_mated)


@pytest.mark.parametrize("target", [-0.1, 1.1, float("nan")])
def test_an_impossible_fmr_is_refused(target):
    with pytest.raises(DataError, match="fmr: expected 0 to 1"):
        error_curve([1], [2]).fnmr_at_fmr(target)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [np.nan, 1.0], [0.0, 0.0]])
def test_unusable_weights_are_refused(weights):
    with pytest.raises(DataError, match="mated weights"):
        RankedScores([1, 2], [3]).curve(weights, [1.0])


def loop_accuracy(distances, same, fold):
    """The oracle: try every gap of the other folds, apply the middle of the lowest best one."""
    shares = []
    for number in sorted(set(fold)):
        inside = [i for i, f in enumerate(fold) if f == number]
        outside = [i for i, f in enumerate(fold) if f != number]
        observed = [-np.inf, *sorted({distances[i] for i in outside})]
        correct = [sum((distances[i] <= threshold) == same[i] for i in outside) for threshold in observed]
        first = correct.index(max(correct))
        after = first + 1
        while after < len(correct) and correct[after] == correct[first]:
            after += 1
        best = observed[first]
        if first > 0 and after < len(observed):
            best = (observed[first] + observed[after]) / 2
        shares.append(sum((distances[i] <= best) == same[i] for i in inside) / len(inside))
    return np.mean(shares), np.std(shares)


def test_separable_distances_have_perfect_fold_accuracy():
    # The highest mated and the lowest non-mated distance are each missing from one choice.
    assert FoldedScores([1, 9, 3, 7, 2, 8], [1, 0] * 3, [0, 0, 1, 1, 2, 2]).accuracy() == (1.0, 0.0)


@steady
@given(st.lists(st.tuples(st.integers(0, 15), st.booleans(), st.integers(0, 4)), min_size=2, max_size=40))
def test_fold_accuracy_equals_the_loops(pairs):
    distances, same, fold = zip(*pairs, strict=True)
    if len(set(fold)) < 2:
        with pytest.raises(DataError, match="two folds"):
            FoldedScores(distances, same, fold).accuracy()
        return
    assert FoldedScores(distances, same, fold).accuracy() == pytest.approx(loop_accuracy(distances, same, fold))


def test_fold_accuracy_takes_weights_as_copies():
    generator = np.random.default_rng(0)
    distances = generator.integers(0, 20, 60)
    same, fold = generator.random(60) < 0.5, np.arange(60) % 3
    weights = generator.integers(0, 3, 60)
    copies = (np.repeat(values, weights) for values in (distances, same, fold))
    weighted = FoldedScores(distances, same, fold).accuracy(weights)
    assert weighted == pytest.approx(FoldedScores(*copies).accuracy())


def test_a_fold_without_weight_is_left_out():
    folded = FoldedScores([1, 9, 9, 1, 1, 9], [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2])
    assert folded.accuracy([1, 1, 0, 0, 1, 1]).mean == 1
    with pytest.raises(DataError, match="weight in two folds"):
        folded.accuracy([1, 1, 0, 0, 0, 0])
    with pytest.raises(DataError, match="expected 6 weights"):
        folded.accuracy([1, 1])


def test_unusable_folds_are_refused():
    with pytest.raises(DataError, match="one length"):
        FoldedScores([1, 2, 3], [1, 0], [0, 1]).accuracy()
    with pytest.raises(DataError, match="finite"):
        FoldedScores([1, np.nan], [1, 0], [0, 1]).accuracy()
    with pytest.raises(DataError, match="two folds"):
        FoldedScores([], [], []).accuracy()
