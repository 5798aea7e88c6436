import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.errors import DataError
from iom.metrics.verification import error_curve, histogram_curve

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
