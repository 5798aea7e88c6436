"""Export to ONNX, layer by layer from the Keras graph, and to int8 and OpenVINO, which are made from it.

TensorFlow's converter is not used: it pins an incompatible protobuf and transposes around every convolution
(docs/adr/070-onnx-written-by-hand.md). Maps are `(B, C, H, W)`.
"""

import functools
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import scipy.linalg
from keras import layers
from numpy.typing import NDArray

from iom.errors import WeightsError, needs_extra
from iom.export.context import ExportContext
from iom.export.folding import graph_readers
from iom.export.integers import integers_within
from iom.keys import ROTATION_ROUNDS
from iom.nn.hash_numpy import DECAY, FLOOR, RATE, block_sizes, joint_steps
from iom.nn.layers import graph_nodes

OPSET = 17
IR_VERSION = 8
"""Old enough for the runtimes of several years."""
_PADDINGS = {"same": "SAME_UPPER", "valid": "VALID"}
INTEGER_ANGLE = 0.02
"""Radians that integers may turn an embedding by: bfloat16 turns one by 0.013, and a 1536x2 code keeps 97 %."""
QUANTISED = ("Conv", "Gemm", "Add", "PRelu")
"""Operations that become integers."""


def write_onnx(context: ExportContext, path: Path) -> None:
    """Write an `.onnx` file."""
    shutil.copyfile(_onnx_file(context), path)


def write_embedder(context: ExportContext, path: Path) -> None:
    """Write the embedder alone, raw RGB in: the file of its weights where that is one, else the Keras graph."""
    from iom.pretrained.manifest import RAW
    from iom.pretrained.onnx_network import OnnxNetwork

    network = context.source.network
    if isinstance(network, OnnxNetwork) and (network.statement.colour_order, network.statement.range) == ("RGB", RAW):
        shutil.copyfile(network.path, path)
        return
    with needs_extra("writing ONNX", "onnx"):
        from onnx import TensorProto
    backbone, graph = context.source.backbone, OnnxGraph()
    graph.add("Identity", add_keras_graph(graph, backbone, {backbone.inputs[0].name: "image"}), name="embedding")
    size = backbone.inputs[0].shape[1]
    inputs = {"image": (TensorProto.FLOAT, ["batch", size, size, 3])}
    outputs = {"embedding": (TensorProto.FLOAT, ["batch", backbone.output_shape[1]])}
    path.write_bytes(graph.model(inputs, outputs).SerializeToString())


def write_int8(context: ExportContext, path: Path) -> None:
    """Write ONNX with integers (QDQ), per channel; the first layer, the last and the hash stay floats."""
    with needs_extra("int8 in ONNX", "onnx"):
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    source = _onnx_file(context)
    nodes = onnx.load(source).graph.node
    first = next(node.name for node in nodes if node.op_type == "Conv")
    embedding = next(i for i, node in enumerate(nodes) if node.name == "embedding")
    last = max(i for i, node in enumerate(nodes[:embedding]) if node.op_type in QUANTISED)
    quantize_static(
        source,
        path,
        types.SimpleNamespace(get_next=functools.partial(next, context.samples(), None)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=list(QUANTISED),
        nodes_to_exclude=[first, *(node.name for node in nodes[last:])],
    )


def write_openvino(context: ExportContext, path: Path) -> None:
    """Write OpenVINO's `.xml` and `.bin` with weights in float32; the session chooses the precision."""
    _save_openvino(_onnx_file(context), path)


def write_openvino_int8(context: ExportContext, path: Path) -> None:
    """Write OpenVINO's format with as many integers as keep the codes (`iom.export.integers`)."""
    with needs_extra("choosing integers", "onnx"):
        import onnx
        import onnxruntime  # noqa: F401
    faces = np.concatenate([sample["image"] for sample in context.samples()])
    model, _ = integers_within(onnx.load(_onnx_file(context)), faces, angle=INTEGER_ANGLE)
    source = context.scratch / "integers.onnx"
    onnx.save(model, source)
    _save_openvino(source, path)


def _save_openvino(source: Path, path: Path) -> None:
    with needs_extra("writing OpenVINO's format", "openvino"):
        import openvino
    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)


