"""MXNet networks without MXNet: its checkpoints, and the dictionaries that MMdnn makes of those of an IResNet.

A checkpoint is `NAME-0000.params` (arrays) and `NAME-symbol.json` (graph). An MMdnn dictionary (`.npy`) is pickled:
layer name -> {weights, bias, mean, var, scale, gamma}, read without running anything. Its graph is inferred from the
names, which are those of InsightFace's MXNet code.
"""

import io
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._unpickling import restricted_loads
from iom._untrusted import check_printable, read_json, read_npy_header, reading
from iom.errors import DataError, WeightsError
from iom.pretrained.importers.foreign import IMAGE, ForeignGraph

_BATCH_NORM_EPSILON = 1e-3
"""MXNet's default, where the graph states none."""
_MMDNN_EPSILON = 2e-5
_PASS = {"Flatten", "Dropout", "identity", "_copy", "Reshape"}
_ADD = {"elemwise_add", "_plus", "_Plus", "broadcast_add", "_add"}
_SCALAR = {"_minus_scalar", "_mul_scalar", "_MinusScalar", "_MulScalar"}
_UNIT = re.compile(r"stage(\d+)_unit(\d+)_")

# src/ndarray/ndarray.cc of MXNet: the list of arrays, then one magic for each array. An array without a magic (before
# version 0.9) starts with its number of dimensions.
_LIST_MAGIC = 0x112
_WITH_STORAGE = (0xF993FAC9, 0xF993FACA)
_WITHOUT_STORAGE = 0xF993FAC8
_MAX_DIMENSIONS = 32
_DTYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}


def symbol_path(params: Path) -> Path:
    """The graph of an MXNet checkpoint: `model-0000.params` belongs to `model-symbol.json`."""
    stem, _, epoch = params.stem.rpartition("-")
    name = stem if stem and epoch.isdigit() else params.stem
    return params.with_name(f"{name}-symbol.json")


def read_mxnet(path: Path) -> ForeignGraph:
    """The network of an MXNet checkpoint, by its `.params` file."""
    arrays = read_params(path)
    symbol = symbol_path(path)
    with reading(symbol, "an MXNet symbol with one output", error=WeightsError):
        return _Symbol(read_json(symbol), arrays, path).graph()


class _Symbol:
    """Walks the nodes of a symbol, which MXNet writes in calling order."""

    def __init__(self, tree: Mapping[str, Any], arrays: dict[str, NDArray[Any]], path: Path) -> None:
        self._nodes: list[dict[str, Any]] = tree["nodes"]
        ((self._head, *_),) = tree["heads"]
        self._arrays, self._path = arrays, path
        self._unused = set(arrays)
        self._stands_for: dict[int, int] = {}
        self._graph = ForeignGraph(str(path))

    def graph(self) -> ForeignGraph:
        check_printable(text for node in self._nodes for text in (node["op"], node["name"]))
        for index, node in enumerate(self._nodes):
            if node["op"] != "null":
                self._stands_for[index] = self._node(node)
            elif node["name"] == "data":
                self._stands_for[index] = IMAGE
        graph = self._graph.finish(self._stands_for.get(self._head))
        if self._unused:
            raise WeightsError(
                f"{self._path}: {len(self._unused)} arrays are not in the graph, such as '{min(self._unused)}'"
            )
        return graph

    def _node(self, node: dict[str, Any]) -> int:
        op, name = node["op"], node["name"]
        attributes = node.get("attrs") or node.get("param") or node.get("attr") or {}
        sources = [entry[0] for entry in node["inputs"]]
        weights = [self._nodes[i]["name"] for i in sources if i not in self._stands_for]
        inputs = tuple(self._stands_for[i] for i in sources if i in self._stands_for)
        append = self._graph.append
        if op in _SCALAR:
            if inputs != (IMAGE,):
                raise ValueError(f"'{name}' scales something other than the image")
            scalar = float(attributes["scalar"])
            factor, offset = (1.0, -scalar) if "inus" in op else (scalar, 0.0)
            self._graph.rescale(factor=factor, offset=offset)
        if op in _SCALAR or op in _PASS:
            return inputs[0]
        if op == "Convolution":
            window = {"stride": _square(attributes.get("stride", "1")), "padding": _square(attributes.get("pad", "0"))}
            groups = int(attributes.get("num_group", 1))
            return append("conv", name, inputs, self._kernel_and_bias(weights), groups=groups, **window)
        if op == "FullyConnected":
            return append("dense", name, inputs, self._kernel_and_bias(weights))
        if op == "LeakyReLU" and attributes.get("act_type") == "prelu":
            return append("prelu", name, inputs, {"slope": self._take("arg", weights[0])})
        if op in _ADD:
            return append("add", name, inputs)
        if op != "BatchNorm":
            raise ValueError(f"the operation {op} ('{name}') is not known here")
        groups_and_roles = zip(("arg", "arg", "aux", "aux"), ("gamma", "beta", "mean", "variance"), strict=True)
        arrays = {r: self._take(g, weight) for (g, r), weight in zip(groups_and_roles, weights, strict=True)}
        # MXNet's default; the stored gamma of a fixed one means nothing.
        if attributes.get("fix_gamma", "True") in ("True", "1"):
            arrays["gamma"] = np.ones_like(arrays["gamma"])
        epsilon = float(attributes.get("eps", _BATCH_NORM_EPSILON))
        return append("batch_norm", name, inputs, arrays, epsilon=epsilon)

    def _kernel_and_bias(self, weights: list[str]) -> dict[str, NDArray[np.float32]]:
        return {role: self._take("arg", weight) for role, weight in zip(("kernel", "bias"), weights, strict=False)}

    def _take(self, group: str, name: str) -> NDArray[np.float32]:
        key = f"{group}:{name}"
        if key not in self._arrays:
            raise WeightsError(
                f"{self._path}: no array '{key}', which the graph needs: the two files do not belong together"
            )
        self._unused.discard(key)
        return np.asarray(self._arrays[key], np.float32)


