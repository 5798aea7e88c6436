import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from iom.baselines import BASELINES
from iom.baselines.scalar import normal_levels
from iom.config import CodeConfig
from iom.errors import ConfigError, DataError
from iom.keys import TransformKey

SIZE = 64
BITS = (2, 3, 4, 5)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def build(bits, **shape):
    return BASELINES[f"scalar_{bits}bit"](SIZE, CodeConfig(**shape), 1)


def key(number):
    return TransformKey(number.to_bytes(32, "big"))


@pytest.fixture
def rows():
    return unit(np.random.default_rng(3).normal(size=(300, SIZE)))


@pytest.mark.parametrize(("count", "error"), [(2, 0.3634), (4, 0.1175), (8, 0.03454), (16, 0.009497), (32, 0.002499)])
def test_levels_are_those_of_max(count, error):
    """The distortions of Max's Table I (1960)."""
    levels = normal_levels(count)
    edges = [-9, *((levels[:-1] + levels[1:]) / 2), 9]
    found = sum(
        quad(lambda value, level=level: (value - level) ** 2 * norm.pdf(value), low, high)[0]
        for level, low, high in zip(levels, edges[:-1], edges[1:], strict=True)
    )
    assert found == pytest.approx(error, abs=2e-4)
    np.testing.assert_allclose(levels, -levels[::-1], atol=1e-9)


@pytest.mark.parametrize("bits", BITS)
def test_a_template_is_the_nearest_levels_of_the_rotated_row(rows, bits):
    protection = build(bits)
    levels, rotation = normal_levels(2**bits), protection.rotation(key(1))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(SIZE), atol=1e-9)
    templates = protection.hash(rows[:5], key(1))
    assert templates.shape == (5, SIZE)
    for row, template in zip(rows[:5], templates, strict=True):
        for place in range(SIZE):
            value = np.sqrt(SIZE) * rotation[place].dot(row)
            assert template[place] == np.float32(levels[np.argmin(np.abs(levels - value))])
    np.testing.assert_array_equal(protection.hash(7 * rows[:5], key(1)), templates)


def test_distances_follow_the_cosine_the_better_the_more_bits(rows):
    first, second = rows[:150], unit(rows[:150] + 0.8 * rows[150:])
    truth = 1 - np.sum(first * second, axis=1)
    errors = []
    for bits in BITS:
        protection = build(bits)
        sides = (protection.comparator.prepare(protection.hash(side, key(2))) for side in (first, second))
        errors.append(float(np.std(protection.comparator.paired(*sides) - truth)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


def test_another_key_gives_an_unrelated_template(rows):
    one, other = (unit(build(4).hash(rows, key(number))) for number in (1, 2))
    assert abs(np.mean(np.sum(one * other, axis=1))) < 0.05


def test_bad_input(rows):
    with pytest.raises(ConfigError, match=r"code\.keep: scalar quantisation has no such step"):
        build(4, keep=8)
    with pytest.raises(DataError, match=f"N, {SIZE}"):
        build(4).hash(rows[:, :9], key(1))
