"""Foreign networks in one common form, and the Keras backbone of the same architecture that takes their weights.

A reader gives a `ForeignGraph`, from which the backbone is identified. Both are walked in calling order: every
operation must have its counterpart with the same producers, stride and padding, and every array must fit and be used.
Where an exporter folded a batch norm into the layer before it, the backbone's becomes the identity with that bias.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from iom._untrusted import one_line
from iom.errors import ConfigError, WeightsError
from iom.nn.backbones.dlib_resnet import PadChannels
from iom.nn.backbones.iresnet import DEPTHS
from iom.nn.backbones.registry import build_backbone
from iom.pretrained.manifest import RAW, Statement

IMAGE = -1
"""Producer index of the input image."""
Kind = Literal["conv", "batch_norm", "prelu", "relu", "dense", "add", "max_pool", "average_pool", "global_average_pool"]
_KINDS: dict[type, Kind] = {
    layers.Conv2D: "conv",
    layers.DepthwiseConv2D: "conv",
    layers.Dense: "dense",
    layers.PReLU: "prelu",
    layers.BatchNormalization: "batch_norm",
    layers.ReLU: "relu",
    layers.Add: "add",
    layers.MaxPooling2D: "max_pool",
    layers.AveragePooling2D: "average_pool",
    layers.GlobalAveragePooling2D: "global_average_pool",
}
_TRANSPARENT = (
    layers.InputLayer,
    layers.Rescaling,
    layers.ZeroPadding2D,
    PadChannels,
    layers.Dropout,
    layers.Flatten,
    layers.Reshape,
    layers.Activation,
)
Arrays = Mapping[str, NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class ForeignOp:
    """One operation of a foreign graph, with its weights in the foreign (channels first) layout."""

    kind: Kind
    name: str
    inputs: tuple[int, ...]
    """Indexes of its producers; `IMAGE` is the input."""
    arrays: Arrays = dataclasses.field(default_factory=dict)
    """conv: `kernel` (O, I/groups, h, w), `bias`; dense: `kernel` (O, C*H*W), `bias`; batch_norm:
    `gamma`, `beta`, `mean`, `variance`; prelu: `slope` (C,). A bias may be missing."""
    stride: int = 1
    padding: int = 0
    groups: int = 1
    epsilon: float = 0.0
    window: int = 0
    """Side of the window of a pooling."""

    @property
    def form(self) -> str:
        """Kind, shape of the kernel and window; equal for an operation and its counterpart."""
        shape = self.arrays["kernel"].shape if "kernel" in self.arrays else (self.window,) * bool(self.window)
        return _form(self.kind, shape, self.stride, self.padding, self.groups)


_WINDOWED = ("conv", "max_pool", "average_pool")


def _form(kind: str, shape: tuple[int, ...], stride: int, padding: int, groups: int) -> str:
    window = f", stride {stride}, padding {padding}, groups {groups}" if kind in _WINDOWED else ""
    return f"{kind} {shape}{window}" if shape else kind


@dataclasses.dataclass
class ForeignGraph:
    """A foreign network, image (B, 3, S, S) -> embedding (B, D); a reader appends its operations in calling order."""

    source: str
    ops: list[ForeignOp] = dataclasses.field(default_factory=list)
    scaling: tuple[float, float] | None = None
    """`x * scale + offset` of pixels within the graph; `None`: it has none and expects scaled pixels."""
    input_size: int | None = None
    """Side of the image, where the file states it."""

    @property
    def embedding_size(self) -> int:
        """D, from the last dense operation."""
        last = next(op for op in reversed(self.ops) if op.kind == "dense")
        return len(last.arrays["kernel"])

    def append(
        self, kind: Kind, name: str, inputs: tuple[int, ...], arrays: Arrays | None = None, **settings: Any
    ) -> int:
        """Add a `ForeignOp`; its index."""
        self.ops.append(ForeignOp(kind, name, inputs, arrays or {}, **settings))
        return len(self.ops) - 1

    def rescale(self, *, factor: float = 1.0, offset: float = 0.0) -> None:
        """Scale the image further: `x * factor + offset`."""
        scale, before = self.scaling or (1.0, 0.0)
        self.scaling = scale * factor, before * factor + offset

    def finish(self, output: int | None) -> "ForeignGraph":
        """The graph itself, whose output must be its last operation."""
        if not self.ops or output != len(self.ops) - 1:
            raise WeightsError(
                f"{self.source}: not a recognition network known here: the output is not the last operation"
            )
        return self._called_in_order() if any(op.kind == "average_pool" for op in self.ops) else self

    def _called_in_order(self) -> "ForeignGraph":
        """The same in calling order, a block's main path before its shortcut; files may store the layers otherwise."""
        order: list[int] = []
        pending = [(len(self.ops) - 1, False)]
        while pending:
            index, is_ready = pending.pop()
            if is_ready:
                order.append(index)
            elif index != IMAGE and index not in order:
                pending += [(index, True), *((below, False) for below in reversed(self.ops[index].inputs))]
        places = {IMAGE: IMAGE, **{index: place for place, index in enumerate(order)}}
        ops = [
            dataclasses.replace(self.ops[index], inputs=tuple(places[below] for below in self.ops[index].inputs))
            for index in order
        ]
        return dataclasses.replace(self, ops=ops)


