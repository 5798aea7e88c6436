"""Export to ONNX, layer by layer from the Keras graph, and to what is made from it: int8 and OpenVINO.

Not by way of TensorFlow: its converter pins a protobuf that TensorFlow 2.21 does not run with, and lays transpositions
around every convolution; and the first of equally large responses must count (docs/adr/070-onnx-written-by-hand.md).
Maps are `(B, C, H, W)`, as the runtimes want them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import scipy.linalg
from keras import layers
from numpy.typing import NDArray

from iom.errors import WeightsError, missing_extra
from iom.export.context import ExportContext
from iom.export.folding import graph_nodes
from iom.keys import ROTATION_ROUNDS
from iom.nn.layers.cosine import NORM_FLOOR
from iom.nn.layers.refinement import DECAY, FLOOR, RATE
from iom.nn.layers.rotation import block_sizes

OPSET = 17
IR_VERSION = 8
"""Old enough for the runtimes of several years."""
QUANTISED = ("Conv", "Gemm", "Add", "PRelu")
"""Operations that become integers."""
_LAST = [-1]


def write_onnx(context: ExportContext, path: Path) -> None:
    """Write an `.onnx` file."""
    path.write_bytes(_onnx_of(context).SerializeToString())


def write_int8(context: ExportContext, path: Path) -> None:
    """Write ONNX with integers (QDQ), per channel; the first layer, the last and the hash stay floats.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise missing_extra("int8 in ONNX", "onnx", "onnxruntime", cause=error) from error

    class Faces(CalibrationDataReader):
        """One face after the other."""

        def __init__(self) -> None:
            self._pairs = iter(zip(context.faces, context.orders, strict=True))

        def get_next(self) -> dict[str, Any] | None:
            """The next inputs, or `None` behind the last."""
            pair = next(self._pairs, None)
            return pair and {"image": pair[0][None].astype(np.float32), "order": pair[1][None]}

    quantize_static(
        _onnx_file(context),
        path,
        Faces(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=list(QUANTISED),
        nodes_to_exclude=_float_nodes(_onnx_of(context)),
    )


def write_openvino(context: ExportContext, path: Path) -> None:
    """Write OpenVINO's `.xml` and `.bin` with weights in float32; the session decides what it computes with.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise missing_extra("writing OpenVINO's format", "openvino", cause=error) from error
    openvino.save_model(openvino.convert_model(_onnx_file(context)), path, compress_to_fp16=False)


def onnx_model(backbone: keras.Model, hasher: keras.Model) -> Any:
    """One graph from pixels and order to code and embedding.

    Args:
        backbone: Raw RGB pixels to embedding, batch norms folded.
        hasher: Embedding and order to responses.

    Returns:
        An ONNX model: `image` `(B, S, S, 3)` float32 0..255 and `order` `(B, W)` int32 to `codes`
        `(B, M)` int32 and `embedding` `(B, D)` float32, not of unit length.

    Raises:
        MissingExtraError: The package `onnx` is not installed.
    """
    try:
        from onnx import TensorProto
    except ImportError as error:
        raise missing_extra("writing ONNX", "onnx", cause=error) from error
    graph = OnnxGraph()
    raw = add_keras_graph(graph, backbone, {backbone.inputs[0].name: "image"})
    size = backbone.inputs[0].shape[1]
    fold_pixel_scaling(graph, size)
    embedding = graph.add("Identity", [raw], "embedding")
    responses = add_keras_graph(graph, hasher, {"embedding": embedding, "order": "order"})
    indexes = graph.add("ArgMax", [responses], "indexes", axis=2, keepdims=0, select_last_index=0)
    graph.add("Cast", [indexes], "codes", to=TensorProto.INT32)
    width = hasher.get_layer("order").output.shape[1]
    return graph.model(
        {"image": (TensorProto.FLOAT, ["batch", size, size, 3]), "order": (TensorProto.INT32, ["batch", width])},
        {
            "codes": (TensorProto.INT32, ["batch", hasher.output_shape[1]]),
            "embedding": (TensorProto.FLOAT, ["batch", backbone.output_shape[1]]),
        },
    )


def _onnx_of(context: ExportContext) -> Any:
    return context.once("onnx", lambda: onnx_model(context.source.backbone, context.source.hasher.model))


def _onnx_file(context: ExportContext) -> Path:
    path = context.scratch / "source.onnx"
    path.write_bytes(_onnx_of(context).SerializeToString())
    return path


def _float_nodes(model: Any) -> list[str]:
    """The first convolution, the layer that makes the embedding, and all behind it."""
    names = [node.name for node in model.graph.node]
    behind = names.index("embedding")
    last = max(i for i, node in enumerate(model.graph.node[:behind]) if node.op_type in QUANTISED)
    first = next(node.name for node in model.graph.node if node.op_type == "Conv")
    return [first, *names[last:]]


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


def add_keras_graph(graph: OnnxGraph, model: keras.Model, inputs: dict[str, str]) -> str:
    """Add all layers of a functional model; maps become `(B, C, H, W)`.

    Args:
        graph: Is added to.
        model: One output; batch norms folded.
        inputs: By the name of each input layer, the name of its value in `graph`. Images are
            `(B, H, W, C)` there and turned.

    Returns:
        The name of the output.

    Raises:
        WeightsError: A layer that `LAYERS` does not have.
    """
    known: dict[int, str] = {}
    for tensor in model.inputs:
        value = inputs[tensor.name]
        if len(tensor.shape) == 4:
            value = graph.add("Transpose", [value], "channels_first", perm=[0, 3, 1, 2])
        known[id(tensor)] = value
    for node in graph_nodes(model):
        operation = node.operation
        write = LAYERS.get(type(operation).__name__)
        if write is None:
            raise WeightsError(
                f"{model.name}: the layer {operation.name} of type {type(operation).__name__} has "
                f"no counterpart in ONNX here (there are: {', '.join(sorted(LAYERS))}); add one to "
                "LAYERS in iom/export/onnx.py, or export to a format that TensorFlow writes"
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


def _total(graph: OnnxGraph, value: str, name: str) -> str:
    """Sum over the columns, `(B, K)` -> `(B, 1)`."""
    axes = graph.constant(_LAST, f"{name}/axes", np.int64)
    return graph.add("ReduceSum", [value, axes], name, keepdims=1)


def _unit_length(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    name, rows = layer.name, values[0]
    square = _total(graph, graph.add("Mul", [rows, rows], f"{name}/squares"), f"{name}/square")
    floor = graph.constant(NORM_FLOOR, f"{name}/floor")
    length = graph.add("Sqrt", [graph.add("Max", [square, floor], f"{name}/above")], f"{name}/norm")
    return graph.add("Div", [rows, length], name)


def _keyed_permutation(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    rows, order = values
    if layer.keep:
        order = _columns(graph, order, 0, layer.keep, f"{layer.name}/kept")
    return graph.add("GatherElements", [rows, order], layer.name, axis=1)


def _keyed_rotation(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    """As `KeyedRotation`, the Hadamard transform as a product with its matrix."""
    rows, order = values
    size = node.input_tensors[0].shape[-1]
    matrix = graph.constant(_hadamard(size), f"{layer.name}/hadamard")
    for number in range(ROTATION_ROUNDS):
        last = number + 1 == ROTATION_ROUNDS
        width = layer.keep if last and layer.keep else size
        name = f"{layer.name}/{number}"
        part = _columns(graph, order, number * size, width, f"{name}/order")
        rows = _signed_permutation(graph, rows, part, name)
        if not last:
            rows = graph.add("MatMul", [rows, matrix], f"{name}/turned")
    return rows


def _signed_permutation(graph: OnnxGraph, rows: str, order: str, name: str) -> str:
    zero, one = (graph.constant(value, f"{name}/constant", np.int32) for value in (0, 1))
    negated = graph.add("Less", [order, zero], f"{name}/negated")
    opposite = graph.add("Sub", [graph.add("Neg", [order], f"{name}/neg"), one], f"{name}/opposite")
    index = graph.add("Where", [negated, opposite, order], f"{name}/index")
    taken = graph.add("GatherElements", [rows, index], f"{name}/taken", axis=1)
    minus = graph.add("Neg", [taken], f"{name}/minus")
    return graph.add("Where", [negated, minus, taken], f"{name}/rows")


def _columns(graph: OnnxGraph, value: str, start: int, count: int, name: str) -> str:
    bounds = (start, start + count, 1)
    names = [graph.constant([bound], f"{name}/bound", np.int64) for bound in bounds]
    return graph.add("Slice", [value, *names], name)


def _hadamard(size: int) -> Any:
    """The matrix of `iom.nn.layers.rotation.hadamard`, symmetric."""
    return scipy.linalg.block_diag(*(scipy.linalg.hadamard(block) / np.sqrt(block) for block in block_sizes(size)))


def _projection(graph: OnnxGraph, layer: Any, node: Any, values: list[str]) -> str:
    rows, name = values[0], layer.name
    kernel = np.asarray(layer.kernel)
    if layer.refinement_steps:
        rows = _refined(graph, rows, kernel, layer)
    flat = graph.add("MatMul", [rows, graph.constant(kernel, f"{name}/kernel")], f"{name}/flat")
    return _by_position(graph, flat, layer, name)


def _by_position(graph: OnnxGraph, flat: str, layer: Any, name: str) -> str:
    shape = graph.constant([-1, layer.code_length, layer.alphabet_size], f"{name}/positions", np.int64)
    return graph.add("Reshape", [flat, shape], name)


def _refined(graph: OnnxGraph, rows: str, kernel: Any, layer: Any) -> str:
    """As `iom.nn.layers.refinement.refine`."""
    name = f"{layer.name}/refined"
    vectors = kernel.reshape(len(kernel), -1, layer.alphabet_size)
    centred = vectors - vectors.mean(2, keepdims=True)
    in_pairs = layer.alphabet_size == 2  # then the two of a position are opposite
    centred = centred[:, :, 0] if in_pairs else centred.reshape(kernel.shape)
    forth = graph.constant(centred, f"{name}/vectors")
    back = graph.constant(centred.T, f"{name}/columns")
    width = graph.constant([-1, kernel.shape[1]], f"{name}/width", np.int64)

    def read_back(value: str, step: str) -> str:
        flat = graph.add("MatMul", [value, forth], f"{step}/responses")
        if in_pairs:
            return graph.add("MatMul", [graph.add("Sign", [flat], f"{step}/codes"), back],
                             f"{step}/held")  # fmt: skip
        responses = _by_position(graph, flat, layer, f"{step}/positions")
        largest = graph.add("ReduceMax", [responses], f"{step}/largest", axes=_LAST, keepdims=1)
        chosen = graph.add("Equal", [responses, largest], f"{step}/chosen")
        ones = graph.add("Cast", [chosen], f"{step}/ones", to=1)
        codes = graph.add("Reshape", [ones, width], f"{step}/codes")
        return graph.add("MatMul", [codes, back], f"{step}/held")

    def times(left: str, right: str, step: str) -> str:
        return graph.add("Mul", [left, right], f"{name}/{step}")

    held = read_back(rows, f"{name}/start")
    floor, zero = (graph.constant(value, f"{name}/constant") for value in (FLOOR, 0.0))
    dot = _total(graph, times(held, rows, "products"), f"{name}/dot")
    along = graph.add("Max", [dot, floor], f"{name}/along")
    whole = _total(graph, times(held, held, "held_squares"), f"{name}/whole")
    across = graph.add("Sub", [whole, times(along, along, "along_square")], f"{name}/across")
    positive = graph.add("Max", [across, zero], f"{name}/positive")
    gain = graph.constant(layer.refinement_gain, f"{name}/gain")
    asked = graph.add("Div", [times(positive, gain, "asked"), along], f"{name}/more")
    scale = graph.add("Add", [along, asked], f"{name}/scale")
    corrected = rows
    for step in range(layer.refinement_steps):
        label = f"{name}/{step}"
        rate = graph.constant(RATE / (1.0 + DECAY * step), f"{label}/rate")
        share = graph.add("Div", [held, scale], f"{label}/share")
        remainder = graph.add("Sub", [rows, share], f"{label}/remainder")
        correction = graph.add("Mul", [remainder, rate], f"{label}/correction")
        corrected = graph.add("Add", [corrected, correction], f"{label}/corrected")
        if step + 1 < layer.refinement_steps:
            held = read_back(corrected, label)
    return corrected


def fold_pixel_scaling(graph: OnnxGraph, side: int) -> None:
    """Fold the scaling of pixels at the start of a graph into its first convolution.

    On its own the scaling costs a small network time that can be measured. The zero padding behind it becomes a
    padding with the middle of the range of raw pixels, which scaling turns into zero. bfloat16 holds raw pixels and
    their middle exactly, and rounds scaled ones. A graph that starts otherwise stays as it is.

    Args:
        graph: From raw pixels; it is changed.
        side: Of the image, in pixels.
    """
    scaled = next((node for node in graph.nodes if node.op_type == "Mul"), None)
    shifted = _only_reader(graph, scaled, "Add")
    padded = _only_reader(graph, shifted, "Pad")
    convolved = _only_reader(graph, padded or shifted, "Conv")
    if scaled is None or shifted is None or convolved is None or len(convolved.input) != 3:
        return
    scale, shift = (graph.constants.get(node.input[1]) for node in (scaled, shifted))
    if scale is None or shift is None or scale.size != 1 or shift.size != 1:
        return
    factor, offset = float(scale.item()), float(shift.item())
    pads = graph.constants[padded.input[1]] if padded else _same_pads(convolved, side)
    _take_in(graph, convolved, factor, offset)
    for attribute in convolved.attribute:
        if attribute.name == "auto_pad":
            attribute.s = b"VALID"

    name = f"{convolved.name}/pixels"
    place = graph.nodes.index(scaled)
    pads_name = graph.constant(pads, f"{name}/pads", np.int64)
    middle = graph.constant(-offset / factor, f"{name}/middle")
    convolved.input[0] = graph.add("Pad", [scaled.input[0], pads_name, middle], name)
    graph.nodes.insert(place, graph.nodes.pop())
    for node in (scaled, shifted, padded):
        if node is not None:
            graph.nodes.remove(node)


def _only_reader(graph: OnnxGraph, node: Any, kind: str) -> Any:
    """What reads the result of `node`, where that is one node of this kind."""
    if node is None:
        return None
    readers = [other for other in graph.nodes if node.output[0] in other.input]
    return readers[0] if len(readers) == 1 and readers[0].op_type == kind else None


def _take_in(graph: OnnxGraph, convolution: Any, factor: float, offset: float) -> None:
    _, kernel_name, bias_name = convolution.input
    kernel, bias = (graph.constants[x].astype(np.float64) for x in (kernel_name, bias_name))
    graph.constants[kernel_name] = (kernel * factor).astype(np.float32)
    graph.constants[bias_name] = (bias + kernel.sum((1, 2, 3)) * offset).astype(np.float32)


def _same_pads(convolution: Any, side: int) -> list[int]:
    """What `auto_pad` SAME_UPPER adds to a square image, as `Pad` wants it."""
    settings = {attribute.name: attribute for attribute in convolution.attribute}
    if settings["auto_pad"].s != b"SAME_UPPER":
        return [0] * 8
    before, after = [], []
    for axis in range(2):
        stride = settings["strides"].ints[axis]
        reach = (settings["kernel_shape"].ints[axis] - 1) * settings["dilations"].ints[axis] + 1
        total = max((-(-side // stride) - 1) * stride + reach - side, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return [0, 0, *before, 0, 0, *after]


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
    "IoMProjection": _projection,
    "KeyedPermutation": _keyed_permutation,
    "KeyedRotation": _keyed_rotation,
    "MaxPooling2D": _pooled("MaxPool"),
    "Multiply": _folded("Mul"),
    "PReLU": _prelu,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "UnitLength": _unit_length,
    "ZeroPadding2D": _padded,
}
"""Type of a Keras layer to what writes it."""
