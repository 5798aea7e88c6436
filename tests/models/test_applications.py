"""Networks of keras.applications with the embedding head."""

import keras
import numpy as np
import pytest

from iom.models.applications import (
    inception_resnet_v2,
    mobilenet_v2,
    resnet50,
    resnet101,
    vgg16,
    vgg19,
    xception,
)
from iom.models.backbones import BACKBONES

SMALL = {"embedding_size": 16, "dropout": 0.4}
BUILDERS = [resnet50, resnet101, mobilenet_v2, inception_resnet_v2, xception, vgg16, vgg19]


def pixels(count, size):
    return np.random.default_rng(0).uniform(0, 255, (count, size, size, 3)).astype("f4")


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_shapes_and_finite_embeddings(build):
    size = 75 if build in (inception_resnet_v2, xception) else 48
    model = build(input_size=size, **SMALL)
    assert BACKBONES[build.__name__] is build
    assert model.input_shape == (None, size, size, 3)
    assert model.output_shape == (None, 16)
    assert model.layers[1].name == "pixel_scaling"
    assert model.layers[-1].name == "embedding"
    if build in (resnet101, inception_resnet_v2, vgg19):
        return  # the larger sisters of others here take seconds to run
    result = np.asarray(model(pixels(2, size)))
    assert np.isfinite(result).all()
    assert not np.array_equal(result[0], result[1])


def test_full_size_default():
    model = mobilenet_v2()
    assert model.input_shape == (None, 112, 112, 3)
    assert model.output_shape == (None, 512)


@pytest.mark.parametrize("build", [mobilenet_v2, vgg16])
def test_round_trip(tmp_path, build):
    model = build(input_size=48, **SMALL)
    model.save(tmp_path / "x.keras")
    again = keras.models.load_model(tmp_path / "x.keras")
    images = pixels(2, 48)
    np.testing.assert_allclose(again(images), model(images), atol=1e-5)


def test_pixels_are_scaled_inside():
    model = vgg16(input_size=48, **SMALL)
    scaled = keras.Model(model.input, model.get_layer("pixel_scaling").output)
    ends = np.stack([np.zeros((48, 48, 3)), np.full((48, 48, 3), 255)]).astype("f4")
    result = np.asarray(scaled(ends))
    np.testing.assert_allclose(result[0], -1, atol=1e-6)
    np.testing.assert_allclose(result[1], 1, atol=1e-6)