def build_foreign(graph: ForeignGraph, statement: Statement) -> keras.Model:
    """Backbone of ours with the graph's weights, which takes raw RGB pixels.

    Its layer `pixel_scaling` scales; where BGR is stated, the input channels of the first convolution are swapped.
    """
    try:
        return _build(graph, statement)
    except ConfigError as error:
        raise WeightsError(f"{graph.source}: {error}") from error
    # Arrays of shapes that no network has, from a damaged file.
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise WeightsError(f"{graph.source}: damaged weights: {one_line(error)}") from error


def _build(graph: ForeignGraph, statement: Statement) -> keras.Model:
    name, arguments = _identify(graph)
    for what, stated, found in (
        ("architecture", statement.architecture or name, name),
        ("size", statement.size, arguments["input_size"]),
        ("embedding size", statement.embedding_size or graph.embedding_size, graph.embedding_size),
    ):
        if stated != found:
            raise WeightsError(f"{graph.source}: {what}: {stated} is stated, the file holds {found}")
    if graph.scaling is not None and statement.range != RAW:
        raise WeightsError(
            f"{graph.source}: the range '{statement.range}' is stated, but the graph itself scales pixels (by "
            f"{graph.scaling[0]:.7g}, offset {graph.scaling[1]:.7g}) and so wants '{RAW}'"
        )
    model = build_backbone(name, **arguments)
    assign_weights(model, graph)
    scaling = model.get_layer("pixel_scaling")
    scaling.scale, scaling.offset = graph.scaling or statement.scaling
    if statement.colour_order == "BGR":
        first = next(layer for layer in model.layers if isinstance(layer, layers.Conv2D))
        first.kernel.assign(np.asarray(first.kernel)[:, :, ::-1])
    return model


