"""MXNet checkpoints without MXNet: `NAME-0000.params` (arrays), `NAME-symbol.json` (graph)."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._untrusted import check_printable, one_line, read_json
from iom.errors import WeightsError
from iom.pretrained.importers.foreign import IMAGE, ForeignGraph, ForeignOp, GraphBuilder

_BATCH_NORM_EPSILON = 1e-3
"""MXNet's default, where the graph states none."""

_PASS = {"Flatten", "Dropout", "identity", "_copy", "Reshape"}
_ADD = {"elemwise_add", "_plus", "_Plus", "broadcast_add", "_add"}

# src/ndarray/ndarray.cc of MXNet: the list of arrays, then one magic for each array. An array without a magic (before
# version 0.9) starts with its number of dimensions.
_LIST_MAGIC = 0x112
_WITH_STORAGE = (0xF993FAC9, 0xF993FACA)
_WITHOUT_STORAGE = 0xF993FAC8
_MAX_DIMENSIONS = 32
_DTYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}


def read_mxnet(params_path: Path, symbol_path: Path) -> ForeignGraph:
    """The network of an MXNet checkpoint."""
    arrays = read_params(params_path)
    nodes, head = _read_symbol(symbol_path)
    try:
        return _Translation(nodes, arrays, params_path, symbol_path).run(head)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{symbol_path}: damaged MXNet graph: {one_line(repr(error))}") from error


