"""MXNet checkpoints without MXNet: `NAME-0000.params` (arrays), `NAME-symbol.json` (graph)."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._untrusted import read_json
from iom.errors import WeightsError
from iom.pretrained.importers.graph import IMAGE, ForeignGraph, ForeignOp
from iom.pretrained.importers.messages import check_names, one_line
from iom.pretrained.importers.mxnet_arrays import read_params

_BATCH_NORM_EPSILON = 1e-3
"""MXNet's default, where the graph states none."""

_PASS = {"Flatten", "Dropout", "identity", "_copy", "Reshape"}
_ADD = {"elemwise_add", "_plus", "_Plus", "broadcast_add", "_add"}


def read_mxnet(params_path: Path, symbol_path: Path) -> ForeignGraph:
    """The network of an MXNet checkpoint.

    Raises:
        WeightsError: A file is missing or damaged, the two do not belong together, or the graph
            holds an operation that is not known here.
    """
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
            raise ValueError("its head is no node")
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
        self._ops: list[ForeignOp] = []
        self._scaling: tuple[float, float] | None = None

    def run(self, head: int) -> ForeignGraph:
        check_names(text for node in self._nodes for text in (node["op"], node["name"]))
        for index, node in enumerate(self._nodes):
            if node["op"] != "null":
                self._node(index, node)
            elif node["name"] == "data":
                self._stands_for[index] = IMAGE
        if self._stands_for.get(head) != len(self._ops) - 1:
            raise WeightsError(f"{self._symbol_path}: the output is not the last operation")
        if self._unused:
            raise WeightsError(
                f"{self._params_path}: {len(self._unused)} arrays are not in the graph "
                f"{self._symbol_path.name}, such as '{sorted(self._unused)[0]}'"
            )
        return ForeignGraph(str(self._params_path), tuple(self._ops), self._scaling, None)

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
        self._stands_for[index] = len(self._ops)
        self._ops.append(self._translate(op, name, attributes, inputs, weights))

    def _rescale(self, op: str, name: str, scalar: float, inputs: tuple[int, ...]) -> None:
        if inputs != (IMAGE,):
            raise WeightsError(f"{self._symbol_path}: '{name}' scales something but the image")
        scale, offset = self._scaling or (1.0, 0.0)
        if "inus" in op:
            self._scaling = (scale, offset - scalar)
        else:
            self._scaling = (scale * scalar, offset * scalar)

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
