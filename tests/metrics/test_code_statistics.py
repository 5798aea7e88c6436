import math

import numpy as np
import pytest
from scipy import stats

from iom.errors import CodeError, DataError
from iom.metrics.protection import degrees_of_freedom, effective_bits, min_entropy, nominal_bits, symbol_entropy
from iom.metrics.verification import error_curve


@pytest.fixture
def codes():
    """Skewed symbols."""
    return np.random.default_rng(0).choice(5, p=[0.4, 0.3, 0.15, 0.1, 0.05], size=(3000, 6))


def test_entropies_against_scipy(codes):
    for position in range(6):
        counts = np.bincount(codes[:, position], minlength=5)
        assert symbol_entropy(codes, 5)[position] == pytest.approx(stats.entropy(counts, base=2))
        expected = -math.log2(counts.max() / counts.sum())
        assert min_entropy(codes, 5)[position] == pytest.approx(expected)


def test_a_constant_position_does_not_hide_among_balanced_ones():
    codes = np.random.default_rng(1).integers(0, 8, size=(500, 20))
    codes[:, 7] = 3
    assert symbol_entropy(codes, 8)[7] == 0
    assert np.delete(symbol_entropy(codes, 8), 7).min() > 2.9


def test_degrees_of_freedom_count_independent_positions():
    generator = np.random.default_rng(3)
    once = generator.binomial(60, 0.7, 200_000)
    assert degrees_of_freedom(np.bincount(once, minlength=61)) == pytest.approx(60, rel=0.02)
    # Every position twice: twice the code, the same degrees of freedom.
    assert degrees_of_freedom(np.bincount(2 * once, minlength=121)) == pytest.approx(60, rel=0.02)


def test_effective_bits_are_the_false_match_rate():
    curve = error_curve([1, 2, 3], np.arange(1, 17))
    assert effective_bits(curve, 1) == 4
    assert effective_bits(curve, 2.5) == 3
    assert effective_bits(curve, 0.5) == math.inf
    assert nominal_bits(256, 32) == 1280


def test_what_does_not_serve():
    with pytest.raises(CodeError, match="below 3"):
        symbol_entropy(np.array([[0, 3]]), 3)
    with pytest.raises(CodeError, match="integers"):
        min_entropy(np.array([[0.0, 1.0]]), 3)
    with pytest.raises(DataError, match="one distance"):
        degrees_of_freedom([0, 5, 0])
    with pytest.raises(DataError, match="counts for"):
        degrees_of_freedom([0, 0])
