"""MMdnn dictionaries (`.npy`) of an IResNet that was converted from MXNet.

The file is a pickled dictionary, layer name -> {weights, bias, mean, var, scale, gamma}, read without running anything.
The graph is inferred from the names, which are those of InsightFace's MXNet code.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._unpickling import NUMPY_ARRAYS, restricted_loads
from iom._untrusted import check_printable, one_line
from iom.errors import DataError, WeightsError
from iom.pretrained.importers.foreign import IMAGE, ForeignGraph, ForeignOp, GraphBuilder

_EPSILON = 2e-5
_UNIT = re.compile(r"stage(\d+)_unit(\d+)_")

Layers = Mapping[str, Mapping[str, NDArray[Any]]]


def read_mmdnn(path: Path) -> ForeignGraph:
    """The network of an MMdnn dictionary."""
    layers = _read(path)
    try:
        return _Translation(layers, path).run()
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        reason = one_line(error)
        raise WeightsError(f"{path}: damaged MMdnn dictionary: {reason}") from error


def _read(path: Path) -> Layers:
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            if shape != () or not dtype.hasobject:
                raise ValueError(f"expected one pickled dictionary, received {dtype} {shape}")
            holder = restricted_loads(stream, admitted=NUMPY_ARRAYS, source=str(path), encoding="latin1")
        layers = holder.item()
        check_printable(layers)
        if not isinstance(layers, dict) or not all(isinstance(v, dict) for v in layers.values()):
            raise ValueError("expected a dictionary of dictionaries")
    except OSError as error:
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from error
    except DataError as error:
        raise WeightsError(str(error)) from error
    # The header of a .npy file is a Python literal, which fails in many ways.
    except Exception as error:
        reason = one_line(error)
        raise WeightsError(f"{path}: damaged or not an MMdnn dictionary: {reason}") from error
    return layers


class _Translation:
    """Builds the graph from the names."""

    def __init__(self, layers: Layers, path: Path) -> None:
        self._layers = layers
        self._path = path
        self._unused = set(layers)
        self._graph = GraphBuilder(str(path))

    def run(self) -> ForeignGraph:
        last = self._conv("conv0", IMAGE, stride=1)
        last = self._prelu("relu0", self._batch_norm("bn0", last))
        for stage, unit in self._units():
            last = self._unit(f"stage{stage}_unit{unit}_", last)
        last = self._dense("pre_fc1", self._batch_norm("bn1", last))
        last = self._batch_norm("fc1", last)
        self._set_scaling()
        if self._unused:
            raise WeightsError(
                f"{self._path}: {len(self._unused)} layers have no place in an IResNet, such as "
                f"'{sorted(self._unused)[0]}'"
            )
        return self._graph.finish(last)

    def _units(self) -> list[tuple[int, int]]:
        found = (_UNIT.match(name) for name in self._layers)
        return sorted({(int(match[1]), int(match[2])) for match in found if match})

    def _unit(self, prefix: str, before: int) -> int:
        stride = 2 if prefix.endswith("unit1_") else 1
        last = self._batch_norm(f"{prefix}bn1", before)
        last = self._conv(f"{prefix}conv1", last, stride=1)
        last = self._batch_norm(f"{prefix}bn2", last)
        last = self._prelu(f"{prefix}relu1", last)
        last = self._conv(f"{prefix}conv2", last, stride=stride)
        last = self._batch_norm(f"{prefix}bn3", last)
        shortcut = before
        if f"{prefix}conv1sc" in self._layers:
            shortcut = self._conv(f"{prefix}conv1sc", before, stride=stride)
            shortcut = self._batch_norm(f"{prefix}sc", shortcut)
        return self._graph.append(ForeignOp("add", f"{prefix}add", (last, shortcut)))

    def _take(self, name: str, *roles: str) -> list[NDArray[np.float32] | None]:
        if name not in self._layers:
            raise WeightsError(f"{self._path}: no layer '{name}': not the dictionary of an IResNet from MXNet")
        self._unused.discard(name)
        layer = self._layers[name]
        if set(layer) - set(roles):
            raise ValueError(f"'{name}' holds {sorted(layer)}, expected {sorted(roles)}")
        return [np.asarray(layer[role], np.float32) if role in layer else None for role in roles]

    def _conv(self, name: str, before: int, *, stride: int) -> int:
        kernel, bias = self._take(name, "weights", "bias")
        if kernel is None or kernel.ndim != 4:
            raise ValueError(f"'{name}' has no convolution kernel")
        arrays = {"kernel": kernel.transpose(3, 2, 0, 1)}
        if bias is not None:
            arrays["bias"] = bias
        padding = (kernel.shape[0] - 1) // 2
        return self._graph.append(ForeignOp("conv", name, (before,), arrays, stride=stride, padding=padding))

    def _batch_norm(self, name: str, before: int) -> int:
        gamma, beta, mean, variance = self._take(name, "scale", "bias", "mean", "var")
        if beta is None or mean is None or variance is None:
            raise ValueError(f"'{name}' lacks an array of a batch norm")
        # A missing scale is one that MXNet fixed at one.
        arrays = {
            "gamma": np.ones_like(mean) if gamma is None else gamma,
            "beta": beta,
            "mean": mean,
            "variance": variance,
        }
        return self._graph.append(ForeignOp("batch_norm", name, (before,), arrays, epsilon=_EPSILON))

    def _prelu(self, name: str, before: int) -> int:
        (slope,) = self._take(name, "gamma")
        if slope is None:
            raise ValueError(f"'{name}' has no slopes")
        return self._graph.append(ForeignOp("prelu", name, (before,), {"slope": slope.ravel()}))

    def _dense(self, name: str, before: int) -> int:
        """(H*W*C, O), already in our order; the common form is channels first."""
        kernel, bias = self._take(name, "weights", "bias")
        channels = next(op.arrays["kernel"].shape[0] for op in reversed(self._graph.ops) if op.kind == "conv")
        if kernel is None or kernel.ndim != 2 or kernel.shape[0] % channels:
            raise ValueError(f"'{name}' has no matrix over {channels} channels")
        places = kernel.reshape(-1, channels, kernel.shape[1]).transpose(2, 1, 0)
        arrays = {"kernel": places.reshape(kernel.shape[1], -1)}
        if bias is not None:
            arrays["bias"] = bias
        return self._graph.append(ForeignOp("dense", name, (before,), arrays))

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
