import numpy as np
import pytest
from scipy.stats import binomtest

from iom.errors import DataError
from iom.metrics.bootstrap import (
    Interval,
    PairSubjects,
    bootstrap_intervals,
    bootstrap_samples,
    group_draws,
    rate_interval,
)


def pairs_of(subjects, images):
    """All pairs of images, with the subject of each side."""
    labels = np.repeat(np.arange(subjects), images)
    first, second = np.triu_indices(len(labels), k=1)
    return labels[first], labels[second], labels[first] == labels[second]


def test_a_pair_counts_as_often_as_its_subjects_were_drawn():
    left, right, same = pairs_of(6, 2)
    pairs = PairSubjects(left, right, same)
    for weights in map(pairs.weights, group_draws(6, replicates=20, seed=4)):
        count = np.array([weights[same & (left == subject)][0] for subject in range(6)])
        assert count.sum() == 6  # as many subjects as there are
        for a, b, mated, weight in zip(left, right, same, weights, strict=True):
            assert weight == (count[a] if mated else count[a] * count[b])


def test_weights_do_not_depend_on_how_subjects_are_named():
    left, right, same = pairs_of(5, 2)
    names = np.array(["e", "b", "d", "a", "c"])
    order = np.argsort(np.argsort(names))
    by_number = PairSubjects(order[left], order[right], same)
    by_name = PairSubjects(names[left], names[right], same)
    for counts in group_draws(5, replicates=3, seed=1):
        np.testing.assert_array_equal(by_number.weights(counts), by_name.weights(counts))


def mean_of(values):
    return lambda weights: {"mean": float(np.average(values, weights=weights))}


