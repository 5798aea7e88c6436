"""The scaling of pixels folded into the first convolution: the same results, fewer operations."""

import keras
import numpy as np
import pytest
from keras import layers

onnxruntime = pytest.importorskip("onnxruntime")

from iom.export.onnx import OnnxGraph, add_keras_graph  # noqa: E402

SIDE = 13


def written(model):
    from onnx import TensorProto

    graph = OnnxGraph()
    output = add_keras_graph(graph, model, {model.inputs[0].name: "image"})
    ends = (
        {"image": (TensorProto.FLOAT, ["batch", SIDE, SIDE, 3])},
        {output: (TensorProto.FLOAT, ["batch", None, None, None])},
    )
    return graph.model(*ends)


def computed(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"image": images})[0].transpose(0, 2, 3, 1)


@pytest.mark.parametrize("padding", ["same", "valid", "own"])
@pytest.mark.parametrize("window", [(3, 1, 1), (3, 2, 1), (5, 3, 1), (4, 1, 2)])
def test_the_same_result_with_the_borders(padding, window):
    kernel, strides, dilation = window
    image = keras.Input((SIDE, SIDE, 3), name="image")
    rows = layers.Rescaling(1 / 128, offset=-127.5 / 128)(image)
    if padding == "own":
        rows = layers.ZeroPadding2D(((2, 1), (0, 3)))(rows)
    rows = layers.Conv2D(
        8,
        kernel,
        strides=strides,
        dilation_rate=dilation,
        bias_initializer="random_normal",
        padding="valid" if padding == "own" else padding,
    )(rows)
    model = keras.Model(image, layers.ReLU()(rows))
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.float32)
    folded = written(model)
    pads = [] if padding == "valid" else ["Pad"]
    assert [node.op_type for node in folded.graph.node] == ["Transpose", *pads, "Conv", "Relu"]
    expected = np.asarray(model(images))
    np.testing.assert_allclose(computed(folded, images), expected, atol=2e-5)


def per_channel(image):
    return layers.Conv2D(4, 3)(layers.Rescaling([1.0, 2.0, 3.0])(image))


def read_twice(image):
    scaled = layers.Rescaling(0.5, offset=1.0)(image)
    return layers.Concatenate()([layers.Conv2D(4, 3, padding="same")(scaled), scaled])


def without_bias(image):
    return layers.Conv2D(4, 3, use_bias=False)(layers.Rescaling(0.5, offset=1.0)(image))


@pytest.mark.parametrize("build", [per_channel, read_twice, without_bias])
def test_a_scaling_that_no_convolution_takes_in_stays(build):
    image = keras.Input((SIDE, SIDE, 3), name="image")
    model = keras.Model(image, build(image))
    made = written(model)
    assert "Mul" in [node.op_type for node in made.graph.node]
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.float32)
    np.testing.assert_allclose(computed(made, images), model(images), rtol=1e-4, atol=1e-3)


def test_zeros_around_a_map_are_added_by_the_convolutions_that_alone_read_them():
    image = keras.Input((SIDE, SIDE, 3), name="image")
    padded = layers.ZeroPadding2D(((2, 1), (0, 3)))(layers.ReLU()(image))
    rows = [layers.Conv2D(4, 3, strides=2, bias_initializer="random_normal")(padded), layers.AveragePooling2D(2)(image)]
    rows[0] = layers.ZeroPadding2D(1)(layers.ZeroPadding2D(((0, 1), (0, 1)))(rows[0]))  # behind it no convolution
    rows[1] = layers.ZeroPadding2D(((2, 2), (1, 3)))(layers.MaxPooling2D(1)(rows[1]))
    model = keras.Model(image, layers.Concatenate()(rows))
    made = written(model)
    assert [node.op_type for node in made.graph.node].count("Pad") == 3
    images = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    np.testing.assert_allclose(computed(made, images), model(images), atol=2e-5)


def test_channels_padded_with_zeros():
    from iom.nn.backbones.dlib_resnet import PadChannels

    image = keras.Input((SIDE, SIDE, 3), name="image")
    model = keras.Model(image, PadChannels(8)(layers.AveragePooling2D(2, 2)(image)))
    images = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    np.testing.assert_allclose(computed(written(model), images), model(images), atol=1e-6)
