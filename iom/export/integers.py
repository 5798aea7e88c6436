"""Integers in an ONNX model that keep its embedding.

A layer (convolution or dense) with integers reads its map as 8 bits of one range, chosen for the least squared error on
faces, and its weights as 8 bits with a step for each output. The mean error of a layer goes into its bias (Nagel et al.
2019, "Data-free quantization through weight equalization and bias correction"). Where all layers together turn
embeddings by more than is allowed, each is tried alone, and those that cost least for the products they do become
integers. Sums stay in floats, and so does what follows the embedding.
"""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAYERS = ("Conv", "Gemm", "MatMul")
PASSING = ("Transpose", "MaxPool")
"""What integers pass unchanged: they are made before it, so that it works on them."""
ROWS = 64
"""Places of each map that ranges and means are taken from, for each face."""
VALUES = 50_000
"""Values that the error of a range is measured on."""
SHRINKAGES = np.linspace(0.25, 1.0, 26)
"""Parts of the full range that are tried."""
LEVELS = 255
PROBES = 16
"""Faces that a layer alone is tried on."""


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A layer as integers: step and zero of what it reads, weights with their steps, its bias.

    `products` are the multiplications for one face, `noise` is the mean squared error of the unit embedding where this
    layer alone has integers.
    """

    node: str
    value: str
    step: float
    zero: int
    weights: NDArray[np.int8]
    weight_steps: NDArray[np.float32]
    axis: int
    bias: NDArray[np.float32]
    products: int
    noise: float = 0.0


def integers_within(model: Any, faces: NDArray[np.uint8], *, angle: float) -> tuple[Any, list[IntegerLayer]]:
    """A copy of an ONNX model from `image` to `embedding` with as many integers as turn embeddings by `angle` at most.

    Args:
        model: The ONNX model in floats; what reads `embedding` stays in floats.
        faces: `(N, S, S, 3)` uint8 to choose ranges on, and to measure.
        angle: Root of the mean squared angle between the embeddings of both models, in radians.

    Returns:
        The model, and its layers that have integers.
    """
    layers = integer_layers(model, faces)
    exact = embeddings(model, faces)
    all_of_them = with_integers(model, layers)
    if _noise(exact, embeddings(all_of_them, faces)) <= angle**2:
        return all_of_them, layers
    probes = faces[:PROBES]
    tried = [
        dataclasses.replace(layer, noise=_noise(exact[:PROBES], embeddings(with_integers(model, [layer]), probes)))
        for layer in layers
    ]
    tried.sort(key=lambda layer: layer.noise / layer.products)
    few, many = 0, len(tried)  # `few` layers keep the angle, `many` do not
    while many - few > 1:
        middle = (few + many) // 2
        kept = _noise(exact, embeddings(with_integers(model, tried[:middle]), faces)) <= angle**2
        few, many = (middle, many) if kept else (few, middle)
    return with_integers(model, tried[:few]), tried[:few]


def integer_layers(model: Any, faces: NDArray[np.uint8]) -> list[IntegerLayer]:
    """All layers before the embedding as integers."""
    from onnx import numpy_helper

    constants = {each.name: each for each in model.graph.initializer}
    nodes = [node for node in _before_embedding(model) if node.op_type in LAYERS and node.input[1] in constants]
    rows, places = _rows_read(model, faces, nodes)
    layers = []
    for node in nodes:
        weights = numpy_helper.to_array(constants[node.input[1]])
        bias = numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 else None
        layers.append(_integer_layer(node, weights, bias, rows[node.input[0]], places[node.output[0]]))
    return layers


def _integer_layer(
    node: Any, weights: NDArray[np.float32], bias: NDArray[np.float32] | None, rows: NDArray[np.float32], places: int
) -> IntegerLayer:
    step, zero = _range(rows)
    axis = 0 if node.op_type == "Conv" else 1
    by_output = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    steps = _weight_steps(by_output)
    shape = [-1 if number == axis else 1 for number in range(weights.ndim)]
    whole = np.clip(np.rint(weights / steps.reshape(shape)), -127, 127).astype(np.int8)
    read = np.clip(np.rint(rows / step) + zero, 0, LEVELS) - zero
    error = _mean_response(node, weights, rows.mean(0)) - _mean_response(
        node, whole * steps.reshape(shape), (read * step).mean(0)
    )
    return IntegerLayer(
        node=node.name,
        value=node.input[0],
        step=step,
        zero=zero,
        weights=whole,
        weight_steps=steps,
        axis=axis,
        bias=((0.0 if bias is None else bias) + error).astype(np.float32),
        products=int(weights.size * places),
    )


def _range(rows: NDArray[np.float32]) -> tuple[float, int]:
    """Step and zero of the range with the least squared error."""
    values = rows.ravel()[:: max(1, rows.size // VALUES)]
    low, high = min(float(rows.min()), 0.0), max(float(rows.max()), 1e-6)
    found = []
    for start, end in itertools.product(SHRINKAGES * low if low else [0.0], SHRINKAGES * high):
        step = (end - start) / LEVELS
        zero = int(np.rint(-start / step))
        error = (np.clip(np.rint(values / step) + zero, 0, LEVELS) - zero) * step - values
        found.append((float(np.mean(error**2)), step, zero))
    return min(found)[1:]


def _weight_steps(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each row `(N, K)` the step with the least squared error."""
    largest = np.maximum(np.abs(rows).max(1, keepdims=True), 1e-12)
    steps = [share * largest / 127 for share in SHRINKAGES]
    errors = [np.mean((np.clip(np.rint(rows / step), -127, 127) * step - rows) ** 2, 1) for step in steps]
    best = np.argmin(errors, 0)
    chosen: NDArray[np.float32] = np.asarray(steps, np.float32)[best, np.arange(len(rows)), 0]
    return chosen