def test_the_seed_decides_the_interval():
    left, right, same = pairs_of(8, 2)
    statistic = mean_of(np.arange(len(same), dtype=float))
    intervals = [
        bootstrap_intervals([statistic], PairSubjects(left, right, same), replicates=30, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert intervals[0] == intervals[1] != intervals[2]


def test_intervals_over_subjects_are_wider_than_over_pairs():
    """Distances that belong to the subject: many images of it bring no certainty."""
    generator = np.random.default_rng(0)
    left, right, same = pairs_of(30, 6)
    of_subject = generator.normal(size=30)
    values = np.where(same, of_subject[left], 5 + of_subject[left] + of_subject[right])
    mated = lambda w: {"mean": float(np.average(values[same], weights=w[same]))}  # noqa: E731
    low, high = bootstrap_intervals([mated], PairSubjects(left, right, same), replicates=300, seed=1)["mean"]
    # The mean of 30 subjects has this standard error; 450 mated pairs would claim a fourth of it.
    error = of_subject.std() / np.sqrt(30)
    assert 3.0 * error < high - low < 5.0 * error
    assert low < values[same].mean() < high


def test_keys_are_drawn_too():
    left, right, same = pairs_of(6, 2)
    constant = [lambda w, value=value: {"eer": value} for value in (0.0, 1.0, 2.0, 3.0, 4.0)]
    interval = bootstrap_intervals(constant, PairSubjects(left, right, same), replicates=2000, seed=1)["eer"]
    # The mean of five draws from five keys: standard error sqrt(2 / 5) = 0.63.
    assert interval.low == pytest.approx(2 - 1.96 * 0.632, abs=0.25)
    assert interval.high == pytest.approx(2 + 1.96 * 0.632, abs=0.25)
    alone = bootstrap_intervals(constant[3:4], PairSubjects(left, right, same), replicates=20)["eer"]
    assert alone == Interval(3.0, 3.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Simulation: the mean distance of mated pairs, 40 subjects, known truth 0."""
    generator = np.random.default_rng(5)
    left, right, same = pairs_of(40, 2)
    pairs = PairSubjects(left, right, same)
    covered = 0
    for trial in range(100):
        values = np.where(same, generator.normal(size=40)[left], 9.0)
        statistic = lambda w, v=values: {"m": float(np.average(v[same], weights=w[same]))}  # noqa: E731
        low, high = bootstrap_intervals([statistic], pairs, replicates=60, confidence=0.9, seed=trial)["m"]
        covered += low <= 0 <= high
    assert 78 <= covered <= 98


def test_draws_without_a_kind_of_pair_are_drawn_again():
    pairs = PairSubjects([0, 0], [0, 1], [True, False])
    for counts in group_draws(2, replicates=50, seed=1, usable=pairs.usable):
        assert counts.tolist() == [1.0, 1.0]


def test_draws_repeat_are_complete_and_differ_between_kinds():
    first, second = (list(group_draws(9, replicates=4, seed=2)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert all(counts.sum() == 9 for counts in first)
    assert not np.array_equal(first, list(group_draws(9, "keys", replicates=4, seed=2)))


def test_groups_of_each_kind_are_drawn_together():
    samples = bootstrap_samples(
        lambda subjects, keys: [*subjects, *keys], {"subjects": 4, "keys": 3}, replicates=5, seed=1
    )
    expected = [group_draws(n, kind, replicates=5, seed=1) for n, kind in ((4, "subjects"), (3, "keys"))]
    np.testing.assert_array_equal(samples, np.concatenate([list(each) for each in expected], axis=1))


def test_unusable_input_is_refused():
    with pytest.raises(DataError, match="one length"):
        PairSubjects([0, 1], [0], [True])
    pairs = PairSubjects([0, 0], [0, 0], [True, True])
    with pytest.raises(DataError, match="too few"):
        next(group_draws(1, replicates=1, seed=1, usable=pairs.usable))
    for statistics, options in (
        ([], {}),
        ([mean_of([1.0])], {"replicates": 0}),
        ([mean_of([1.0])], {"confidence": 1.0}),
    ):
        with pytest.raises(DataError, match="expected a statistic"):
            bootstrap_intervals(statistics, PairSubjects([0], [1], [True]), **options)


@pytest.mark.parametrize("units", [1, 8, 38, 500])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("errors", ["none", "nothing else"])
def test_no_error_has_the_exact_binomial_bound(units, confidence, errors):
    value = 0.0 if errors == "none" else 1.0
    found = rate_interval(Interval(value, value), value, units=units, confidence=confidence)
    exact = binomtest(int(units * value), units).proportion_ci(confidence, "exact")
    np.testing.assert_allclose(found, (exact.low, exact.high), rtol=1e-9)


def test_other_rates_keep_their_percentiles():
    assert rate_interval(Interval(0.1, 0.3), 0.2, units=5, confidence=0.95) == (0.1, 0.3)
    assert rate_interval(Interval(0.0, 0.9), 0.0, units=50, confidence=0.95) == (0.0, 0.9)


def test_a_rate_without_errors_has_a_width_by_its_subjects():
    """Ten subjects with mated pairs among twelve: the units are subjects, not pairs."""
    labels = np.array([*np.repeat(np.arange(10), 3), 10, 11])
    first, second = np.triu_indices(len(labels), k=1)
    left, right = labels[first], labels[second]
    same = left == right
    assert PairSubjects(left, right, same).units() == {"mated": 10, "non-mated": 12, "both": 10}
    statistic = lambda w: {"fnmr": 0.0, "fmr": 0.0, "accuracy": 1.0, "threshold": 5.0}  # noqa: E731
    found = bootstrap_intervals(
        [statistic], PairSubjects(left, right, same), replicates=20,
        rates={"fnmr": "mated", "fmr": "non-mated", "accuracy": "both"},
    )  # fmt: skip
    ten, twelve = (binomtest(0, n).proportion_ci(0.95, "exact").high for n in (10, 12))
    assert found["fnmr"] == pytest.approx((0.0, ten))
    assert found["fmr"] == pytest.approx((0.0, twelve))
    assert found["accuracy"] == pytest.approx((1 - ten, 1.0))
    assert found["threshold"] == (5.0, 5.0)