def _identify(graph: ForeignGraph) -> tuple[str, dict[str, Any]]:
    """Name of the backbone and the arguments of its builder; `assign_weights` then compares every operation."""
    convolutions = [op for op in graph.ops if op.kind == "conv"]
    dense = [op for op in graph.ops if op.kind == "dense"]
    if len(convolutions) < 3 or len(dense) != 1:
        raise WeightsError(
            f"{graph.source}: expected a recognition network of convolutions and one dense layer, "
            f"received {len(convolutions)} convolutions and {len(dense)} dense layers"
        )
    shapes = [op.arrays["kernel"].shape for op in convolutions]
    if shapes[0][2:] == (7, 7):
        identify = _dlib_resnet
    else:
        identify = _mobile if any(op.groups > 1 for op in convolutions) else _residual
    name, arguments = identify(graph.source, convolutions, shapes)
    size = graph.input_size
    if not size:  # from the feature map that the dense layer takes
        reduction = math.prod(op.stride for op, shape in zip(convolutions, shapes, strict=True) if shape[2] == 3)
        side = math.isqrt(dense[0].arrays["kernel"].shape[1] // shapes[-1][0])
        size = reduction * (shapes[-1][2] if convolutions[-1].groups > 1 else side)
    return name, {**arguments, "embedding_size": graph.embedding_size, "input_size": size}


def _dlib_resnet(
    source: str, convolutions: list[ForeignOp], shapes: list[tuple[int, ...]]
) -> tuple[str, dict[str, Any]]:
    return "dlib_resnet", {}


def _mobile(source: str, convolutions: list[ForeignOp], shapes: list[tuple[int, ...]]) -> tuple[str, dict[str, Any]]:
    if convolutions[1].groups == shapes[1][0] == shapes[0][0]:
        return "mobilefacenet_y1", {}
    # Every bottleneck has one depthwise convolution of 3x3; stride 2 opens a stage.
    blocks = [0]
    for op, shape in zip(convolutions[1:], shapes[1:], strict=True):
        if op.stride == 2:
            blocks.append(0)
        elif op.groups > 1 and shape[2] == 3:
            blocks[-1] += 1
    if len(blocks) != 4 or min(blocks) < 1:
        raise WeightsError(f"{source}: not a MobileFaceNet: stages of {blocks} blocks")
    return "mobilefacenet", {"blocks": tuple(blocks), "scale": max(1, shapes[0][0] // 64)}


def _residual(source: str, convolutions: list[ForeignOp], shapes: list[tuple[int, ...]]) -> tuple[str, dict[str, Any]]:
    """Each stage of an IResNet opens with a block that has a 1x1 convolution in its shortcut."""
    places = [i for i, shape in enumerate(shapes) if i and shape[2:] == (1, 1)]
    if not places:
        raise WeightsError(f"{source}: not an IResNet: no stage has a shortcut convolution")
    stem, widths = shapes[0][0], tuple(shapes[place][0] for place in places)
    # Two convolutions a block, and the shortcut's stands behind those of the block that opens.
    ends = [*places[1:], len(convolutions) + 2]
    depths = tuple((end - place - 1) // 2 for place, end in zip(places, ends, strict=True))
    standard = {blocks: number for number, blocks in DEPTHS.items()}
    if stem == 64 and widths == (64, 128, 256, 512) and depths in standard:
        return f"iresnet{standard[depths]}", {}
    return "iresnet_slim", {"stem": stem, "widths": widths, "depths": depths}


@dataclasses.dataclass(frozen=True)
class _Step:
    """Counterpart of a foreign operation: a weighted (or adding) layer of a backbone, or several that make one."""

    name: str
    parts: tuple[keras.Layer, ...]
    """Several where a convolution of groups is a sum of depthwise ones: part i has each group's i-th channel."""
    kind: Kind
    producers: tuple[str, ...]
    """Names of the steps before it; empty is the image."""
    padding: int
    flattened: tuple[int, int, int] | None
    """(H, W, C) of a feature map that is flattened before it."""

    @property
    def form(self) -> str:
        """As of `ForeignOp`."""
        layer = self.parts[0]
        if self.kind == "dense":
            return _form("dense", tuple(layer.kernel.shape)[::-1], 1, 0, 1)
        if self.kind in ("max_pool", "average_pool"):
            return _form(self.kind, layer.pool_size[:1], layer.strides[0], 0, 1)
        if self.kind != "conv":
            return self.kind
        height, width, before, filters = layer.kernel.shape
        shape, groups = (filters, before, height, width), 1
        if isinstance(layer, layers.DepthwiseConv2D):
            shape, groups = (before * filters, len(self.parts), height, width), before
        return _form("conv", shape, layer.strides[0], self.padding, groups)


def assign_weights(model: keras.Model, graph: ForeignGraph) -> None:
    """Set every weight of `model` from `graph`; the error names the first operation that differs."""
    _Assignment(model, graph).run()


class _Assignment:
    """One walk over both graphs, with the foreign operation that each layer of ours stands for."""

    def __init__(self, model: keras.Model, graph: ForeignGraph) -> None:
        self._model, self._graph = model, graph
        self._stands_for = {"": IMAGE}
        self._kind_of: dict[str, Kind] = {}
        self._pending_bias: dict[str, NDArray[np.float32]] = {}

    def run(self) -> None:
        ops = self._graph.ops
        position = 0
        for step in _steps(self._model):
            self._kind_of[step.name] = step.kind
            op = ops[position] if position < len(ops) else None
            producers = {self._stands_for[name] for name in step.producers}
            is_next = op is not None and op.kind == step.kind and set(op.inputs) == producers
            if step.kind == "batch_norm" and not is_next:
                self._stands_for[step.name] = self._stands_for[step.producers[0]]
                self._set_batch_norm(step, self._folded(step, op))
                continue
            if op is None or op.form != step.form:
                found = "nothing" if op is None else f"{op.form} '{op.name}'"
                raise self._differs(step, f"expected {step.form}, the file has {found}")
            if not is_next:
                raise self._differs(step, f"'{op.name}' takes its input from another operation")
            self._stands_for[step.name] = position
            self._set(step, op)
            position += 1
        source, name = self._graph.source, self._model.name
        if position < len(ops):
            raise WeightsError(
                f"{source}: {name} ends before {ops[position].kind} '{ops[position].name}': "
                "the file holds another architecture"
            )
        if self._pending_bias:
            raise WeightsError(f"{source}: {name} has no place for the bias of {next(iter(self._pending_bias))}")

    def _differs(self, step: _Step, reason: str) -> WeightsError:
        return WeightsError(
            f"{self._graph.source}: does not fit {self._model.name}: layer '{step.name}' "
            f"({type(step.parts[0]).__name__}): {reason}"
        )

    def _set(self, step: _Step, op: ForeignOp) -> None:
        layer = step.parts[0]
        if op.kind == "batch_norm":
            self._set_batch_norm(step, op)
        elif op.kind == "prelu":
            slope = op.arrays["slope"].reshape(-1)
            shape = layer.alpha.shape
            if slope.size not in (1, shape[-1]):
                raise self._differs(step, f"expected {shape[-1]} slopes, '{op.name}' has {slope.size}")
            layer.alpha.assign(np.broadcast_to(slope, shape))
        elif op.kind in ("conv", "dense"):
            self._set_kernel(step, op.arrays["kernel"], op.groups)
            bias = op.arrays.get("bias")
            if layer.use_bias:
                layer.bias.assign(np.zeros(layer.bias.shape) if bias is None else bias)
            elif bias is not None:
                self._pending_bias[step.name] = bias

    def _set_kernel(self, step: _Step, kernel: NDArray[np.float32], groups: int) -> None:
        if step.kind == "dense":
            if step.flattened is not None:  # the foreign flatten runs over channels first, ours last
                height, width, channels = step.flattened
                places = kernel.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
                kernel = places.reshape(len(kernel), -1)
            step.parts[0].kernel.assign(kernel.T)
        elif not isinstance(step.parts[0], layers.DepthwiseConv2D):
            step.parts[0].kernel.assign(kernel.transpose(2, 3, 1, 0))
        else:
            for index, part in enumerate(step.parts):
                grouped = kernel[:, index].reshape(groups, -1, *kernel.shape[2:])
                part.kernel.assign(grouped.transpose(2, 3, 0, 1))

    def _set_batch_norm(self, step: _Step, op: ForeignOp) -> None:
        layer = step.parts[0]
        size = layer.moving_mean.shape[0]
        for name, array in op.arrays.items():
            if array.shape != (size,):
                raise self._differs(step, f"expected {size} {name}, '{op.name}' has {array.shape}")
        gamma, variance = op.arrays["gamma"], op.arrays["variance"] + op.epsilon
        if layer.scale:
            layer.gamma.assign(gamma)
        elif (gamma <= 0).any():
            raise self._differs(step, f"'{op.name}' has a scale that is not positive")
        else:
            variance = variance / gamma**2
        layer.beta.assign(op.arrays["beta"])
        layer.moving_mean.assign(op.arrays["mean"] - self._pending_bias.pop(step.producers[0], 0.0))
        layer.moving_variance.assign(variance - layer.epsilon)

    def _folded(self, step: _Step, op: ForeignOp | None) -> ForeignOp:
        """The identity, for a batch norm that the exporter has folded into the layer before it."""
        before = step.producers[0]
        if self._kind_of.get(before) not in ("conv", "dense", "add"):
            found = "nothing" if op is None else f"{op.form} '{op.name}'"
            raise self._differs(step, f"expected batch_norm, the file has {found}")
        if before not in self._pending_bias and not getattr(self._model.get_layer(before), "use_bias", False):
            raise self._differs(step, f"no batch norm in the file, and no bias at '{before}'")
        ones = np.ones(step.parts[0].moving_mean.shape, np.float32)
        arrays = {"gamma": ones, "beta": 0 * ones, "mean": 0 * ones, "variance": ones}
        return ForeignOp("batch_norm", step.name, (), arrays)


def _steps(model: keras.Model) -> list[_Step]:
    """Steps of a backbone in calling order: a walk from the output, first inputs first."""
    # `model.layers` and `graphlib.TopologicalSorter` mix a block's main path with its shortcut.
    steps: dict[str, _Step] = {}
    done: set[str] = set()
    pending = [(_layer_of(model.outputs[0]), False)]
    while pending:
        layer, is_ready = pending.pop()
        if layer.name in done:
            continue
        inputs = [] if isinstance(layer, layers.InputLayer) else keras.tree.flatten(layer.input)
        if not is_ready:
            pending += [(layer, True), *((_layer_of(tensor), False) for tensor in reversed(inputs))]
            continue
        done.add(layer.name)
        if _is_transparent(layer):
            continue
        step = _step(layer, inputs)
        parts = [steps[name] for name in step.producers if name in steps]
        if step.kind == "add" and all(isinstance(part.parts[0], layers.DepthwiseConv2D) for part in parts):
            for part in parts:
                del steps[part.name]
            step = dataclasses.replace(parts[0], name=step.name, parts=tuple(part.parts[0] for part in parts))
        steps[step.name] = step
    return list(steps.values())


def _layer_of(tensor: keras.KerasTensor) -> keras.Layer:
    return tensor._keras_history.operation


def _is_transparent(operation: keras.Operation) -> bool:
    """Whether it holds no weights and has no counterpart: also slices, which are no layers."""
    return isinstance(operation, _TRANSPARENT) or not isinstance(operation, keras.Layer)


def _step(layer: keras.Layer, inputs: list[keras.KerasTensor]) -> _Step:
    if type(layer) not in _KINDS:
        raise WeightsError(f"no foreign counterpart is known for a {type(layer).__name__} layer")
    padding = (layer.kernel_size[0] - 1) // 2 if getattr(layer, "padding", "") == "same" else 0
    flattened = None
    producers = []
    for tensor in inputs:
        below = _layer_of(tensor)
        while _is_transparent(below) and not isinstance(below, layers.InputLayer):
            if isinstance(below, layers.ZeroPadding2D):
                padding += below.padding[0][0]
            if isinstance(below, layers.Flatten) and len(below.input.shape) == 4:
                flattened = tuple(below.input.shape[1:])
            below = _layer_of(keras.tree.flatten(below.input)[0])
        producers.append("" if isinstance(below, layers.InputLayer) else below.name)
    return _Step(layer.name, (layer,), _KINDS[type(layer)], tuple(producers), padding, flattened)
