"""Baselines made for bits, sets or real vectors: each against a loop, and its paper's property."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.baselines import BASELINES
from iom.baselines.binary import BLOCK_WORDS, WORD_BITS
from iom.baselines.polyprotect import OVERLAP, TERMS
from iom.baselines.protection import stored_bits
from iom.config import CodeConfig
from iom.errors import CodeError, ConfigError, DataError, KeyMaterialError
from iom.keys import TransformKey

SIZE = 64
NAMES = ("biohash", "mlphash", "polyprotect", "bloom", "ifo", "sign")
BITS = ("biohash", "mlphash", "sign")


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def vectors(count, cosine=0.0, seed=0):
    rng = np.random.default_rng(seed)
    first = unit(rng.normal(size=(count, SIZE)))
    other = rng.normal(size=(count, SIZE))
    other = unit(other - (other * first).sum(1, keepdims=True) * first)
    return first, (cosine * first + math.sqrt(1 - cosine**2) * other).astype(np.float32)


def build(name, **shape):
    shape = {"code_length": 64, "alphabet_size": 8} | shape
    return BASELINES[name](SIZE, CodeConfig(**shape), 1)


def key(number):
    return TransformKey(number.to_bytes(32, "big"))


def distances(protection, first, second, keys=(1, 1)):
    comparator = protection.comparator
    sides = (protection.hash(rows, key(n)) for rows, n in zip((first, second), keys, strict=True))
    return comparator.paired(*(comparator.prepare(side) for side in sides))


@pytest.mark.parametrize("name", NAMES)
def test_templates_have_the_stated_shape_and_repeat(name):
    protection = build(name)
    rows, _ = vectors(20)
    templates = protection.hash(rows, key(1))
    assert templates.shape == (20, protection.code_length)
    if protection.alphabet_size:
        assert templates.dtype == np.uint8
        assert templates.max() < protection.alphabet_size
    np.testing.assert_array_equal(templates, build(name).hash(rows, key(1)))


@pytest.mark.parametrize("name", NAMES)
def test_only_the_direction_counts(name):
    rows, _ = vectors(10)
    protection = build(name)
    np.testing.assert_allclose(
        protection.hash(rows, key(1)).astype(float), protection.hash(8 * rows, key(1)).astype(float), rtol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_nearer_vectors_get_nearer_templates(name):
    protection = build(name)
    means = [distances(protection, *vectors(200, cosine)).mean() for cosine in (0, 0.5, 0.9, 1)]
    assert means[0] > means[1] > means[2] > means[3]
    assert means[3] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_another_key_makes_the_same_vector_unrelated(name):
    """Revocability: one vector under two keys is as far as two vectors under two keys."""
    protection = build(name)
    first, second = vectors(100)
    pairs = list(itertools.pairwise(range(1, 25)))
    same = np.mean([distances(protection, first, first, keys).mean() for keys in pairs])
    other = np.mean([distances(protection, first, second, keys).mean() for keys in pairs])
    near = distances(protection, *vectors(100, 0.7)).mean()
    assert abs(same - other) < 0.25 * abs(other - near)


@pytest.mark.parametrize("name", NAMES)
def test_a_key_for_each_row(name):
    rows, _ = vectors(6)
    keys = [key(number % 3) for number in range(6)]
    protection = build(name)
    together = protection.hash(rows, keys)
    for row, one, template in zip(rows, keys, together, strict=True):
        np.testing.assert_allclose(protection.hash(row[None], one)[0], template, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_bad_input(name):
    rows, _ = vectors(3)
    protection = build(name)
    assert protection.hash(rows[:0], key(1)).shape == (0, protection.code_length)
    with pytest.raises(DataError, match=f"N, {SIZE}"):
        protection.hash(rows[:, :10], key(1))
    with pytest.raises(KeyMaterialError, match="received 2"):
        protection.hash(rows, [key(1), key(2)])
    if name not in ("bloom", "sign"):
        with pytest.raises(ConfigError, match=r"code\.keep"):
            build(name, keep=8)


@pytest.mark.parametrize("name", BITS)
def test_bits_are_compared_at_equal_storage(name):
    assert build(name).code_length == 64 * 3 == stored_bits(CodeConfig(code_length=64))


@pytest.mark.parametrize("name", ["biohash", "sign"])
@pytest.mark.parametrize("cosine", [-0.5, 0.0, 0.3, 0.8])
def test_a_bit_agrees_by_the_angle(name, cosine):
    """P(agree) = 1 - angle / pi (Goemans and Williamson, 1995)."""
    protection = build(name, code_length=256)
    apart = distances(protection, *vectors(2000, cosine)).mean() / protection.code_length
    assert abs(apart - math.acos(cosine) / math.pi) < 0.01


def test_biohash_follows_the_definition():
    protection = build("biohash", code_length=50, alphabet_size=2)
    projection = protection.projection(key(3))
    np.testing.assert_allclose(projection @ projection.T, np.eye(50), atol=1e-12)
    rows, _ = vectors(4)
    for row, code in zip(rows, protection.hash(rows, key(3)), strict=True):
        assert [int(sum(r * x for r, x in zip(line, row, strict=True)) > 0) for line in projection] == (code.tolist())


def test_biohash_of_more_bits_than_dimensions_is_orthonormal_in_blocks():
    projection = build("biohash", code_length=100, alphabet_size=2).projection(key(3))
    assert projection.shape == (100, SIZE)
    np.testing.assert_allclose(projection[:64] @ projection[:64].T, np.eye(64), atol=1e-12)
    np.testing.assert_allclose(projection[64:] @ projection[64:].T, np.eye(36), atol=1e-12)


def test_mlphash_follows_the_definition_and_is_not_linear():
    protection = build("mlphash", code_length=30, alphabet_size=2)
    rows, _ = vectors(5)
    *hidden, last = protection.layers(key(2))
    for row, code in zip(rows, protection.hash(rows, key(2)), strict=True):
        values = row.astype(float)
        for weights in hidden:
            values = np.array([weight @ values for weight in weights])
            values = np.tanh(values / math.sqrt(np.mean(values**2)))
        assert [int(weight @ values > 0) for weight in last] == code.tolist()
    straight = last @ hidden[1] @ hidden[0] @ rows.T.astype(float) > 0
    assert (protection.hash(rows, key(2)) != straight.T).any()


def test_polyprotect_follows_the_definition():
    protection = build("polyprotect")
    coefficients, exponents = protection.polynomial(key(9))
    assert len(set(coefficients.tolist())) == TERMS
    assert 0 not in coefficients
    assert np.abs(coefficients).max() <= 50
    assert sorted(exponents.tolist()) == list(range(1, TERMS + 1))
    rows, _ = vectors(3)
    for row, template in zip(rows, protection.hash(rows, key(9)), strict=True):
        values = row.astype(float) / np.linalg.norm(row.astype(float))
        expected = [
            sum(c * values[start + j] ** int(e) for j, (c, e) in enumerate(zip(coefficients, exponents, strict=True)))
            for start in range(0, SIZE - TERMS + 1, TERMS - OVERLAP)
        ]
        np.testing.assert_allclose(template, expected, rtol=1e-9)


@given(st.integers(0, 4), st.integers(5, 40))
def test_polyprotect_covers_every_entry(overlap, size):
    from iom.baselines import polyprotect

    before = polyprotect.OVERLAP
    polyprotect.OVERLAP = overlap
    try:
        protection = polyprotect.PolyProtect(size, CodeConfig(), 1)
        rows = unit(np.random.default_rng(size).normal(size=(2, size)))
        template = protection.hash(rows, key(1))
        assert template.shape == (2, math.ceil((size - TERMS) / (TERMS - overlap)) + 1)
        changed = rows.copy()
        changed[:, -1] = 2.0
        assert (protection.hash(changed, key(1))[:, -1] != template[:, -1]).all()
    finally:
        polyprotect.OVERLAP = before


def test_bloom_follows_the_definition():
    protection = build("bloom")
    rows, _ = vectors(3)
    for row, template in zip(rows, protection.hash(rows, key(4)), strict=True):
        bits = row @ protection.directions(key(4)).reshape(SIZE, -1) > 0
        filters = template.reshape(protection.blocks, 16)
        for block in range(protection.blocks):
            words = set()
            for word in range(BLOCK_WORDS):
                start = (block * BLOCK_WORDS + word) * WORD_BITS
                words.add(sum(int(bits[start + i]) << i for i in range(WORD_BITS)))
            assert set(np.flatnonzero(filters[block]).tolist()) == words


def test_set_dissimilarity_against_sets():
    protection = build("bloom")
    comparator = protection.comparator
    first, second = (protection.hash(rows, key(1)) for rows in vectors(7, 0.4))
    a, b = comparator.prepare(first), comparator.prepare(second)
    table = comparator.all_pairs(a, b)
    for i, j in itertools.product(range(7), range(7)):
        shares = []
        for x, y in zip(first[i].reshape(-1, 16), second[j].reshape(-1, 16), strict=True):
            left, right = set(np.flatnonzero(x)), set(np.flatnonzero(y))
            shares.append(len(left ^ right) / (len(left) + len(right)))
        assert table[i, j] == pytest.approx(np.mean(shares), abs=1e-6)
    np.testing.assert_allclose(comparator.paired(a, b), np.diag(table), atol=1e-6)


def test_ifo_follows_the_definition():
    protection = build("ifo", alphabet_size=5)
    rows, _ = vectors(3)
    windows = protection.windows(key(4))
    codes = protection.hash(rows, key(4))
    for row, code in zip(rows, codes, strict=True):
        bits = row @ protection.directions > 0
        for position in range(64):
            product = [all(bits[windows[factor, position, place]] for factor in range(2)) for place in range(5)]
            assert code[position] == (product.index(True) if True in product else 5)
    assert (codes == 5).any()


def test_collisions_against_a_loop():
    protection = build("ifo", alphabet_size=5)
    comparator = protection.comparator
    first, second = (protection.hash(rows, key(1)) for rows in vectors(7, 0.4))
    second[0] = 5  # all void
    table = comparator.all_pairs(comparator.prepare(first), comparator.prepare(second))
    for i, j in itertools.product(range(7), range(7)):
        told = [(x, y) for x, y in zip(first[i], second[j], strict=True) if 5 not in (x, y)]
        share = sum(x == y for x, y in told) / len(told) if told else 0.0
        assert table[i, j] == pytest.approx(1 - share, abs=1e-9)
    np.testing.assert_allclose(comparator.paired(first, second), np.diag(table), atol=1e-9)


def test_comparators_refuse_what_they_cannot_compare():
    with pytest.raises(CodeError, match="Bloom"):
        build("bloom").comparator.prepare(np.zeros((2, 15), np.uint8))
    with pytest.raises(CodeError, match="Bloom"):
        build("bloom").comparator.prepare(np.full((2, 16), 2, np.uint8))
    with pytest.raises(DataError, match="first at row 1"):
        build("polyprotect").comparator.prepare(np.array([[1.0, 0], [0, 0]]))


def test_codes_are_compared_by_differing_positions():
    assert build("grp").comparator.unit == "differing positions"
    assert build("biohash").comparator.alphabet_size == 2
