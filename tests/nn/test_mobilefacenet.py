"""MobileFaceNet in its two layouts: shapes, names, the grouped convolution, saving, training."""

import keras
import numpy as np
import pytest

from iom.errors import ConfigError
from iom.nn.backbones.registry import build_backbone
from iom.pretrained.importers.mxnet import read_params

SMALL = {"blocks": (1, 1, 1, 1), "input_size": 48, "embedding_size": 16}


def mobilefacenet(**settings):
    return build_backbone("mobilefacenet", **settings)


def mobilefacenet_y1(**settings):
    return build_backbone("mobilefacenet_y1", **{"embedding_size": 128, **settings})


def pixels(count, size, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (count, size, size, 3)).astype("f4")


def test_as_many_numbers_as_the_original():
    """PyTorch's export of InsightFace's `mbf`, batch norms folded: 2,047,616 numbers."""
    model = mobilefacenet()
    batch_norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    folded = sum(3 * layer.moving_mean.shape[0] for layer in batch_norms)
    assert model.count_params() - folded == 2_047_616


def test_as_many_numbers_as_the_published_y1(foreign_weights):
    arrays = read_params(foreign_weights("mobilefacenet_y1/model-0000.params"))
    # The published file also holds the scale of the last batch norm, which is fixed at one.
    expected = sum(array.size for array in arrays.values()) - 128
    assert mobilefacenet_y1().count_params() == expected


def test_raw_pixels_in_embedding_out():
    model = mobilefacenet_y1(input_size=48, embedding_size=16)
    assert model.input_shape == (None, 48, 48, 3)
    assert model.output_shape == (None, 16)
    assert model.layers[1].name == "pixel_scaling"
    scaled = keras.Model(model.input, model.get_layer("pixel_scaling").output)
    image = np.full((1, 48, 48, 3), 127.5, np.float32)
    np.testing.assert_allclose(scaled(image), 0, atol=1e-6)
    assert np.isfinite(model(pixels(2, 48))).all()


def test_no_grouped_convolution_is_left():
    for model in (mobilefacenet(**SMALL), mobilefacenet_y1(input_size=48)):
        for layer in model.layers:
            assert getattr(layer, "groups", 1) == 1 or isinstance(layer, keras.layers.DepthwiseConv2D)


def test_depthwise_parts_equal_a_grouped_convolution():
    """Against Keras' own grouped `Conv2D` with the same kernels."""
    model = mobilefacenet(**SMALL)
    before = model.get_layer("stem_prelu").output
    ours = keras.Model(model.input, [before, model.get_layer("grouped_sum").output])
    maps, sums = ours(pixels(2, 48))
    kernels = [np.asarray(model.get_layer(f"grouped_conv{part}").kernel) for part in range(2)]
    # Ours: part, (3, 3, groups, results). Keras: (3, 3, channels of a group, groups * results).
    kernel = np.stack(kernels, axis=2).reshape(3, 3, 2, 128)
    expected = keras.ops.conv(keras.ops.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0))), kernel, padding="valid")
    np.testing.assert_allclose(sums, expected, atol=1e-4)


@pytest.mark.parametrize("build", [mobilefacenet, mobilefacenet_y1])
def test_round_trip(tmp_path, build):
    settings = SMALL if build is mobilefacenet else {"input_size": 48, "embedding_size": 16}
    model = build(**settings)
    model.save(tmp_path / "x.keras")
    again = keras.models.load_model(tmp_path / "x.keras")
    images = pixels(2, 48)
    np.testing.assert_allclose(again(images), model(images), atol=1e-5)


def test_every_weight_is_trained():
    model = mobilefacenet(**SMALL)
    before = [np.array(weight) for weight in model.trainable_weights]
    model.compile("sgd", "mse", run_eagerly=True)
    targets = np.random.default_rng(1).normal(size=(4, 16)).astype("f4")
    model.fit(pixels(4, 48), targets, verbose=0)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert not np.array_equal(np.asarray(weight), old), weight.path


@pytest.mark.parametrize("blocks", [(1, 1, 1), (0, 1, 1, 1)])
def test_wrong_blocks_are_refused(blocks):
    with pytest.raises(ConfigError, match="four"):
        mobilefacenet(blocks=blocks)
