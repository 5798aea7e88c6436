import itertools
import math

import numpy as np
import pytest

from iom._random import numpy_stream
from iom.baselines import BASELINES
from iom.config import CodeConfig
from iom.errors import ConfigError, DataError, KeyMaterialError
from iom.keys import TransformKey
from iom.nn.frames import FRAMES

SIZE = 64
SCALAR = tuple(name for name in BASELINES if name.startswith("scalar"))
OTHERS = ("biohash", "mlphash", "polyprotect", "bloom", "ifo", "sign", *SCALAR)
"""Not index-of-max: see test_binary.py and test_scalar.py."""
INDEX_OF_MAX = sorted(set(BASELINES) - set(OTHERS))


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def vectors(count, cosine=0.0, seed=0):
    """Pairs of unit vectors with a given cosine."""
    rng = np.random.default_rng(seed)
    first = unit(rng.normal(size=(count, SIZE)))
    other = rng.normal(size=(count, SIZE))
    other = unit(other - (other * first).sum(1, keepdims=True) * first)
    return first, (cosine * first + math.sqrt(1 - cosine**2) * other).astype(np.float32)


def build(name, **shape):
    return BASELINES[name](SIZE, CodeConfig(**({"code_length": 256} | shape)), 1)


def key(number):
    return TransformKey(number.to_bytes(32, "big"))


@pytest.mark.parametrize("name", INDEX_OF_MAX)
def test_codes_have_the_stated_shape_and_repeat(name):
    protection = build(name, alphabet_size=6)
    rows, _ = vectors(20)
    codes = protection.hash(rows, key(1))
    assert codes.shape == (20, 256)
    assert codes.dtype == np.uint8
    assert codes.max() < 6
    np.testing.assert_array_equal(codes, build(name, alphabet_size=6).hash(rows, key(1)))


@pytest.mark.parametrize("name", INDEX_OF_MAX)
def test_only_the_direction_counts(name):
    rows, _ = vectors(10)
    protection = build(name)
    np.testing.assert_array_equal(protection.hash(rows, key(1)), protection.hash(7 * rows, key(1)))


@pytest.mark.parametrize("name", INDEX_OF_MAX)
def test_another_key_gives_an_unrelated_code(name):
    """On average over keys: two permutations of 64 have a fixed point or two in common."""
    rows, _ = vectors(100)
    protection = build(name)
    codes = [protection.hash(rows, key(number)) for number in range(1, 13)]
    agreement = np.mean([(a == b).mean() for a, b in itertools.pairwise(codes)])
    assert abs(agreement - 1 / 8) < 0.01


@pytest.mark.parametrize("name", INDEX_OF_MAX)
def test_unrelated_vectors_agree_by_chance_and_near_ones_more(name):
    protection = build(name)
    agreement = []
    for cosine in (0.0, 0.5, 0.9):
        first, second = vectors(300, cosine)
        same = protection.hash(first, key(1)) == protection.hash(second, key(1))
        agreement.append(same.mean())
    assert abs(agreement[0] - 1 / 8) < 0.015
    assert agreement[0] < agreement[1] < agreement[2]


@pytest.mark.parametrize("cosine", [-0.5, 0.0, 0.3, 0.8])
def test_grp_of_two_symbols_is_sign_projection(cosine):
    """P(agree) = 1 - angle / pi (Goemans and Williamson, 1995)."""
    first, second = vectors(2000, cosine)
    protection = build("grp", alphabet_size=2)
    agreement = (protection.hash(first, key(1)) == protection.hash(second, key(1))).mean()
    assert abs(agreement - (1 - math.acos(cosine) / math.pi)) < 0.01


def test_grp_follows_the_definition():
    protection = build("grp", code_length=6, alphabet_size=3, keep=40)
    rows, _ = vectors(4)
    order = key(5).permutation(SIZE)[:40]
    projection = protection.public_projection
    assert projection.shape == (40, 6, 3)
    for row, code in zip(rows, protection.hash(rows, key(5)), strict=True):
        for position in range(6):
            values = [row[order] @ projection[:, position, symbol] for symbol in range(3)]
            assert code[position] == int(np.argmax(values))


