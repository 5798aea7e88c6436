"""Integers that keep an embedding: what becomes integers, by how much it turns, and what is corrected."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

pytest.importorskip("onnxruntime")

from iom.export.integers import _noise, _range, embeddings, integer_layers, integers_within, with_integers
from iom.export.onnx import OnnxGraph, add_keras_graph

SIDE = 16


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(0).integers(0, 256, (24, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    """A network with every kind of layer that can have integers, as ONNX."""
    from onnx import TensorProto

    keras.utils.set_random_seed(0)
    image = keras.Input((SIDE, SIDE, 3), name="image")
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="random_normal")(layers.Conv2D(16, 3, strides=2)(image))
    x = layers.MaxPooling2D(2)(x)
    y = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    y = layers.Conv2D(16, 1, bias_initializer="random_normal")(layers.ReLU()(y))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([x, y])))
    network = keras.Model(image, layers.Dense(12, use_bias=False)(layers.Dense(24)(x)))
    graph = OnnxGraph()
    graph.add("Identity", add_keras_graph(graph, network, {"image": "image"}), name="embedding")
    ends = ({"image": (TensorProto.FLOAT, ["batch", SIDE, SIDE, 3])}, {"embedding": (TensorProto.FLOAT, ["batch", 12])})
    return graph.model(*ends)


def angle(model, other, faces):
    return np.sqrt(_noise(embeddings(model, faces), embeddings(other, faces)))


def weights_in_integers(model):
    from onnx import TensorProto

    return sum(each.data_type == TensorProto.INT8 and len(each.dims) > 1 for each in model.graph.initializer)


def test_all_layers_have_integers_where_the_embedding_allows_it(model, faces):
    import onnx

    made, chosen = integers_within(model, faces, angle=0.1)
    onnx.checker.check_model(made)
    assert len(chosen) == weights_in_integers(made) == 5
    assert weights_in_integers(model) == 0  # the source stays
    assert 0 < angle(model, made, faces) < 0.02


def test_pixels_are_exact_and_maps_are_pooled_as_integers(model, faces):
    first, second, *_ = integer_layers(model, faces)
    assert (first.step, first.zero) == (1.0, 0)
    nodes = list(with_integers(model, [first, second]).graph.node)
    ends = {node.op_type: node.input[0] for node in nodes if node.op_type in ("Transpose", "MaxPool")}
    made = [node.output[0] for node in nodes if node.op_type == "DequantizeLinear" and "weights" not in node.name]
    assert [ends["Transpose"], ends["MaxPool"]] == made
    assert made[0] == "image/integers/read"


def test_sensitive_layers_stay_in_floats(model, faces):
    layers = integer_layers(model, faces)
    whole = angle(model, with_integers(model, layers), faces)
    made, chosen = integers_within(model, faces, angle=0.6 * whole)
    assert 0 < len(chosen) < len(layers)
    assert angle(model, made, faces) <= 0.6 * whole
    assert integers_within(model, faces, angle=0.0)[1] == []


def test_the_mean_error_of_a_layer_is_in_its_bias(model, faces):
    coarse = []
    for layer in integer_layers(model, faces)[-1:]:
        shift = np.zeros_like(layer.bias) + 0.01
        coarse.append(dataclasses.replace(layer, bias=layer.bias + shift))
    assert angle(model, with_integers(model, integer_layers(model, faces)[-1:]), faces) < angle(
        model, with_integers(model, coarse), faces
    )


def test_rare_values_do_not_widen_a_range():
    rows = np.random.default_rng(0).standard_t(3, (6000, 8)).astype(np.float32)
    step, zero = _range(rows)
    assert 255 * step < 0.95 * (rows.max() - rows.min())
    assert 0 < zero < 255
    assert _range(np.abs(rows))[1] == 0
