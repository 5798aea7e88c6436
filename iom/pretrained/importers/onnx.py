"""Recognition models in ONNX: InsightFace's zoo, exported from PyTorch or from MXNet."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iom._untrusted import check_printable, paths_inside, reading
from iom.errors import WeightsError, needs_extra
from iom.pretrained.importers.foreign import IMAGE, ForeignGraph, Kind

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

# What only changes the shape or type of its first input.
_PASS = {"Flatten", "Reshape", "Dropout", "Identity", "Cast", "Squeeze"}
# What PyTorch writes to compute the target shape of a flatten.
_SHAPES = {"Shape", "Gather", "Unsqueeze", "Concat", "Slice", "Constant", "Cast"}
_POOLS: dict[str, Kind] = {"MaxPool": "max_pool", "AveragePool": "average_pool"}
_PLAIN: dict[str, Kind] = {"Relu": "relu", "GlobalAveragePool": "global_average_pool"}
_EPSILON = 1e-5
"""ONNX's default for BatchNormalization."""


def read_onnx(path: Path) -> ForeignGraph:
    """The network of an ONNX file."""
    with reading(path, "an ONNX model", error=WeightsError):
        return _Translation(_load(path).graph, path).run()


def external_files(path: Path) -> list[Path]:
    """Files beside an ONNX model that hold its arrays; a name outside of the folder is refused, not opened."""
    with reading(path, "an ONNX model", error=WeightsError):
        graph = _load(path, with_data=False).graph
    places = {entry.value for tensor in _tensors(graph) for entry in tensor.external_data if entry.key == "location"}
    return list(paths_inside(path.parent, sorted(places), source=path, error=WeightsError))