@pytest.mark.parametrize("name", INDEX_OF_MAX)
def test_a_key_for_each_row(name):
    rows, _ = vectors(6)
    keys = [key(number % 3) for number in range(6)]
    protection = build(name)
    together = protection.hash(rows, keys)
    for row, one, code in zip(rows, keys, together, strict=True):
        np.testing.assert_array_equal(protection.hash(row[None], one)[0], code)


@pytest.mark.parametrize("name", INDEX_OF_MAX)
def test_no_rows(name):
    assert build(name).hash(np.empty((0, SIZE), np.float32), key(1)).shape == (0, 256)


@pytest.mark.parametrize("name", INDEX_OF_MAX)
def test_bad_input(name):
    rows, _ = vectors(3)
    with pytest.raises(DataError, match=f"N, {SIZE}"):
        build(name).hash(rows[:, :10], key(1))
    with pytest.raises(DataError):
        build(name).hash(np.full_like(rows, np.nan), key(1))
    with pytest.raises(KeyMaterialError, match="received 2"):
        build(name).hash(rows, [key(1), key(2)])


def test_shapes_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"code\.keep"):
        build("grp", keep=SIZE + 1)
    with pytest.raises(ConfigError, match=r"code\.alphabet_size"):
        build("urp", alphabet_size=SIZE + 1)
    with pytest.raises(ConfigError, match=r"code\.keep"):
        build("urp", keep=8)


def test_a_framed_code_follows_the_definition():
    protection = build("simplex", code_length=6, alphabet_size=3, keep=40)
    rows, _ = vectors(4)
    order = key(5).permutation(SIZE)[:40]
    stream = numpy_stream(1, "index-of-max/projection")
    vectors_of = FRAMES["simplex"](40, 6, 3, stream).astype(np.float16).astype(np.float32)
    responses = (rows[:, order] @ vectors_of).reshape(4, 6, 3)
    np.testing.assert_array_equal(protection.hash(rows, key(5)), responses.argmax(axis=2))


@pytest.mark.parametrize("frame", ["orthonormal", "simplex", "cross_polytope"])
def test_refined_codes_follow_the_cosine_more_closely(frame):
    """At one cosine the number of agreeing positions scatters less from pair to pair."""
    scatter = []
    for name in (frame, f"{frame}_refined"):
        first, second = vectors(400, 0.4)
        protection = build(name, alphabet_size=4)
        same = protection.hash(first, key(1)) == protection.hash(second, key(1))
        near, far = (
            (protection.hash(a, key(1)) == protection.hash(b, key(1))).mean()
            for a, b in (vectors(400, 0.45), vectors(400, 0.35))
        )
        scatter.append(same.mean(axis=1).std() / (near - far))
    assert scatter[1] < 0.95 * scatter[0]


def test_refinement_takes_the_steps_and_the_gain_of_the_configuration():
    rows, _ = vectors(50)
    default = build("simplex_refined").hash(rows, key(1))
    np.testing.assert_array_equal(default, build("simplex_refined", refinement_steps=10).hash(rows, key(1)))
    for other in ({"refinement_steps": 1}, {"refinement_gain": 1.0}):
        assert (build("simplex_refined", **other).hash(rows, key(1)) != default).any()
    np.testing.assert_array_equal(
        build("simplex").hash(rows, key(1)), build("simplex", refinement_steps=5).hash(rows, key(1))
    )


def test_shapes_that_a_frame_cannot_have():
    with pytest.raises(ConfigError, match=r"code\.keep"):
        build("simplex", keep=SIZE + 1)
    with pytest.raises(ConfigError, match="even Q"):
        build("cross_polytope", alphabet_size=5)
    with pytest.raises(ConfigError, match="Q - 1 <= 8"):
        build("simplex", alphabet_size=16, keep=8)