def _square(text: str) -> int:
    """MXNet writes pairs as text: "(2, 2)", "[2, 2]" or "(2L, 2L)"."""
    numbers = {int(part) for part in text.replace("L", "").strip("()[] ").split(",") if part.strip()}
    if len(numbers) != 1:
        raise ValueError(f"the uneven window setting {text}")
    return numbers.pop()


def read_params(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a `.params` file by name, with their `arg:` or `aux:` prefix."""
    with reading(path, "an MXNet .params file", error=WeightsError):
        reader = _Reader(path.read_bytes())
        magic, _, count = reader.fields("QQQ")
        if magic != _LIST_MAGIC:
            raise ValueError(f"expected magic {_LIST_MAGIC:#x}, received {magic:#x}")
        arrays = [reader.array() for _ in reader.announced(count)]
        (count,) = reader.fields("Q")
        names = [reader.take(*reader.fields("Q")).decode("utf-8") for _ in reader.announced(count)]
        check_printable(names)
        if len(names) != len(arrays) or len(set(names)) != len(names):
            raise ValueError(f"{len(arrays)} arrays, {len(set(names))} distinct names")
        if reader.left:
            raise ValueError(f"{reader.left} bytes after its end")
        return dict(zip(names, arrays, strict=True))


class _Reader:
    """Little-endian fields of a byte string, in order."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)
        self.left = len(data)

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise ValueError(f"{size} bytes were announced, {self.left} are left")
        self.left -= size
        return self._stream.read(size)

    def fields(self, layout: str) -> tuple[int, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def announced(self, count: int) -> range:
        if count > self.left:
            raise ValueError(f"{count} entries announced in {self.left} bytes")
        return range(count)

    def array(self) -> NDArray[Any]:
        (magic,) = self.fields("I")
        if magic in _WITH_STORAGE and self.fields("i")[0] > 0:
            raise ValueError("sparse arrays are not weights of a network known here")
        dimensions, side = magic, "I"
        if magic in (*_WITH_STORAGE, _WITHOUT_STORAGE):
            (dimensions,), side = self.fields("I"), "q"
        if dimensions > _MAX_DIMENSIONS:
            raise ValueError(f"an array of {dimensions} dimensions")
        shape = self.fields(f"{dimensions}{side}")
        _, _, dtype = self.fields("iii")
        if dtype not in _DTYPES or min(shape, default=1) < 0:
            raise ValueError(f"an array {shape} of type {dtype}")
        numbers = np.dtype(_DTYPES[dtype])
        return np.frombuffer(self.take(math.prod(shape) * numbers.itemsize), numbers).reshape(shape)


def read_mmdnn(path: Path) -> ForeignGraph:
    """The network of an MMdnn dictionary."""
    with reading(path, "an MMdnn dictionary of an IResNet", error=WeightsError):
        with path.open("rb") as stream:
            shape, _, dtype = read_npy_header(stream)
            if shape != () or not dtype.hasobject:
                raise ValueError(f"expected one pickled dictionary, received {dtype} {shape}")
            try:
                holder = restricted_loads(stream, source=str(path), encoding="latin1")
            except DataError as error:
                raise WeightsError(str(error)) from error
        layers = holder.item()
        check_printable(layers)
        if not isinstance(layers, dict) or not all(isinstance(v, dict) for v in layers.values()):
            raise ValueError("expected a dictionary of dictionaries")
        return _Dictionary(layers, path).graph()


class _Dictionary:
    """Builds the graph of an IResNet from the names of an MMdnn dictionary."""

    def __init__(self, layers: Mapping[str, Mapping[str, NDArray[Any]]], path: Path) -> None:
        self._layers = layers
        self._unused = set(layers)
        self._graph = ForeignGraph(str(path))

    def graph(self) -> ForeignGraph:
        last = self._conv("conv0", IMAGE, stride=1)
        last = self._prelu("relu0", self._batch_norm("bn0", last))
        found = (_UNIT.match(name) for name in self._layers)
        for stage, unit in sorted({(int(match[1]), int(match[2])) for match in found if match}):
            last = self._unit(f"stage{stage}_unit{unit}_", last, stride=2 if unit == 1 else 1)
        last = self._dense("pre_fc1", self._batch_norm("bn1", last))
        last = self._batch_norm("fc1", last)
        self._set_scaling()
        if self._unused:
            raise ValueError(f"{len(self._unused)} layers have no place in an IResNet, such as '{min(self._unused)}'")
        return self._graph.finish(last)

    def _unit(self, prefix: str, before: int, *, stride: int) -> int:
        last = self._batch_norm(f"{prefix}bn1", before)
        last = self._conv(f"{prefix}conv1", last, stride=1)
        last = self._batch_norm(f"{prefix}bn2", last)
        last = self._prelu(f"{prefix}relu1", last)
        last = self._conv(f"{prefix}conv2", last, stride=stride)
        last = self._batch_norm(f"{prefix}bn3", last)
        if f"{prefix}conv1sc" in self._layers:
            before = self._batch_norm(f"{prefix}sc", self._conv(f"{prefix}conv1sc", before, stride=stride))
        return self._graph.append("add", f"{prefix}add", (last, before))

    def _take(self, name: str, needed: tuple[str, ...], optional: str = "") -> dict[str, NDArray[np.float32]]:
        if name not in self._layers:
            raise ValueError(f"no layer '{name}'")
        self._unused.discard(name)
        layer = self._layers[name]
        if not set(needed) <= set(layer) <= {*needed, optional}:
            raise ValueError(f"'{name}' holds {sorted(layer)}, expected {sorted(needed)}")
        return {role: np.asarray(array, np.float32) for role, array in layer.items()}

    def _conv(self, name: str, before: int, *, stride: int) -> int:
        arrays = self._take(name, ("weights",), "bias")
        kernel = arrays.pop("weights")
        if kernel.ndim != 4:
            raise ValueError(f"'{name}' has no convolution kernel")
        arrays["kernel"] = kernel.transpose(3, 2, 0, 1)
        return self._graph.append("conv", name, (before,), arrays, stride=stride, padding=(kernel.shape[0] - 1) // 2)

    def _batch_norm(self, name: str, before: int) -> int:
        arrays = self._take(name, ("bias", "mean", "var"), "scale")
        # A missing scale is one that MXNet fixed at one.
        gamma = arrays.get("scale", np.ones_like(arrays["mean"]))
        arrays = {"gamma": gamma, "beta": arrays["bias"], "mean": arrays["mean"], "variance": arrays["var"]}
        return self._graph.append("batch_norm", name, (before,), arrays, epsilon=_MMDNN_EPSILON)

    def _prelu(self, name: str, before: int) -> int:
        return self._graph.append("prelu", name, (before,), {"slope": self._take(name, ("gamma",))["gamma"].ravel()})

    def _dense(self, name: str, before: int) -> int:
        """(H*W*C, O), already in our order; the common form is channels first."""
        arrays = self._take(name, ("weights",), "bias")
        kernel = arrays.pop("weights")
        channels = next(op.arrays["kernel"].shape[0] for op in reversed(self._graph.ops) if op.kind == "conv")
        if kernel.ndim != 2 or kernel.shape[0] % channels:
            raise ValueError(f"'{name}' has no matrix over {channels} channels")
        places = kernel.reshape(-1, channels, kernel.shape[1]).transpose(2, 1, 0)
        arrays["kernel"] = places.reshape(kernel.shape[1], -1)
        return self._graph.append("dense", name, (before,), arrays)

    def _set_scaling(self) -> None:
        """From the two constants that MMdnn keeps of `(x - a) * b`, where it kept them."""
        values = {}
        for name in sorted(self._unused):
            if set(self._layers[name]) == {"value"}:
                role = "minus" if "minus" in name else "mul"
                values[role] = float(np.asarray(self._layers[name]["value"]).reshape(()))
                self._unused.discard(name)
        if set(values) == {"minus", "mul"}:
            self._graph.rescale(factor=values["mul"], offset=-values["minus"] * values["mul"])