def _tensors(graph: "GraphProto") -> Iterator["TensorProto"]:
    """All arrays of a graph, those of attributes and of graphs within it too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for below in (attribute.g, *attribute.graphs):
                yield from _tensors(below)


def _load(path: Path, *, with_data: bool = True) -> "ModelProto":
    with needs_extra(f"reading {path.name}", "onnx"):
        import onnx
    model = onnx.load(path, load_external_data=with_data)
    if not model.graph.node:
        raise ValueError("it has no graph")
    return model


class _Translation:
    """Walks the nodes of an ONNX graph, which stand in calling order."""

    def __init__(self, graph: "GraphProto", path: Path) -> None:
        from onnx import helper, numpy_helper

        self._proto = graph
        self._path = path
        self._to_array: Callable[..., NDArray[Any]] = numpy_helper.to_array
        self._value_of: Callable[..., Any] = helper.get_attribute_value
        self._constants = {tensor.name: self._to_array(tensor) for tensor in graph.initializer}
        self._shapes: set[str] = set()
        self._stands_for: dict[str, int] = {}
        self._graph = ForeignGraph(str(path))

    def run(self) -> ForeignGraph:
        inputs = [value for value in self._proto.input if value.name not in self._constants]
        outputs = [value.name for value in self._proto.output]
        if len(inputs) != 1 or len(outputs) != 1:
            raise self._unfit(f"expected one input and one output, received {len(inputs)} and {len(outputs)}")
        sides = [dimension.dim_value for dimension in inputs[0].type.tensor_type.shape.dim]
        if len(sides) == 4 and sides[3] == 3:  # ours: channels last, then transposed
            sides = [sides[0], sides[3], *sides[1:3]]
        if len(sides) != 4 or sides[1] not in (0, 3) or sides[2] != sides[3]:
            raise self._unfit(f"expected a square colour image (B, 3, S, S), received {sides}")
        self._graph.input_size = sides[2] or None
        self._stands_for[inputs[0].name] = IMAGE
        for node in self._proto.node:
            check_printable((node.name, node.op_type, *node.input, *node.output))
            self._node(node)
        return self._graph.finish(self._stands_for.get(outputs[0]))

    def _unfit(self, reason: str) -> WeightsError:
        return WeightsError(f"{self._path}: not a recognition network known here: {reason}")

    def _node(self, node: "NodeProto") -> None:
        attributes = {a.name: self._value_of(a) for a in node.attribute}
        known = [name for name in node.input if name in self._stands_for]
        output = node.output[0]
        if node.op_type == "Constant":
            self._constants[output] = self._to_array(attributes["value"])
        elif node.input and node.input[0] in self._constants and not known:
            self._constants[output] = self._fold(node, attributes)
        elif node.op_type == "Shape" or (node.op_type in _SHAPES and not known and set(node.input) & self._shapes):
            self._shapes.add(output)
        elif not known:
            raise self._unfit(f"{node.op_type} '{node.name}' does not depend on the image")
        elif node.op_type in _PASS or self._is_layout(node, attributes, known[0]):
            self._stands_for[output] = self._stands_for[known[0]]
        elif len(known) == 1 and node.op_type in ("Add", "Sub", "Mul", "Div"):
            self._with_constant(node, known[0])
        else:
            inputs = tuple(self._stands_for[name] for name in known)
            self._stands_for[output] = self._append(node, attributes, inputs)

    def _is_layout(self, node: "NodeProto", attributes: dict[str, Any], known: str) -> bool:
        """Whether it transposes the image to channels first, or pads a map with zeros."""
        if node.op_type == "Transpose":
            return self._stands_for[known] == IMAGE and list(attributes["perm"]) == [0, 3, 1, 2]
        return node.op_type == "Pad" and not any(np.any(self._floats(name)) for name in node.input[2:3] if name)

    def _fold(self, node: "NodeProto", attributes: dict[str, Any]) -> NDArray[Any]:
        """Apply an operation on a stored array that the exporter did not fold."""
        array = self._constants[node.input[0]]
        if node.op_type in ("Identity", "Cast", "Unsqueeze", "Squeeze"):
            return array  # slopes, biases and kernels are reshaped when they are set
        if node.op_type == "Transpose":
            return array.transpose(attributes.get("perm"))
        if node.op_type in ("Sub", "Mul"):  # weights that are stored in eight bits
            combine = np.subtract if node.op_type == "Sub" else np.multiply
            folded: NDArray[Any] = combine(np.asarray(array, np.float32), self._floats(node.input[1]))
            return folded
        raise self._unfit(f"{node.op_type} '{node.name}' of a stored array")

    def _with_constant(self, node: "NodeProto", known: str) -> None:
        """Scaling of the image, or the bias of the dense operation before it."""
        (other,) = (name for name in node.input if name != known)
        constant = self._floats(other)
        index = self._stands_for[known]
        self._stands_for[node.output[0]] = index
        if index == IMAGE and np.ptp(constant) == 0 and node.input[0] == known:
            value = float(constant.flat[0])
            changes = {"Add": (1.0, value), "Sub": (1.0, -value), "Mul": (value, 0.0)}
            factor, offset = changes[node.op_type] if node.op_type != "Div" else (1 / value, 0.0)
            self._graph.rescale(factor=factor, offset=offset)
            return
        op = self._graph.ops[index]
        is_last = index == len(self._graph.ops) - 1
        if node.op_type != "Add" or not is_last or op.kind not in ("dense", "conv") or "bias" in op.arrays:
            raise self._unfit(f"{node.op_type} '{node.name}' with a constant")
        self._graph.ops[index] = dataclasses.replace(op, arrays={**op.arrays, "bias": constant.reshape(-1)})

    def _append(self, node: "NodeProto", attributes: dict[str, Any], inputs: tuple[int, ...]) -> int:
        name, append = node.name or node.output[0], self._graph.append
        if node.op_type == "Conv":
            arrays = {role: self._floats(n) for role, n in zip(("kernel", "bias"), node.input[1:], strict=False) if n}
            if arrays["kernel"].ndim != 4:
                raise self._unfit(f"Conv '{name}' is not two-dimensional")
            return append("conv", name, inputs, arrays, **self._window(name, attributes))
        if node.op_type == "BatchNormalization":
            roles = ("gamma", "beta", "mean", "variance")
            arrays = {r: self._floats(n) for r, n in zip(roles, node.input[1:], strict=True)}
            epsilon = float(attributes.get("epsilon", _EPSILON))
            return append("batch_norm", name, inputs, arrays, epsilon=epsilon)
        if node.op_type == "PRelu":
            return append("prelu", name, inputs, {"slope": self._floats(node.input[1]).ravel()})
        if node.op_type in ("Gemm", "MatMul"):
            return append("dense", name, inputs, self._dense(node, name, attributes))
        if node.op_type in ("Add", "Sum") and len(inputs) == 2:
            return append("add", name, inputs)
        if node.op_type in _POOLS:
            stride = self._window(name, attributes)["stride"]
            side = int(attributes["kernel_shape"][0])
            return append(_POOLS[node.op_type], name, inputs, window=side, stride=stride)
        if node.op_type in _PLAIN:
            return append(_PLAIN[node.op_type], name, inputs)
        raise self._unfit(f"the operation {node.op_type} ('{name}') is not known")

    def _window(self, name: str, attributes: dict[str, Any]) -> dict[str, int]:
        stride, padding, dilation = (
            set(attributes.get(key, [default])) for key, default in (("strides", 1), ("pads", 0), ("dilations", 1))
        )
        automatic = attributes.get("auto_pad", b"NOTSET")
        if automatic == b"SAME_UPPER" and stride == {1}:
            automatic, padding = b"NOTSET", {(side - 1) // 2 for side in attributes["kernel_shape"]}
        if len(stride) != 1 or len(padding) != 1 or dilation != {1} or automatic not in (b"NOTSET", b"VALID"):
            raise self._unfit(f"Conv '{name}' has an uneven window or is dilated")
        return {"stride": stride.pop(), "padding": padding.pop(), "groups": int(attributes.get("group", 1))}

    def _dense(self, node: "NodeProto", name: str, attributes: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
        kernel = self._floats(node.input[1])
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
            raise self._unfit(f"Gemm '{name}' with factors")
        if kernel.ndim != 2 or attributes.get("transA", 0):
            raise self._unfit(f"{node.op_type} '{name}' is no plain matrix product")
        # Gemm of PyTorch holds (O, I); a MatMul holds (I, O).
        arrays = {"kernel": kernel if attributes.get("transB", 0) else kernel.T}
        if len(node.input) > 2 and node.input[2]:
            arrays["bias"] = self._floats(node.input[2]).reshape(-1)
        return arrays

    def _floats(self, name: str) -> NDArray[np.float32]:
        if name not in self._constants:
            raise self._unfit(f"'{name}' is no stored array")
        return np.asarray(self._constants[name], np.float32)
