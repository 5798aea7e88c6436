"""Parameters and multiply-adds against hand counting and published figures."""

import keras
import numpy as np
import pytest
from keras import layers

from iom.nn.backbones.registry import measure, multiply_adds


def network(*steps, size=8, channels=4):
    return keras.Sequential([keras.Input((size, size, channels)), *steps])


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (layers.Conv2D(16, 3, padding="same"), 8 * 8 * 9 * 4 * 16),
        (layers.Conv2D(16, 3, strides=2), 3 * 3 * 9 * 4 * 16),
        (layers.Conv2D(16, 3, groups=2), 6 * 6 * 9 * 2 * 16),
        (layers.DepthwiseConv2D(5, depth_multiplier=2), 4 * 4 * 25 * 4 * 2),
        (layers.SeparableConv2D(16, 3), 6 * 6 * (9 * 4 + 4 * 16)),
        (layers.Dense(5), 8 * 8 * 4 * 5),
        (layers.BatchNormalization(), 0),
        (layers.MaxPooling2D(), 0),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_one_layer(layer, expected):
    model = network(layer)
    assert multiply_adds(layer) == expected == measure(model).multiply_adds


def loop_count(image, kernel, stride):
    """Multiplications of a 'valid' convolution, one by one."""
    count = 0
    for _row in range(0, image.shape[0] - kernel.shape[0] + 1, stride):
        for _column in range(0, image.shape[1] - kernel.shape[1] + 1, stride):
            count += kernel.size
    return count


def test_a_convolution_counted_one_by_one():
    layer = layers.Conv2D(6, (3, 2), strides=2)
    network(layer, size=9)
    assert multiply_adds(layer) == loop_count(np.zeros((9, 9, 4)), np.asarray(layer.kernel), 2)


def test_nested_models_and_parameters():
    inner = network(layers.Conv2D(16, 1, use_bias=False), layers.BatchNormalization())
    model = network(inner, layers.Flatten(), layers.Dense(3))
    found = measure(model)
    assert found.multiply_adds == 64 * 4 * 16 + 64 * 16 * 3
    assert found.parameters == model.count_params() == 4 * 16 + 4 * 16 + 64 * 16 * 3 + 3
    assert found.trainable_parameters == found.parameters - 2 * 16
    assert not found.narrow
    assert measure(network(layers.Conv2D(24, 1))).narrow


@pytest.mark.parametrize(
    ("builder", "published"),
    # He et al., CVPR 2016, Table 1: 3.8 billion; Sandler et al., CVPR 2018, Table 4: 300 million.
    [("ResNet50", 3.8e9), ("MobileNetV2", 300e6)],
)
def test_published_figures_at_224_pixels(builder, published):
    with keras.StatelessScope(initialize_variables=False):
        model = getattr(keras.applications, builder)(weights=None)
    assert measure(model).multiply_adds == pytest.approx(published, rel=0.02)


def test_published_parameters():
    """Keras' own table: 25.6 M and 3.5 M."""
    for builder, millions in (("ResNet50", 25.6), ("MobileNetV2", 3.5)):
        with keras.StatelessScope(initialize_variables=False):
            model = getattr(keras.applications, builder)(weights=None)
        assert round(measure(model).parameters / 1e6, 1) == millions
