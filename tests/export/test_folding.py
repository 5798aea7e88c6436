"""Batch norms folded away change nothing but rounding."""

import keras
import numpy as np
import pytest

from iom.export.folding import fold_batch_norms
from iom.nn.backbones.registry import build_backbone


def trained(model):
    """The model with batch norms that do something."""
    stream = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([stream.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


def norms(model):
    return sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)


def largest_change(model, folded):
    images = np.random.default_rng(1).uniform(0, 255, (2, *model.input_shape[1:]))
    before, after = (np.asarray(network(images.astype("float32"))) for network in (model, folded))
    return np.abs(before - after).max() / before.std()


@pytest.mark.parametrize(
    ("name", "left"), [("mobilefacenet", 1), ("mobilefacenet_y1", 0), ("ghostnet", 0), ("iresnet_slim", 1)]
)
def test_folded_backbones_give_the_same_embedding(name, left):
    model = trained(build_backbone(name, embedding_size=32))
    weights = [w.copy() for w in model.get_weights()]
    folded = fold_batch_norms(model)
    assert largest_change(model, folded) < 1e-4
    # What stays stands behind an activation, in front of a padded convolution.
    assert norms(folded) == left < norms(model)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def chain(*layers):
    image = x = keras.Input((6, 6, 3), name="image")
    for layer in layers:
        x = layer(x)
    return trained(keras.Model(image, keras.layers.Flatten()(x)))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("depthwise", [False, True])
def test_a_norm_in_front_is_folded_only_without_padding(depthwise, padding):
    layer = (
        keras.layers.DepthwiseConv2D(3, padding=padding) if depthwise else keras.layers.Conv2D(4, 3, padding=padding)
    )
    model = chain(keras.layers.BatchNormalization(), layer)
    folded = fold_batch_norms(model)
    assert norms(folded) == (padding == "same")
    assert largest_change(model, folded) < 1e-5


def test_a_result_with_two_readers_is_left_alone():
    image = keras.Input((6, 6, 3), name="image")
    x = keras.layers.Conv2D(4, 1)(image)
    y = keras.layers.Add()([x, keras.layers.BatchNormalization()(x)])
    model = trained(keras.Model(image, keras.layers.Flatten()(y)))
    folded = fold_batch_norms(model)
    assert norms(folded) == 1
    assert largest_change(model, folded) < 1e-5


def test_an_activation_between_keeps_both():
    model = chain(keras.layers.Conv2D(4, 1, activation="relu"), keras.layers.BatchNormalization())
    folded = fold_batch_norms(model)
    assert norms(folded) == 1
    assert largest_change(model, folded) < 1e-5


def residual(*, shortcut, activation="linear"):
    """Two sums; the batch norm of the first stands in front of a padded convolution."""

    def branch(x, name):
        y = keras.layers.BatchNormalization(name=f"{name}_front")(x)
        y = keras.layers.ZeroPadding2D(1)(y)
        y = keras.layers.Conv2D(4, 3, activation=activation, use_bias=False)(y)
        return keras.layers.BatchNormalization()(y)

    image = keras.Input((6, 6, 4), name="image")
    first = keras.layers.Add()([image, branch(image, "first")])
    second = keras.layers.Add()([shortcut(first), branch(first, "second")])
    return trained(keras.Model(image, keras.layers.Flatten()(second)))


@pytest.mark.parametrize(
    ("shortcut", "left"),
    [
        (lambda x: x, 1),
        (keras.layers.Conv2D(4, 1), 1),
        (keras.layers.Conv2D(4, 3, padding="same"), 2),  # its padding cannot move
        (keras.layers.ReLU(), 2),
    ],
)
def test_a_sum_moves_where_all_that_reads_it_can_take_it_back(shortcut, left):
    model = residual(shortcut=shortcut)
    folded = fold_batch_norms(model)
    assert norms(folded) == left
    assert largest_change(model, folded) < 1e-5


def test_a_sum_does_not_move_through_an_activation_or_too_far():
    model = residual(shortcut=lambda x: x, activation="relu")
    folded = fold_batch_norms(model)
    assert norms(folded) == 4
    assert largest_change(model, folded) < 1e-5
    model = residual(shortcut=lambda x: x)
    gamma, *others = model.get_layer("second_front").get_weights()
    model.get_layer("second_front").set_weights([gamma * 0, *others])
    folded = fold_batch_norms(model)
    assert norms(folded) == 2
    assert largest_change(model, folded) < 1e-5
