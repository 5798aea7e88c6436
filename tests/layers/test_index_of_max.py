import inspect

import keras
import numpy as np
import pytest

from iom.errors import ConfigError
from iom.layers.index_of_max import (
    FRAMES,
    IoMProjection,
    gaussian_frame,
    hard_index,
    orthonormal_frame,
    relaxed_codes,
    soft_index,
)
from iom.seeding import numpy_stream


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


@pytest.mark.parametrize("frame", sorted(FRAMES))
def test_frames_follow_the_seed(frame):
    values = [FRAMES[frame](16, 40, numpy_stream(seed, "x")) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])
    assert values[0].shape == (16, 40)


def test_gaussian_columns_have_length_one_on_average():
    norms = np.linalg.norm(gaussian_frame(128, 4000, numpy_stream(0, "x")), axis=0)
    assert abs((norms**2).mean() - 1) < 0.02


def test_orthonormal_columns():
    frame = orthonormal_frame(16, 40, numpy_stream(0, "x"))
    for start in (0, 16):
        block = frame[:, start : start + 16]
        np.testing.assert_allclose(block.T @ block, np.eye(16), atol=1e-5)


def test_hard_index_takes_the_first_of_equals():
    rows = np.array([[[1.0, 3.0, 3.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -0.5]]], "float32")
    np.testing.assert_array_equal(hard_index(rows), [[1, 0, 2]])


def test_soft_index_is_the_expected_index(responses):
    weights = np.exp(2.0 * responses)
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(soft_index(responses, 2.0), weights @ np.arange(4.0), rtol=1e-5)


def test_the_known_flaw_of_the_soft_index():
    split = np.array([[[0.0, 0.0, 9.0, 0.0, 9.0]]], "float32")
    assert abs(float(soft_index(split, 10.0)[0, 0]) - 3.0) < 1e-4
    assert int(hard_index(split)[0, 0]) == 2


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


@pytest.mark.parametrize("trainable", [True, False])
def test_saved_vectors_are_exactly_the_same(tmp_path, trainable):
    entry = keras.Input((32,))
    model = keras.Model(entry, IoMProjection(64, 8, trainable=trainable)(entry))
    rows = np.random.default_rng(0).normal(size=(9, 32)).astype("float32")
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(model.predict_on_batch(rows), again.predict_on_batch(rows))


def test_frozen_vectors_take_half_the_bytes(tmp_path):
    sizes = []
    for trainable in (True, False):
        entry = keras.Input((64,))
        model = keras.Model(entry, IoMProjection(512, 8, trainable=trainable)(entry))
        path = tmp_path / f"{trainable}.keras"
        model.save(path)
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]


def test_unknown_frame():
    with pytest.raises(ConfigError, match="did you mean 'gaussian'"):
        IoMProjection(6, 4, initial="gausian")
