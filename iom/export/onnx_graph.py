"""A Keras graph written as an ONNX graph, layer by layer.

Not by way of TensorFlow: its converter pins an old protobuf and lays transpositions around every
convolution. Here maps are `(B, C, H, W)`, as the runtimes want them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from iom.errors import WeightsError
from iom.export.folding import graph_nodes

OPSET = 17
IR_VERSION = 8
"""Old enough for the runtimes of several years."""


class OnnxGraph:
    """Nodes and constants, collected one by one."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self._names: dict[str, int] = {}

    def add(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        from onnx import helper

        name = self._free(name)
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, values: Any, name: str, kind: Any = np.float32) -> str:
        """Add a constant and return its name."""
        name = self._free(name)
        self.constants[name] = np.array(values, kind, order="C")
        return name

    def _free(self, name: str) -> str:
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}/{count}"

    def model(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
        """The ONNX model; inputs and outputs by name, each an element type and a shape."""
        import onnx
        from onnx import helper, numpy_helper

        def described(values: dict[str, Any]) -> list[Any]:
            return [helper.make_tensor_value_info(name, *value) for name, value in values.items()]

        constants = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "iom", described(inputs), described(outputs), initializer=constants)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model


def add_keras_graph(
    graph: OnnxGraph, model: keras.Model, inputs: dict[str, str], *, more: "Mapping[str, Write] | None" = None
) -> str:
    """Add all layers of a functional model; maps become `(B, C, H, W)`.

    Args:
        graph: Is added to.
        model: One output; batch norms folded.
        inputs: By the name of each input layer, the name of its value in `graph`. Images are
            `(B, H, W, C)` there and turned.
        more: Layers beside those of `LAYERS`.

    Returns:
        The name of the output.

    Raises:
        WeightsError: A layer that `LAYERS` does not have.
    """
    table = {**LAYERS, **(more or {})}
    known: dict[int, str] = {}
    for tensor in model.inputs:
        value = inputs[tensor.name]
        if len(tensor.shape) == 4:
            value = graph.add("Transpose", [value], "channels_first", perm=[0, 3, 1, 2])
        known[id(tensor)] = value
    for node in graph_nodes(model):
        operation = node.operation
        write = table.get(type(operation).__name__)
        if write is None:
            raise WeightsError(
                f"{model.name}: the layer {operation.name} of type {type(operation).__name__} has "
                f"no counterpart in ONNX here (there are: {', '.join(sorted(table))}); add one to "
                "LAYERS in iom/export/onnx_graph.py, or export to a format that TensorFlow writes"
            )
        values = [known[id(tensor)] for tensor in node.input_tensors]
        known[id(node.output_tensors[0])] = write(graph, operation, node, values)
    return known[id(model.outputs[0])]


def _convolution(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    kernel, *bias = layer.get_weights()
    height, width, channels, outputs = kernel.shape
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, layers.DepthwiseConv2D):
        groups = channels
        kernel = kernel.reshape(height, width, 1, channels * outputs)
    weights = [graph.constant(kernel.transpose(3, 2, 0, 1), f"{layer.name}/kernel")]
    if bias:
        weights.append(graph.constant(bias[0], f"{layer.name}/bias"))
    result = graph.add(
        "Conv", [values[0], *weights], layer.name, group=groups, kernel_shape=[height, width],
        strides=list(layer.strides), dilations=list(layer.dilation_rate), **_padding(layer),
    )  # fmt: skip
    return _activated(graph, layer, result)


def _padding(layer: Any) -> dict[str, Any]:
    return {"auto_pad": "SAME_UPPER" if layer.padding == "same" else "VALID"}


