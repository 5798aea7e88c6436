import keras
import numpy as np
import pytest

from iom.errors import ConfigError
from iom.nn.backbones.registry import build_backbone

SMALL = {"stem": 16, "widths": (16, 16, 16, 16), "depths": (1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("name", "parameters"),
    # Parameters of InsightFace's PyTorch models, which count running statistics as buffers: conv,
    # FC, PReLU and batch-norm weights, plus our two running statistics per batch-norm channel.
    [("iresnet18", 24_025_600), ("iresnet34", 34_139_328), ("iresnet50", 43_590_848)],
)
def test_size_of_the_standard_networks(name, parameters):
    model = build_backbone(name)
    counted = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    # The scale of the last batch norm is fixed at one there: 512 parameters that do not train.
    assert counted + 512 == parameters


def test_shapes_and_feature_map():
    model = build_backbone("iresnet_slim", embedding_size=32, **SMALL)
    assert model.input_shape == (None, 112, 112, 3)
    assert model.output_shape == (None, 32)
    assert model.get_layer("bn2").output.shape == (None, 7, 7, 16)


def test_every_weight_gets_a_gradient():
    import tensorflow as tf

    model = build_backbone("iresnet_slim", embedding_size=16, **SMALL)
    images = np.random.default_rng(0).uniform(0, 255, (4, 112, 112, 3)).astype("float32")
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(model(images, training=True) ** 3)
    for weight, gradient in zip(model.trainable_weights, tape.gradient(value, model.trainable_weights), strict=True):
        assert gradient is not None, weight.path
        assert np.abs(gradient).max() > 0, weight.path


def test_save_and_load(tmp_path):
    model = build_backbone("iresnet_slim", embedding_size=16, **SMALL)
    images = np.random.default_rng(0).uniform(0, 255, (2, 112, 112, 3)).astype("float32")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(again.predict_on_batch(images), model.predict_on_batch(images))


def test_pixels_are_scaled_inside():
    """The graph takes raw pixels: 0..255 spans -1..1 behind the scaling layer."""
    layer = build_backbone("iresnet_slim", embedding_size=16, **SMALL).get_layer("pixel_scaling")
    np.testing.assert_allclose(layer(np.array([0.0, 127.5, 255.0])), [-1, 0, 1], atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"widths": (16, 32), "depths": (1,)},
        {"widths": (16, 24), "depths": (1, 1)},
        {"stem": 8},
        {"widths": (), "depths": ()},
        {"no_such_argument": 1},
    ],
)
def test_bad_arguments(arguments):
    with pytest.raises(ConfigError):
        build_backbone("iresnet_slim", embedding_size=16, **arguments)


def test_unknown_backbone():
    with pytest.raises(ConfigError, match="did you mean 'iresnet50'"):
        build_backbone("iresnet55")
