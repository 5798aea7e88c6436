import keras
import numpy as np
import pytest
from scipy.linalg import block_diag
from scipy.linalg import hadamard as scipy_hadamard

from iom.keys import KEY_KINDS, TransformKey
from iom.nn.hash_numpy import block_sizes, hadamard
from iom.nn.layers.keyed import KeyedRotation

SIZES = [1, 2, 7, 16, 96, 128, 130]


def matrix_of(key, size, keep=0):
    """The key's matrix, column by column from unit vectors."""
    order = np.tile(key.signed_orders(size), (size, 1))
    return np.asarray(KeyedRotation(keep=keep)([np.eye(size, dtype="float32"), order]))


def by_hand(rows, key):
    """The definition in float64: signed permutation, Hadamard, twice, and a last permutation."""
    size = rows.shape[1]
    transform = block_diag(*[scipy_hadamard(n) / np.sqrt(n) for n in block_sizes(size)])
    for number, order in enumerate(key.signed_orders(size).reshape(3, size)):
        places = np.where(order < 0, -order - 1, order)
        rows = rows[:, places] * np.where(order < 0, -1.0, 1.0)
        if number < 2:
            rows = rows @ transform
    return rows


@pytest.mark.parametrize("size", SIZES)
def test_the_transform_is_the_definition(size):
    key = TransformKey.generate()
    rows = np.random.default_rng(size).normal(size=(9, size))
    order = np.tile(key.signed_orders(size), (9, 1))
    found = np.asarray(KeyedRotation()([rows.astype("float32"), order]))
    np.testing.assert_allclose(found, by_hand(rows, key), atol=2e-6 * np.sqrt(size) + 1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("number", range(3))
def test_it_is_orthogonal(size, number):
    matrix = matrix_of(TransformKey(number.to_bytes(32, "big")), size).astype("float64")
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-6)


def test_repeated_calls_are_equal_to_the_last_bit():
    key = TransformKey.generate()
    np.testing.assert_array_equal(matrix_of(key, 128), matrix_of(key, 128))


def test_the_identity_key_changes_nothing():
    rows = np.random.default_rng(0).normal(size=(5, 40)).astype("float32")
    order = np.tile(KEY_KINDS["orthogonal"].identity(40), (5, 1))
    np.testing.assert_allclose(KeyedRotation()([rows, order]), rows, atol=1e-6)
    np.testing.assert_allclose(hadamard(np, hadamard(np, rows)), rows, atol=1e-6)


@pytest.mark.parametrize("keep", [1, 50])
def test_each_row_has_its_own_key_and_the_first_are_kept(keep):
    keys = [TransformKey.generate() for _ in range(6)]
    rows = np.random.default_rng(1).normal(size=(6, 64)).astype("float32")
    orders = np.stack([key.signed_orders(64) for key in keys])
    found = np.asarray(KeyedRotation(keep=keep)([rows, orders]))
    assert found.shape == (6, keep)
    for row, key, result in zip(rows, keys, found, strict=True):
        np.testing.assert_allclose(result, by_hand(row[None], key)[0, :keep], atol=1e-5)


@pytest.mark.parametrize("size", [128, 640])
def test_entries_spread_like_those_of_a_random_rotation(size):
    """Mean square 1/D everywhere; fourth moment near a normal's, so no entry stands out."""
    entries = np.stack([matrix_of(TransformKey(bytes([n] * 32)), size) for n in range(3)])
    np.testing.assert_allclose(np.square(entries).mean(axis=(0, 2)), 1 / size, rtol=1e-4)
    kurtosis = (entries**4).mean() / np.square(np.square(entries).mean())
    assert 2.4 < kurtosis < 4.5  # 3 for a normal, D for a permutation
    assert np.abs(entries).max() < 0.75


def test_two_keys_give_unrelated_rows():
    rows = np.random.default_rng(3).normal(size=(200, 128)).astype("float32")
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    orders = np.stack([TransformKey(bytes([n] * 32)).signed_orders(128) for n in range(2)])
    one, two = (np.asarray(KeyedRotation()([rows, np.tile(o, (200, 1))])) for o in orders)
    cosines = (one * two).sum(axis=1)
    assert abs(cosines.mean()) < 6 / np.sqrt(128)
    assert np.abs(cosines).max() < 0.5


def test_no_weight_and_no_secret():
    layer = KeyedRotation(keep=3)
    layer([np.ones((1, 8), "float32"), TransformKey.generate().signed_orders(8)[None]])
    assert layer.weights == []
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert again.keep == 3


def test_shapes():
    inputs = [keras.Input((8,)), keras.Input((24,), dtype="int32")]
    assert KeyedRotation()(inputs).shape == (None, 8)
    assert KeyedRotation(keep=3)(inputs).shape == (None, 3)