def _dense(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    kernel, *bias = layer.get_weights()
    weights = [graph.constant(values_, f"{layer.name}/weights") for values_ in (kernel, *bias)]
    if not bias:
        return _activated(graph, layer, graph.add("MatMul", [values[0], *weights], layer.name))
    return _activated(graph, layer, graph.add("Gemm", [values[0], *weights], layer.name))


def _batch_norm(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    size = layer.moving_mean.shape[0]
    gamma = layer.gamma if layer.scale else np.ones(size)
    beta = layer.beta if layer.center else np.zeros(size)
    parts = (gamma, beta, layer.moving_mean, layer.moving_variance)
    names = [graph.constant(np.asarray(part), f"{layer.name}/weights") for part in parts]
    return graph.add("BatchNormalization", [*values, *names], layer.name, epsilon=layer.epsilon)


def _prelu(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    slopes = np.asarray(layer.alpha)
    if slopes.ndim == 3:
        slopes = slopes.transpose(2, 0, 1)
    return graph.add("PRelu", [*values, graph.constant(slopes, f"{layer.name}/slopes")], layer.name)


def _rescaling(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    scale = graph.constant(_per_channel(layer.scale), f"{layer.name}/scale")
    offset = graph.constant(_per_channel(layer.offset), f"{layer.name}/offset")
    scaled = graph.add("Mul", [values[0], scale], f"{layer.name}/scaled")
    return graph.add("Add", [scaled, offset], layer.name)


def _per_channel(values: Any) -> Any:
    array = np.asarray(values, np.float32)
    return array.reshape(-1, 1, 1) if array.ndim else array


def _padded(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    (top, bottom), (left, right) = layer.padding
    pads = [0, 0, top, left, 0, 0, bottom, right]
    return graph.add("Pad", [*values, graph.constant(pads, f"{layer.name}/pads", np.int64)],
                     layer.name)  # fmt: skip


def _flatten(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    value = values[0]
    if len(node.input_tensors[0].shape) == 4:
        value = graph.add("Transpose", [value], f"{layer.name}/turned", perm=[0, 2, 3, 1])
    return graph.add("Flatten", [value], layer.name)


def _reshape(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    shape = list(layer.target_shape)
    if len(shape) == 3 and shape[:2] == [1, 1]:
        shape = [shape[2], 1, 1]
    elif len(shape) != 1 or len(node.input_tensors[0].shape) == 4:
        raise WeightsError(f"{layer.name}: expected a row or a map of 1x1, received {shape}")
    target = graph.constant([-1, *shape], f"{layer.name}/shape", np.int64)
    return graph.add("Reshape", [values[0], target], layer.name)


def _slice(graph: OnnxGraph, operation: Any, node: Any, values: list[str]) -> str:
    """Of channels: `x[..., start::step]`."""
    _, index = node.arguments.args
    if not isinstance(index, tuple) or len(index) != 2 or index[0] is not Ellipsis:
        raise WeightsError(f"{operation.name}: expected a slice of channels, received {index}")
    last = index[1]
    axis = 1
    bounds = (last.start or 0, last.stop or np.iinfo(np.int64).max, axis, last.step or 1)
    names = [graph.constant([bound], f"{operation.name}/bound", np.int64) for bound in bounds]
    return graph.add("Slice", [values[0], *names], operation.name)


def _pooled(kind: str) -> "Write":
    def write(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
        window = {"kernel_shape": list(layer.pool_size), "strides": list(layer.strides)}
        return graph.add(kind, values, layer.name, **window, **_padding(layer))

    return write


def _global_average(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    pooled = graph.add("GlobalAveragePool", values, layer.name)
    return pooled if layer.keepdims else graph.add("Flatten", [pooled], f"{layer.name}/flat")


def _folded(kind: str) -> "Write":
    def write(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
        result = values[0]
        for value in values[1:]:
            result = graph.add(kind, [result, value], layer.name)
        return result

    return write


def _concatenated(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    return graph.add("Concat", values, layer.name, axis=1)


def _relu(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    if layer.negative_slope or layer.threshold:
        raise WeightsError(f"{layer.name}: expected a plain or a capped ReLU")
    if layer.max_value is None:
        return graph.add("Relu", values, layer.name)
    bounds = [graph.constant(bound, f"{layer.name}/bound") for bound in (0.0, layer.max_value)]
    return graph.add("Clip", [*values, *bounds], layer.name)


def _activation(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    return _activated(graph, layer, values[0])


def _activated(graph: OnnxGraph, layer: Any, value: str) -> str:
    name = keras.activations.serialize(layer.activation)
    if name == "linear":
        return value
    label = f"{layer.name}/{name}"
    if name == "relu6":
        bounds = [graph.constant(bound, f"{label}/bound") for bound in (0.0, 6.0)]
        return graph.add("Clip", [value, *bounds], label)
    if name in ("silu", "swish"):
        return graph.add("Mul", [value, graph.add("Sigmoid", [value], f"{label}/gate")], label)
    kinds = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus"}
    if name not in kinds:
        raise WeightsError(f"{layer.name}: the activation {name} has no counterpart in ONNX here")
    return graph.add(kinds[name], [value], label)


def _same(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    return values[0]


Write = Callable[[OnnxGraph, Any, Any, list[str]], str]
LAYERS: dict[str, Write] = {
    "Activation": _activation,
    "Add": _folded("Add"),
    "AveragePooling2D": _pooled("AveragePool"),
    "BatchNormalization": _batch_norm,
    "Concatenate": _concatenated,
    "Conv2D": _convolution,
    "Dense": _dense,
    "DepthwiseConv2D": _convolution,
    "Dropout": _same,
    "Flatten": _flatten,
    "GetItem": _slice,
    "GlobalAveragePooling2D": _global_average,
    "MaxPooling2D": _pooled("MaxPool"),
    "Multiply": _folded("Mul"),
    "PReLU": _prelu,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "ZeroPadding2D": _padded,
}
"""Type of a Keras layer to what writes it."""