def _onnx_file(context: ExportContext) -> Path:
    """ONNX file of `iom.models.artifact.INPUTS` and `OUTPUTS`, the symbols as int32; written once."""
    path = context.scratch / "source.onnx"
    if path.exists():
        return path
    with needs_extra("writing ONNX", "onnx"):
        from onnx import TensorProto
    backbone, hasher = context.source.backbone, context.source.hasher.model
    graph = OnnxGraph()
    raw = add_keras_graph(graph, backbone, {backbone.inputs[0].name: "image"})
    embedding = graph.add("Identity", raw, name="embedding")
    responses = add_keras_graph(graph, hasher, {"embedding": embedding, "order": "order"})
    indexes = graph.add("ArgMax", responses, axis=2, keepdims=0, select_last_index=0)
    graph.add("Cast", indexes, name="codes", to=TensorProto.INT32)
    size, width = backbone.inputs[0].shape[1], hasher.get_layer("order").output.shape[1]
    model = graph.model(
        {"image": (TensorProto.FLOAT, ["batch", size, size, 3]), "order": (TensorProto.INT32, ["batch", width])},
        {
            "codes": (TensorProto.INT32, ["batch", hasher.output_shape[1]]),
            "embedding": (TensorProto.FLOAT, ["batch", backbone.output_shape[1]]),
        },
    )
    path.write_bytes(model.SerializeToString())
    return path


