import numpy as np
import pytest

from iom.nn.losses.code.similarity import BINS, collision_curve

COSINES = np.linspace(-1, 1, BINS + 1)


def test_two_symbols_follow_the_angle():
    """Sign random projection: P(agree) = 1 - angle / pi (Goemans and Williamson, 1995)."""
    inner = np.abs(COSINES) <= 0.96
    expected = 1 - np.arccos(COSINES) / np.pi
    np.testing.assert_allclose(collision_curve(2)[inner], expected[inner], atol=1e-3)


@pytest.mark.parametrize("alphabet_size", [2, 3, 8, 64, 256])
def test_unrelated_embeddings_agree_by_chance(alphabet_size):
    curve = collision_curve(alphabet_size)
    assert abs(curve[BINS // 2] - 1 / alphabet_size) < 2e-4
    assert curve[0] == 0
    assert curve[-1] == 1
    assert (np.diff(curve) >= -1e-6).all()


@pytest.mark.parametrize("alphabet_size", [4, 8, 32])
@pytest.mark.parametrize("cosine", [-0.2, 0.3, 0.6])
def test_as_often_as_random_projections_do(alphabet_size, cosine):
    stream = np.random.default_rng(0)
    trials = 100_000
    first, second = stream.standard_normal((2, trials, alphabet_size))
    second = cosine * first + np.sqrt(1 - cosine**2) * second
    share = (first.argmax(1) == second.argmax(1)).mean()
    expected = collision_curve(alphabet_size)[round((cosine + 1) * BINS / 2)]
    assert abs(share - expected) < 5 * np.sqrt(share * (1 - share) / trials)