def _read_symbol(path: Path) -> tuple[list[dict[str, Any]], int]:
    try:
        tree = read_json(path)
        ((head, *_),) = tree["heads"]
        nodes = tree["nodes"]
        if not isinstance(nodes, list) or not 0 <= head < len(nodes):
            raise ValueError("expected its head among its nodes")
    except OSError as error:
        raise WeightsError(f"cannot read graph {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        reason = one_line(error)
        raise WeightsError(f"{path}: damaged or not an MXNet symbol with one output: {reason}") from error
    return nodes, head


class _Translation:
    """Walks the nodes of a symbol, which MXNet writes in calling order."""

    def __init__(
        self, nodes: list[dict[str, Any]], arrays: dict[str, NDArray[Any]], params_path: Path, symbol_path: Path
    ) -> None:
        self._nodes = nodes
        self._arrays = arrays
        self._params_path = params_path
        self._symbol_path = symbol_path
        self._unused = set(arrays)
        self._stands_for: dict[int, int] = {}
        self._graph = GraphBuilder(str(params_path))

    def run(self, head: int) -> ForeignGraph:
        check_printable(text for node in self._nodes for text in (node["op"], node["name"]))
        for index, node in enumerate(self._nodes):
            if node["op"] != "null":
                self._node(index, node)
            elif node["name"] == "data":
                self._stands_for[index] = IMAGE
        graph = self._graph.finish(self._stands_for.get(head))
        if self._unused:
            raise WeightsError(
                f"{self._params_path}: {len(self._unused)} arrays are not in the graph "
                f"{self._symbol_path.name}, such as '{sorted(self._unused)[0]}'"
            )
        return graph

    def _node(self, index: int, node: dict[str, Any]) -> None:
        op, name = node["op"], node["name"]
        attributes = node.get("attrs") or node.get("param") or node.get("attr") or {}
        sources = [entry[0] for entry in node["inputs"]]
        weights = [self._nodes[i]["name"] for i in sources if i not in self._stands_for]
        inputs = tuple(self._stands_for[i] for i in sources if i in self._stands_for)
        if op in _PASS or op in ("_minus_scalar", "_mul_scalar", "_MinusScalar", "_MulScalar"):
            if op not in _PASS:
                self._rescale(op, name, float(attributes["scalar"]), inputs)
            self._stands_for[index] = inputs[0]
            return
        self._stands_for[index] = self._graph.append(self._translate(op, name, attributes, inputs, weights))

    def _rescale(self, op: str, name: str, scalar: float, inputs: tuple[int, ...]) -> None:
        if inputs != (IMAGE,):
            raise WeightsError(f"{self._symbol_path}: '{name}' scales something other than the image")
        if "inus" in op:
            self._graph.rescale(offset=-scalar)
        else:
            self._graph.rescale(factor=scalar)

    def _translate(
        self, op: str, name: str, attributes: dict[str, str], inputs: tuple[int, ...], weights: list[str]
    ) -> ForeignOp:
        if op == "Convolution":
            return ForeignOp(
                "conv",
                name,
                inputs,
                self._kernel_and_bias(weights),
                stride=_square(attributes.get("stride", "(1, 1)"), name),
                padding=_square(attributes.get("pad", "(0, 0)"), name),
                groups=int(attributes.get("num_group", 1)),
            )
        if op == "FullyConnected":
            return ForeignOp("dense", name, inputs, self._kernel_and_bias(weights))
        if op == "BatchNorm":
            return self._batch_norm(name, attributes, inputs, weights)
        if op == "LeakyReLU" and attributes.get("act_type") == "prelu":
            return ForeignOp("prelu", name, inputs, {"slope": self._take("arg", weights[0])})
        if op in _ADD:
            return ForeignOp("add", name, inputs)
        raise WeightsError(f"{self._symbol_path}: the operation {op} ('{name}') is not known here")

    def _kernel_and_bias(self, weights: list[str]) -> dict[str, NDArray[np.float32]]:
        return {role: self._take("arg", weight) for role, weight in zip(("kernel", "bias"), weights, strict=False)}

    def _batch_norm(
        self, name: str, attributes: dict[str, str], inputs: tuple[int, ...], weights: list[str]
    ) -> ForeignOp:
        gamma, beta, mean, variance = weights
        arrays = {
            "gamma": self._take("arg", gamma),
            "beta": self._take("arg", beta),
            "mean": self._take("aux", mean),
            "variance": self._take("aux", variance),
        }
        # MXNet's default; the stored gamma of a fixed one means nothing.
        if attributes.get("fix_gamma", "True") in ("True", "1"):
            arrays["gamma"] = np.ones_like(arrays["gamma"])
        epsilon = float(attributes.get("eps", _BATCH_NORM_EPSILON))
        return ForeignOp("batch_norm", name, inputs, arrays, epsilon=epsilon)

    def _take(self, group: str, name: str) -> NDArray[np.float32]:
        key = f"{group}:{name}"
        if key not in self._arrays:
            raise WeightsError(
                f"{self._params_path}: no array '{key}', which the graph "
                f"{self._symbol_path.name} needs: the two files do not belong together"
            )
        self._unused.discard(key)
        return np.asarray(self._arrays[key], np.float32)


def _square(text: str, name: str) -> int:
    """MXNet writes pairs as text: "(2, 2)", "[2, 2]" or "(2L, 2L)"."""
    numbers = [int(part) for part in text.replace("L", "").strip("()[] ").split(",") if part.strip()]
    if len(set(numbers)) != 1:
        raise ValueError(f"'{name}' has the uneven window setting {text}")
    return numbers[0]


def read_params(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a `.params` file by name, with their `arg:` or `aux:` prefix."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from error
    try:
        return _parse(_Reader(data))
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: damaged or not an MXNet .params file: {error}") from error


class _Reader:
    """Little-endian fields of a byte string, in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def fields(self, layout: str) -> tuple[int, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def take(self, size: int) -> bytes:
        end = self._place + size
        if end > len(self._data):
            raise ValueError(f"it ends at byte {len(self._data)}, {end} were announced")
        part = self._data[self._place : end]
        self._place = end
        return part

    @property
    def left(self) -> int:
        return len(self._data) - self._place


def _parse(reader: _Reader) -> dict[str, NDArray[Any]]:
    magic, _, count = reader.fields("QQQ")
    if magic != _LIST_MAGIC:
        raise ValueError(f"expected magic {_LIST_MAGIC:#x}, received {magic:#x}")
    arrays = [_array(reader) for _ in range(_at_most(count, reader.left))]
    (count,) = reader.fields("Q")
    names = []
    for _ in range(_at_most(count, reader.left)):
        (length,) = reader.fields("Q")
        names.append(reader.take(length).decode("utf-8"))
    check_printable(names)
    if len(names) != len(arrays) or len(set(names)) != len(names):
        raise ValueError(f"{len(arrays)} arrays, {len(set(names))} distinct names")
    if reader.left:
        raise ValueError(f"{reader.left} bytes after its end")
    return dict(zip(names, arrays, strict=True))


def _at_most(count: int, limit: int) -> int:
    if count > limit:
        raise ValueError(f"{count} entries announced in {limit} bytes")
    return count


def _array(reader: _Reader) -> NDArray[Any]:
    (magic,) = reader.fields("I")
    if magic in _WITH_STORAGE:
        (storage,) = reader.fields("i")
        if storage > 0:
            raise ValueError("sparse arrays are not weights of a network known here")
    if magic in _WITH_STORAGE or magic == _WITHOUT_STORAGE:
        (dimensions,) = reader.fields("I")
        side = "q"
    else:
        dimensions, side = magic, "I"
    if dimensions > _MAX_DIMENSIONS:
        raise ValueError(f"an array of {dimensions} dimensions")
    shape = reader.fields(f"{dimensions}{side}")
    _, _, dtype = reader.fields("iii")
    if dtype not in _DTYPES or min(shape, default=1) < 0:
        raise ValueError(f"an array {shape} of type {dtype}")
    numbers = np.dtype(_DTYPES[dtype])
    raw = reader.take(math.prod(shape) * numbers.itemsize)
    return np.frombuffer(raw, numbers).reshape(shape)
