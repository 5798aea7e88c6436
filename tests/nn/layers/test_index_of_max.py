import inspect

import keras
import numpy as np
import pytest

from iom.errors import ConfigError
from iom.nn.layers.index_of_max import CentredPositions, IoMProjection, hard_index, relaxed_codes


@pytest.fixture
def responses():
    return np.random.default_rng(0).normal(size=(5, 6, 4)).astype("float32")


def test_projection_matches_a_loop():
    layer = IoMProjection(6, 4, seed=3)
    rows = np.random.default_rng(0).normal(size=(5, 16)).astype("float32")
    result = np.asarray(layer(rows))
    kernel = np.asarray(layer.kernel).reshape(16, 6, 4)
    for b in range(5):
        for m in range(6):
            for q in range(4):
                assert abs(result[b, m, q] - rows[b] @ kernel[:, m, q]) < 1e-5


def test_no_bias():
    layer = IoMProjection(6, 4)
    assert (np.asarray(layer(np.zeros((1, 16), "float32"))) == 0).all()
    assert len(layer.weights) == 1


def test_hard_index_takes_the_first_of_equals():
    rows = np.array([[[1.0, 3.0, 3.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -0.5]]], "float32")
    np.testing.assert_array_equal(hard_index(rows), [[1, 0, 2]])


@pytest.mark.parametrize("straight_through", [False, True])
def test_relaxed_codes_sum_to_one_and_agree_with_the_code(responses, straight_through):
    relaxed = np.asarray(relaxed_codes(responses, 8.0, straight_through=straight_through))
    np.testing.assert_allclose(relaxed.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(relaxed.argmax(-1), hard_index(responses))
    if straight_through:
        np.testing.assert_allclose(np.sort(relaxed, axis=-1)[..., :-1], 0, atol=1e-6)


def test_straight_through_has_the_gradient_of_the_softmax(responses):
    import tensorflow as tf

    gradients = []
    for straight_through in (False, True):
        x = tf.constant(responses)
        with tf.GradientTape() as tape:
            tape.watch(x)
            relaxed = relaxed_codes(x, 3.0, straight_through=straight_through)
            value = tf.reduce_sum(relaxed * np.arange(4.0, dtype="float32"))
        gradients.append(tape.gradient(value, x).numpy())
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)
    assert np.abs(gradients[1]).max() > 0


def test_every_argument_is_in_the_configuration():
    arguments = set(inspect.signature(IoMProjection.__init__).parameters) - {"self", "kwargs"}
    assert arguments <= set(IoMProjection(6, 4).get_config())
    layer = IoMProjection(6, 4, initial="orthonormal", seed=5, trainable=False)
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert again.get_config() == layer.get_config()


def saved_and_loaded(model, path):
    model.save(path)
    return keras.saving.load_model(path)


def test_frozen_vectors_are_saved_exactly(tmp_path):
    entry = keras.Input((32,))
    model = keras.Model(entry, IoMProjection(64, 8, trainable=False)(entry))
    rows = np.random.default_rng(0).normal(size=(9, 32)).astype("float32")
    again = saved_and_loaded(model, tmp_path / "m.keras")
    np.testing.assert_array_equal(model.predict_on_batch(rows), again.predict_on_batch(rows))


def test_learned_vectors_are_rounded_once(tmp_path):
    entry = keras.Input((32,))
    model = keras.Model(entry, IoMProjection(64, 8)(entry))
    once = saved_and_loaded(model, tmp_path / "once.keras")
    twice = saved_and_loaded(once, tmp_path / "twice.keras")
    kernels = [np.asarray(part.layers[-1].kernel) for part in (model, once, twice)]
    np.testing.assert_allclose(kernels[0], kernels[1], rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(kernels[1], kernels[2])


def test_a_file_takes_two_bytes_a_value(tmp_path):
    entry = keras.Input((64,))
    keras.Model(entry, IoMProjection(512, 8)(entry)).save(tmp_path / "m.keras")
    assert (tmp_path / "m.keras").stat().st_size < 2.2 * 64 * 512 * 8


def test_unknown_frame():
    with pytest.raises(ConfigError, match="did you mean 'gaussian'"):
        IoMProjection(6, 4, initial="gausian")


def test_centring_changes_no_code():
    """Neither a common part of a position's vectors nor their scale is seen by an argmax."""
    stream = np.random.default_rng(0)
    vectors = stream.normal(size=(16, 20, 4)) + 3 * stream.normal(size=(16, 20, 1))
    kernel = (vectors * stream.uniform(0.5, 2, (1, 20, 1))).reshape(16, 80).astype("float32")
    centred = np.asarray(CentredPositions(4)(kernel)).reshape(16, 20, 4)
    rows = stream.normal(size=(50, 16)).astype("float32")
    before = (rows @ kernel).reshape(50, 20, 4).argmax(-1)
    np.testing.assert_array_equal((rows @ centred.reshape(16, 80)).reshape(50, 20, 4).argmax(-1), before)
    np.testing.assert_allclose(centred.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(np.square(centred).sum(0).mean(-1), 1, rtol=1e-5)


def test_centring_twice_is_centring_once():
    kernel = np.random.default_rng(0).normal(size=(8, 12)).astype("float32")
    once = CentredPositions(3)(kernel)
    np.testing.assert_allclose(CentredPositions(3)(once), once, atol=1e-6)
    assert CentredPositions.from_config(CentredPositions(3).get_config()).alphabet_size == 3


def test_only_learned_vectors_are_constrained():
    learned, frozen = IoMProjection(5, 4), IoMProjection(5, 4, trainable=False)
    for layer in (learned, frozen):
        layer.build((None, 8))
    assert isinstance(learned.kernel.constraint, CentredPositions)
    assert frozen.kernel.constraint is None
