import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from benchmarks.key_linkability import merge_bins
from iom.errors import DataError
from iom.metrics.protection import linkability_floor, local_linkability, maximal_linkability, system_linkability

COUNTS = st.lists(st.integers(0, 30), min_size=6, max_size=6).filter(any)


def by_the_book(mated, non_mated, omega):
    """The paper's formulas, bin by bin, with the ratio where there is one."""
    total = 0.0
    for m, n in zip(mated, non_mated, strict=True):
        p_m, p_n = m / sum(mated), n / sum(non_mated)
        if p_m == 0:
            continue
        if p_n == 0:
            local = 1.0
        else:
            ratio = omega * p_m / p_n
            local = 2 * ratio / (1 + ratio) - 1 if ratio > 1 else 0.0
        total += p_m * local
    return total


@given(COUNTS, COUNTS, st.sampled_from([0.2, 1.0, 3.0]))
def test_the_measure_is_that_of_the_paper(mated, non_mated, omega):
    value = system_linkability(mated, non_mated, omega=omega)
    assert value == pytest.approx(by_the_book(mated, non_mated, omega), abs=1e-12)
    assert 0 <= value <= 1 + 1e-12


def test_a_distance_that_only_mated_templates_have_is_fully_linkable():
    """The trap: leaving such bins out reports 0 for a system that hides nothing."""
    np.testing.assert_array_equal(local_linkability([3, 2, 0], [0, 0, 9]), [1, 1, 0])
    assert system_linkability([3, 2, 0], [0, 0, 9]) == 1.0
    assert maximal_linkability([3, 2, 0], [0, 0, 9]) == 1.0


def test_a_nearly_fully_linkable_system():
    generator = np.random.default_rng(1)
    mated, non_mated = generator.binomial(512, 0.3, 50_000), generator.binomial(512, 0.5, 500_000)
    histograms = [np.bincount(scores, minlength=513) for scores in (mated, non_mated)]
    assert system_linkability(*histograms) > 0.9997


def test_equal_distributions_are_unlinkable_up_to_the_floor():
    generator = np.random.default_rng(2)
    draw = [generator.binomial(512, 0.875, n) for n in (200_000, 2_000_000)]
    histograms = [np.bincount(scores, minlength=513) for scores in draw]
    value = system_linkability(*histograms)
    assert value < 0.01
    assert value == pytest.approx(linkability_floor(*histograms), rel=0.3)
    assert maximal_linkability(*histograms) < 0.02


def test_few_comparisons_look_linkable_and_merged_bins_less_so():
    generator = np.random.default_rng(3)
    draw = [generator.binomial(512, 0.875, n) for n in (1_000, 2_000_000)]
    histograms = [np.bincount(scores, minlength=513) for scores in draw]
    value, floor = system_linkability(*histograms), linkability_floor(*histograms)
    assert value > 0.03
    assert value == pytest.approx(floor, rel=0.3)
    assert system_linkability(*merge_bins(*histograms, 10)) < 0.7 * value


def test_two_normal_distributions_against_the_integral():
    """Means half a standard deviation apart; the integral by SciPy's quadrature."""

    def integrand(s):
        mated, other = stats.norm.pdf(s, -0.5), stats.norm.pdf(s)
        return mated * max((mated - other) / (mated + other), 0.0)

    expected = integrate.quad(integrand, -9, 9, limit=200)[0]
    generator = np.random.default_rng(4)
    kinds = (generator.normal(-0.5, 1, 10**6), generator.normal(0, 1, 10**6))
    edges = np.histogram_bin_edges(np.concatenate(kinds), bins=100)
    histograms = [np.histogram(distances, edges)[0] for distances in kinds]
    assert system_linkability(*histograms) == pytest.approx(expected, abs=2e-3)


@given(COUNTS, COUNTS, st.integers(1, 8))
def test_merging_keeps_the_counts_and_never_raises_linkability(mated, non_mated, bins):
    merged = merge_bins(mated, non_mated, bins)
    assert [counts.sum() for counts in merged] == [sum(mated), sum(non_mated)]
    assert len(merged[0]) <= bins
    assert system_linkability(*merged) <= system_linkability(mated, non_mated) + 1e-12


@pytest.mark.parametrize(
    ("mated", "non_mated", "reason"),
    [
        ([1, 2], [1, 2, 3], "same bins"),
        ([0, 0], [1, 2], "mated comparisons, received none"),
        ([1, 2], [0, 0], "non-mated comparisons, received none"),
        ([1, -1], [1, 2], "mated comparisons"),
    ],
)
def test_histograms_that_do_not_serve(mated, non_mated, reason):
    with pytest.raises(DataError, match=reason):
        system_linkability(mated, non_mated)


def test_bad_arguments():
    with pytest.raises(DataError, match="omega"):
        local_linkability([1], [1], omega=0)
    with pytest.raises(DataError, match="bins"):
        merge_bins([1], [1], 0)
