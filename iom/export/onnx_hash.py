"""The hash in ONNX: unit length, the key's step, the projection with its refinement, the argmax."""

from typing import Any

import numpy as np

from iom.export.onnx_graph import OnnxGraph, Write
from iom.keys import ROTATION_ROUNDS
from iom.nn.layers.cosine import NORM_FLOOR
from iom.nn.layers.refinement import DECAY, FLOOR, RATE
from iom.nn.layers.rotation import block_sizes

_LAST = [-1]


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
    matrix = np.zeros((size, size))
    start = 0
    for block in block_sizes(size):
        part = np.ones((1, 1))
        while len(part) < block:
            part = np.block([[part, part], [part, -part]])
        matrix[start : start + block, start : start + block] = part / np.sqrt(block)
        start += block
    return matrix


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


HASH_LAYERS: dict[str, Write] = {
    "IoMProjection": _projection,
    "KeyedPermutation": _keyed_permutation,
    "KeyedRotation": _keyed_rotation,
    "UnitLength": _unit_length,
}
"""Type of a layer of a hasher to what writes it, beside `iom.export.onnx_graph.LAYERS`."""