class OnnxGraph:
    """Nodes and constants, collected one by one; names begin with `scope`, the layer that is being written.

    `readers` are the `graph_readers` of the Keras graph, `unscaled` factor and offset of the values that miss them,
    `padding` the rows and columns of zeros that convolutions add themselves, by the tensor of the Keras graph.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.scope = "graph"
        self.readers: dict[int, list[Any]] = {}
        self.unscaled: dict[str, tuple[float, float]] = {}
        self.padding: dict[int, Any] = {}
        self._names: dict[str, int] = {}

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        from onnx import helper

        name = self._free(name or f"{self.scope}/{kind}")
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        """Add a constant and return its name."""
        name = self._free(f"{self.scope}/constant")
        self.constants[name] = np.array(values, kind, order="C")
        return name

    def columns(self, value: str, start: int, stop: int, step: int = 1) -> str:
        """Slice of the second axis."""
        bounds = (self.constant([bound], np.int64) for bound in (start, stop, 1, step))
        return self.add("Slice", value, *bounds)

    def reshape(self, value: str, *shape: int) -> str:
        """The same values, `(B, *shape)`."""
        return self.add("Reshape", value, self.constant([-1, *shape], np.int64))

    def total(self, value: str) -> str:
        """Sum over the columns, `(B, K)` -> `(B, 1)`."""
        return self.add("ReduceSum", value, self.constant([-1], np.int64), keepdims=1)

    def model(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
        """The ONNX model; inputs and outputs by name, each an element type and a shape."""
        import onnx
        from onnx import helper, numpy_helper

        ends = [[helper.make_tensor_value_info(name, *end) for name, end in side.items()] for side in (inputs, outputs)]
        constants = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "iom", *ends, initializer=constants)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _free(self, name: str) -> str:
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}/{count}"


def add_keras_graph(graph: OnnxGraph, model: keras.Model, inputs: dict[str, str]) -> str:
    """Add all layers of a functional model with one output to `graph`; gives the name of the output.

    `inputs` maps each input layer to its value in `graph`: images `(B, H, W, C)`; inside, maps are `(B, C, H, W)`. A
    layer that `LAYERS` does not have is an error.
    """
    known: dict[int, str] = {}
    for tensor in model.inputs:
        value = inputs[tensor.name]
        known[id(tensor)] = graph.add("Transpose", value, perm=[0, 3, 1, 2]) if len(tensor.shape) == 4 else value
    graph.readers = graph_readers(model)
    for node in graph_nodes(model):
        layer = node.operation
        write = LAYERS.get(type(layer).__name__)
        if write is None:
            raise WeightsError(
                f"{model.name}: the layer {layer.name} of type {type(layer).__name__} has "
                f"no counterpart in ONNX here (there are: {', '.join(sorted(LAYERS))}); add one to "
                "LAYERS in iom/export/onnx.py, or export to a format that TensorFlow writes"
            )
        graph.scope = layer.name
        values = (known[id(tensor)] for tensor in node.input_tensors)
        known[id(node.output_tensors[0])] = write(graph, layer, node, *values)
    return known[id(model.outputs[0])]


def _convolution(graph: OnnxGraph, layer: Any, node: Any, value: str) -> str:
    kernel, *bias = layer.get_weights()
    height, width, channels, outputs = kernel.shape
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, layers.DepthwiseConv2D):
        groups = channels
        kernel = kernel.reshape(height, width, 1, channels * outputs)
    (top, bottom), (left, right) = graph.padding.get(id(node.input_tensors[0]), ((0, 0), (0, 0)))
    padding: dict[str, Any] = {"pads": [top, left, bottom, right]}
    if layer.padding == "same":
        padding = {"auto_pad": _PADDINGS["same"]}
    if value in graph.unscaled:
        factor, offset = graph.unscaled[value]
        bias = [bias[0] + kernel.astype(np.float64).sum((0, 1, 2)) * offset]
        kernel = kernel.astype(np.float64) * factor
        if layer.padding == "same":
            sides = zip(
                node.input_tensors[0].shape[1:3], layer.kernel_size, layer.strides, layer.dilation_rate, strict=True
            )
            value, padding = _pad(graph, value, *(_same_padding(*side) for side in sides)), {}
    weights = [graph.constant(each) for each in (kernel.transpose(3, 2, 0, 1), *bias)]
    result = graph.add(
        "Conv",
        value,
        *weights,
        group=groups,
        kernel_shape=[height, width],
        strides=list(layer.strides),
        dilations=list(layer.dilation_rate),
        **padding,
    )
    return _activation(graph, layer, node, result)


def _same_padding(side: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
    """Padding before and behind that Keras calls 'same'."""
    total = max((-(-side // stride) - 1) * stride + (window - 1) * dilation + 1 - side, 0)
    return total // 2, total - total // 2


def _dense(graph: OnnxGraph, layer: Any, node: Any, value: str) -> str:
    weights = [graph.constant(each) for each in layer.get_weights()]
    result = graph.add("MatMul" if len(weights) == 1 else "Gemm", value, *weights)
    return _activation(graph, layer, node, result)


def _batch_norm(graph: OnnxGraph, layer: Any, node: Any, value: str) -> str:
    size = layer.moving_mean.shape[0]
    gamma = layer.gamma if layer.scale else np.ones(size)
    beta = layer.beta if layer.center else np.zeros(size)
    parts = (gamma, beta, layer.moving_mean, layer.moving_variance)
    weights = [graph.constant(np.asarray(part)) for part in parts]
    return graph.add("BatchNormalization", value, *weights, epsilon=layer.epsilon)


def _prelu(graph: OnnxGraph, layer: Any, node: Any, value: str) -> str:
    slopes = np.asarray(layer.alpha)
    return graph.add("PRelu", value, graph.constant(slopes.transpose(2, 0, 1) if slopes.ndim == 3 else slopes))


def _rescaling(graph: OnnxGraph, layer: Any, node: Any, value: str) -> str:
    """Scaling, which the first convolution takes in where it can: for speed, and bfloat16 holds raw pixels exactly."""
    scale, offset = (np.asarray(each, np.float32) for each in (layer.scale, layer.offset))
    read_once = len(graph.readers[id(node.input_tensors[0])]) == 1
    if scale.ndim == offset.ndim == 0 and read_once and _ends_in_convolution(graph, node.output_tensors[0]):
        graph.unscaled[value] = float(scale), float(offset)
        return value
    factor, shift = (graph.constant(each.reshape(-1, 1, 1) if each.ndim else each) for each in (scale, offset))
    return graph.add("Add", graph.add("Mul", value, factor), shift)


def _ends_in_convolution(graph: OnnxGraph, tensor: Any) -> bool:
    """Whether a convolution with a bias is all that reads a tensor, perhaps behind a zero padding."""
    readers = graph.readers.get(id(tensor), [])
    if len(readers) != 1:
        return False
    operation, result = readers[0]
    if isinstance(operation, layers.ZeroPadding2D):
        return _ends_in_convolution(graph, result)
    return isinstance(operation, layers.Conv2D | layers.DepthwiseConv2D) and operation.use_bias


def _zero_padding(graph: OnnxGraph, layer: Any, node: Any, value: str) -> str:
    """Padding with zeros, which the convolutions behind it take over where they can: one operation less in a map."""
    result = node.output_tensors[0]
    readers = [by for by, _ in graph.readers[id(result)]]
    if value not in graph.unscaled and all(
        isinstance(by, layers.Conv2D | layers.DepthwiseConv2D) and by.padding == "valid" for by in readers
    ):
        graph.padding[id(result)] = layer.padding
        return value
    return _pad(graph, value, *layer.padding)


def _pad(graph: OnnxGraph, value: str, rows: tuple[int, int], columns: tuple[int, int]) -> str:
    """Pad a map with what stands for zero: before a scaling still to come, the middle of the pixel range."""
    factor, offset = graph.unscaled.get(value, (1.0, 0.0))
    pads = graph.constant([0, 0, rows[0], columns[0], 0, 0, rows[1], columns[1]], np.int64)
    result = graph.add("Pad", value, pads, graph.constant(-offset / factor))
    if value in graph.unscaled:
        graph.unscaled[result] = factor, offset
    return result


def _pad_channels(graph: OnnxGraph, layer: Any, node: Any, value: str) -> str:
    missing = layer.channels - node.input_tensors[0].shape[-1]
    return graph.add("Pad", value, graph.constant([0, 0, 0, 0, 0, missing, 0, 0], np.int64))


def _flatten(graph: OnnxGraph, layer: Any, node: Any, value: str) -> str:
    if len(node.input_tensors[0].shape) == 4:
        value = graph.add("Transpose", value, perm=[0, 2, 3, 1])
    return graph.add("Flatten", value)


def _reshape(graph: OnnxGraph, layer: Any, node: Any, value: str) -> str:
    shape = list(layer.target_shape)
    if len(shape) == 3 and shape[:2] == [1, 1]:
        return graph.reshape(value, shape[2], 1, 1)
    if len(shape) != 1 or len(node.input_tensors[0].shape) == 4:
        raise WeightsError(f"{layer.name}: expected a row or a map of 1x1, received {shape}")
    return graph.reshape(value, *shape)


def _slice(graph: OnnxGraph, operation: Any, node: Any, value: str) -> str:
    """Slice of channels: `x[..., start:stop:step]`."""
    _, index = node.arguments.args
    if not isinstance(index, tuple) or len(index) != 2 or index[0] is not Ellipsis:
        raise WeightsError(f"{operation.name}: expected a slice of channels, received {index}")
    last = index[1]
    return graph.columns(value, last.start or 0, last.stop or np.iinfo(np.int64).max, last.step or 1)


def _pooled(kind: str, graph: OnnxGraph, layer: Any, node: Any, value: str) -> str:
    window, strides = list(layer.pool_size), list(layer.strides)
    return graph.add(kind, value, kernel_shape=window, strides=strides, auto_pad=_PADDINGS[layer.padding])


def _global_average(graph: OnnxGraph, layer: Any, node: Any, value: str) -> str:
    pooled = graph.add("GlobalAveragePool", value)
    return pooled if layer.keepdims else graph.add("Flatten", pooled)


def _folded(kind: str, graph: OnnxGraph, layer: Any, node: Any, *values: str) -> str:
    return functools.reduce(functools.partial(graph.add, kind), values)


def _relu(graph: OnnxGraph, layer: Any, node: Any, value: str) -> str:
    if layer.negative_slope or layer.threshold:
        raise WeightsError(f"{layer.name}: expected a plain or a capped ReLU")
    return graph.add("Relu", value) if layer.max_value is None else _clipped(graph, value, layer.max_value)


def _activation(graph: OnnxGraph, layer: Any, node: Any, value: str) -> str:
    name = keras.activations.serialize(layer.activation)
    if name == "linear":
        return value
    if name == "relu6":
        return _clipped(graph, value, 6.0)
    if name in ("silu", "swish"):
        return graph.add("Mul", value, graph.add("Sigmoid", value))
    kinds = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus"}
    if name not in kinds:
        raise WeightsError(f"{layer.name}: the activation {name} has no counterpart in ONNX here")
    return graph.add(kinds[name], value)


def _clipped(graph: OnnxGraph, value: str, bound: float) -> str:
    return graph.add("Clip", value, graph.constant(0.0), graph.constant(bound))


def _unit_length(graph: OnnxGraph, layer: Any, node: Any, rows: str) -> str:
    square = graph.total(graph.add("Mul", rows, rows))
    return graph.add("Div", rows, graph.add("Sqrt", graph.add("Max", square, graph.constant(FLOOR))))


def _keyed_permutation(graph: OnnxGraph, layer: Any, node: Any, rows: str, order: str) -> str:
    if layer.keep:
        order = graph.columns(order, 0, layer.keep)
    return graph.add("GatherElements", rows, order, axis=1)


def _keyed_rotation(graph: OnnxGraph, layer: Any, node: Any, rows: str, order: str) -> str:
    """As `KeyedRotation`, the Hadamard transform as a product with its symmetric matrix."""
    size = node.input_tensors[0].shape[-1]
    blocks = (scipy.linalg.hadamard(block) / np.sqrt(block) for block in block_sizes(size))
    matrix = graph.constant(scipy.linalg.block_diag(*blocks))
    zero, one = graph.constant(0, np.int32), graph.constant(1, np.int32)
    for number in range(ROTATION_ROUNDS):
        last = number + 1 == ROTATION_ROUNDS
        width = layer.keep if last and layer.keep else size
        part = graph.columns(order, number * size, number * size + width)
        negated = graph.add("Less", part, zero)
        opposite = graph.add("Sub", graph.add("Neg", part), one)
        taken = graph.add("GatherElements", rows, graph.add("Where", negated, opposite, part), axis=1)
        rows = graph.add("Where", negated, graph.add("Neg", taken), taken)
        if not last:
            rows = graph.add("MatMul", rows, matrix)
    return rows


def _projection(graph: OnnxGraph, layer: Any, node: Any, rows: str) -> str:
    kernel = np.asarray(layer.kernel)
    if layer.refinement_steps:
        rows = _refined(graph, layer, kernel, rows)
    flat = graph.add("MatMul", rows, graph.constant(kernel))
    return graph.reshape(flat, layer.code_length, layer.alphabet_size)


def _product(graph: OnnxGraph, layer: Any, node: Any, rows: str) -> str:
    codebook = np.asarray(layer.codebook)
    size = len(codebook) // layer.window
    blocks = graph.reshape(rows, layer.code_length, size)
    if layer.window == 2:
        parts = graph.columns(blocks, 1, layer.code_length), graph.columns(blocks, 0, 1)
        blocks = graph.add("Concat", blocks, graph.add("Concat", *parts, axis=1), axis=2)
    responses = graph.add("MatMul", blocks, graph.constant(codebook))
    if layer.half_norm_bias:
        responses = graph.add("Sub", responses, graph.constant(0.5 * np.square(codebook).sum(axis=0)))
    if layer.window == 1:
        return responses
    pairs = -codebook[size:].T @ codebook[:size]
    backwards = graph.columns(responses, -1, np.iinfo(np.int64).min, -1)
    behind = _max_sums(graph, layer, backwards, pairs.T)
    behind = graph.columns(behind, -1, np.iinfo(np.int64).min, -1)
    return graph.add("Add", graph.add("Add", responses, _max_sums(graph, layer, responses, pairs)), behind)


def _max_sums(graph: OnnxGraph, layer: Any, responses: str, pairs: NDArray[Any]) -> str:
    """As that of `iom.nn.hash_numpy`."""
    length, alphabet_size = layer.code_length, layer.alphabet_size
    reach, arc = joint_steps(length)
    count = length // arc
    around = graph.add("Concat", graph.columns(responses, length - reach, length), responses, axis=1)
    both = graph.constant(pairs)
    sums = graph.add("Mul", graph.columns(responses, 0, count), graph.constant(0.0))
    found = []
    for step in range(reach + arc):
        if step >= reach:
            found.append(graph.reshape(sums, count, 1, alphabet_size))
        here = graph.columns(around, step, step + (count - 1) * arc + 1, arc)
        columns = graph.reshape(graph.add("Add", sums, here), count, alphabet_size, 1)
        sums = graph.add("ReduceMax", graph.add("Add", columns, both), axes=[2], keepdims=0)
    return graph.reshape(graph.add("Concat", *found, axis=2), length, alphabet_size)


def _refined(graph: OnnxGraph, layer: Any, kernel: NDArray[Any], rows: str) -> str:
    """As `iom.nn.layers.index_of_max.refine`."""
    vectors = kernel.reshape(len(kernel), -1, layer.alphabet_size)
    centred = vectors - vectors.mean(2, keepdims=True)
    in_pairs = layer.alphabet_size == 2  # then the two of a position are opposite
    centred = centred[:, :, 0] if in_pairs else centred.reshape(kernel.shape)
    forth, back = graph.constant(centred), graph.constant(centred.T)

    def read_back(value: str) -> str:
        flat = graph.add("MatMul", value, forth)
        if in_pairs:
            return graph.add("MatMul", graph.add("Sign", flat), back)
        responses = graph.reshape(flat, layer.code_length, layer.alphabet_size)
        chosen = graph.add("Equal", responses, graph.add("ReduceMax", responses, axes=[-1], keepdims=1))
        codes = graph.reshape(graph.add("Cast", chosen, to=1), kernel.shape[1])
        return graph.add("MatMul", codes, back)

    held = read_back(rows)
    along = graph.add("Max", graph.total(graph.add("Mul", held, rows)), graph.constant(FLOOR))
    whole = graph.total(graph.add("Mul", held, held))
    across = graph.add("Sub", whole, graph.add("Mul", along, along))
    positive = graph.add("Max", across, graph.constant(0.0))
    asked = graph.add("Mul", positive, graph.constant(layer.refinement_gain))
    scale = graph.add("Add", along, graph.add("Div", asked, along))
    corrected = rows
    for step in range(layer.refinement_steps):
        rate = graph.constant(RATE / (1.0 + DECAY * step))
        remainder = graph.add("Sub", rows, graph.add("Div", held, scale))
        corrected = graph.add("Add", corrected, graph.add("Mul", remainder, rate))
        if step + 1 < layer.refinement_steps:
            held = read_back(corrected)
    return corrected


LAYERS: dict[str, Callable[..., str]] = {
    "Activation": _activation,
    "Add": functools.partial(_folded, "Add"),
    "AveragePooling2D": functools.partial(_pooled, "AveragePool"),
    "BatchNormalization": _batch_norm,
    "Concatenate": lambda graph, layer, node, *values: graph.add("Concat", *values, axis=1),
    "Conv2D": _convolution,
    "Dense": _dense,
    "DepthwiseConv2D": _convolution,
    "Dropout": lambda graph, layer, node, value: value,
    "Flatten": _flatten,
    "GetItem": _slice,
    "GlobalAveragePooling2D": _global_average,
    "IoMProjection": _projection,
    "KeyedPermutation": _keyed_permutation,
    "KeyedRotation": _keyed_rotation,
    "MaxPooling2D": functools.partial(_pooled, "MaxPool"),
    "Multiply": functools.partial(_folded, "Mul"),
    "PReLU": _prelu,
    "PadChannels": _pad_channels,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "ProductProjection": _product,
    "UnitLength": _unit_length,
    "ZeroPadding2D": _zero_padding,
}
"""Type of a Keras layer to its writer: `(graph, layer, node, *inputs) -> output`."""
