import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.errors import DataError
from iom.metrics.verification import StreamedDistances, error_curve, histogram_curve

DISTANCES = st.lists(st.integers(0, 12), min_size=1, max_size=60)


def same_curve(first, second):
    np.testing.assert_array_equal(first.thresholds, second.thresholds)
    np.testing.assert_array_equal(first.fmr, second.fmr)
    np.testing.assert_array_equal(first.fnmr, second.fnmr)


@given(DISTANCES, DISTANCES)
def test_the_curve_of_counts_is_the_curve_of_the_distances(mated, non_mated):
    counted = histogram_curve(np.bincount(mated, minlength=13), np.bincount(non_mated, minlength=13))
    sorted_ = error_curve(mated, non_mated)
    same_curve(counted, sorted_)
    assert counted.equal_error_rate() == sorted_.equal_error_rate()
    assert counted.area_under_curve() == sorted_.area_under_curve()


@pytest.mark.parametrize(
    ("mated", "non_mated", "reason"),
    [
        ([1, 2], [1], "a mated and a non-mated count"),
        ([0, 0], [1, 1], "mated counts: expected at least one"),
        ([1, -1], [1, 1], "at least 0"),
        ([1, np.nan], [1, 1], "at least 0"),
    ],
)
def test_histograms_that_are_none(mated, non_mated, reason):
    with pytest.raises(DataError, match=reason):
        histogram_curve(mated, non_mated)


@given(st.integers(0, 10_000))
def test_streamed_distances_are_exact_up_to_the_limit(seed):
    generator = np.random.default_rng(seed)
    mated, non_mated = generator.normal(0.6, 0.2, 60), generator.normal(1.0, 0.2, 500)
    mated, non_mated = np.clip(mated, 0, 2), np.clip(non_mated, 0, 2)
    streamed = StreamedDistances(float(np.quantile(non_mated, 0.5)))
    for part in np.array_split(np.arange(500), 7):
        streamed.add(np.empty(0), non_mated[part])
    streamed.add(mated, np.empty(0))
    curve, exact = streamed.curve(), error_curve(mated, non_mated)
    low = exact.thresholds <= streamed.limit
    np.testing.assert_array_equal(curve.thresholds[: low.sum()], exact.thresholds[low])
    np.testing.assert_allclose(curve.fmr[: low.sum()], exact.fmr[low], rtol=1e-12)
    np.testing.assert_allclose(curve.fnmr[: low.sum()], exact.fnmr[low], rtol=1e-12)
    assert streamed.exact_to_fmr == pytest.approx(0.5, abs=0.01)
    assert curve.equal_error_rate() == pytest.approx(exact.equal_error_rate(), abs=1e-12)
    assert curve.area_under_curve() == pytest.approx(exact.area_under_curve(), abs=1e-3)


def test_streamed_distances_refuse_what_is_none():
    with pytest.raises(DataError, match="finite"):
        StreamedDistances(0.5).add(np.array([np.nan]), np.empty(0))