def _mean_response(node: Any, weights: NDArray[Any], mean: NDArray[Any]) -> NDArray[Any]:
    """Response of a layer to a map that is everywhere `mean` `(C,)`; its border is not looked at."""
    if node.op_type != "Conv":
        return np.asarray(mean @ weights)
    kernel = weights.sum((2, 3))
    if kernel.shape[1] == 1:  # of each channel alone
        return np.asarray(kernel[:, 0] * np.repeat(mean, len(kernel) // len(mean)))
    return np.asarray(kernel @ mean)


def with_integers(model: Any, layers: Sequence[IntegerLayer]) -> Any:
    """A copy of an ONNX model whose `layers` have integers, as pairs of QuantizeLinear and DequantizeLinear."""
    from onnx import numpy_helper

    result = copy.deepcopy(model)
    graph = result.graph
    known, values = {layer.node: layer for layer in layers}, {layer.value: layer for layer in layers}
    nodes: list[Any] = []
    read: dict[str, str] = {}

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    for node in list(graph.node):
        layer = known.get(node.name)
        if node.op_type in PASSING and node.output[0] in values:
            nodes += _as_integers(node.input[0], values[node.output[0]], constant)
            node.input[0], read[node.output[0]] = nodes[-1].output[0], node.output[0]
        if layer is not None:
            if layer.value not in read:
                nodes += _as_integers(layer.value, layer, constant)
                read[layer.value] = nodes[-1].output[0]
            nodes.append(_with_integers(node, read[layer.value], layer, constant))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return result


def _as_integers(value: str, layer: IntegerLayer, constant: Callable[[str, Any], str]) -> list[Any]:
    """The two nodes that make a value one of integers; the last has it as its output."""
    from onnx import helper

    name = f"{value}/integers"
    ends = constant(f"{name}/step", np.float32(layer.step)), constant(f"{name}/zero", np.uint8(layer.zero))
    return [
        helper.make_node("QuantizeLinear", [value, *ends], [name], name=name),
        helper.make_node("DequantizeLinear", [name, *ends], [f"{name}/read"], name=f"{name}/read"),
    ]


def _with_integers(node: Any, read: str, layer: IntegerLayer, constant: Callable[[str, Any], str]) -> Any:
    """Let a node read `read`, integer weights and its corrected bias; gives the node that makes the weights."""
    from onnx import helper

    name = f"{node.name}/weights"
    weights = [
        constant(name, layer.weights),
        constant(f"{name}/steps", layer.weight_steps),
        constant(f"{name}/zeros", np.zeros(len(layer.weight_steps), np.int8)),
    ]
    inputs = [read, f"{name}/read", constant(f"{node.name}/corrected", layer.bias)]
    del node.input[:]
    node.input.extend(inputs)
    if node.op_type == "MatMul":
        node.op_type = "Gemm"
    return helper.make_node("DequantizeLinear", weights, [inputs[1]], name=inputs[1], axis=layer.axis)


def embeddings(model: Any, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embeddings `(N, D)`, unit length, of faces `(N, S, S, 3)` by onnxruntime."""
    rows = _session(_until(model, ["embedding"])).run(None, {"image": faces.astype(np.float32)})[0]
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _noise(exact: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    return float(np.mean(np.sum((exact - found) ** 2, axis=1)))


def _rows_read(
    model: Any, faces: NDArray[np.uint8], nodes: Sequence[Any]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, int]]:
    """What layers read at some places of each face, `(N, C)`, and the number of places that they write."""
    stream = np.random.default_rng(0)
    values = sorted({name for node in nodes for name in (node.input[0], node.output[0])})
    session = _session(_until(model, [value for value in values if value != "image"]))
    found: dict[str, list[NDArray[np.float32]]] = {node.input[0]: [] for node in nodes}
    places = {}
    for face in faces:
        pixels = face[None].astype(np.float32)
        maps = dict(zip([end.name for end in session.get_outputs()], session.run(None, {"image": pixels}), strict=True))
        for value, map_ in maps.items():
            rows = map_.reshape(map_.shape[1], -1).T if map_.ndim == 4 else map_
            places[value] = len(rows)
            if value in found:
                found[value].append(rows[stream.integers(0, len(rows), ROWS)] if len(rows) > ROWS else rows)
    return {value: np.concatenate(rows) for value, rows in found.items()}, places


def _before_embedding(model: Any) -> list[Any]:
    nodes = list(model.graph.node)
    return nodes[: next(number for number, node in enumerate(nodes) if node.output[0] == "embedding") + 1]


def _until(model: Any, outputs: Iterable[str]) -> Any:
    """The part of a model from `image` to the embedding, with other outputs."""
    from onnx import helper

    nodes = _before_embedding(model)
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "part",
        [each for each in model.graph.input if each.name == "image"],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [each for each in model.graph.initializer if each.name in used],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _session(model: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
