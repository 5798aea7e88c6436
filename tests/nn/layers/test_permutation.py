import keras
import numpy as np
import pytest

from iom.keys import TransformKey
from iom.nn.layers.keyed import KeyedPermutation


def orders(count, size):
    return np.stack([TransformKey.generate().permutation(size) for _ in range(count)])


@pytest.mark.parametrize("keep", [0, 1, 5, 12])
def test_each_row_has_its_own_order(keep):
    rows = np.random.default_rng(0).normal(size=(7, 12)).astype("float32")
    order = orders(7, 12)
    result = np.asarray(KeyedPermutation(keep=keep)([rows, order]))
    for row, place, permuted in zip(rows, order, result, strict=True):
        np.testing.assert_array_equal(permuted, row[place][: keep or None])


def test_gradient_goes_back_to_the_right_columns():
    import tensorflow as tf

    rows, order = tf.ones((1, 4)), np.array([[2, 0, 3, 1]])
    with tf.GradientTape() as tape:
        tape.watch(rows)
        value = tf.reduce_sum(KeyedPermutation(keep=2)([rows, order]) * [[10.0, 20.0]])
    np.testing.assert_array_equal(tf.convert_to_tensor(tape.gradient(value, rows)), [[20, 0, 10, 0]])


def test_it_holds_no_weight_and_no_secret():
    layer = KeyedPermutation(keep=3)
    layer([np.ones((1, 4), "float32"), orders(1, 4)])
    assert layer.weights == []
    assert set(layer.get_config()) == {"name", "trainable", "dtype", "keep", "kind"}


def test_round_trip():
    layer = keras.layers.deserialize(keras.layers.serialize(KeyedPermutation(keep=3)))
    assert layer.keep == 3
