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
from iom.nn.backbones.iresnet import DEPTHS
from iom.nn.backbones.registry import build_backbone
from iom.pretrained.manifest import RAW, Statement

_TRANSPARENT = (
    layers.InputLayer,
    layers.Rescaling,
    layers.ZeroPadding2D,
    layers.Dropout,
    layers.Flatten,
    layers.Reshape,
    layers.Activation,
)
CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)
IMAGE = -1
"""Producer index of the input image."""

Kind = Literal["conv", "batch_norm", "prelu", "dense", "add"]


@dataclasses.dataclass(frozen=True)
class ForeignOp:
    """One operation of a foreign graph, with its weights in the foreign (channels first) layout."""

    kind: Kind
    name: str
    inputs: tuple[int, ...]
    """Indexes of its producers; `IMAGE` is the input."""
    arrays: Mapping[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    """conv: `kernel` (O, I/groups, h, w), `bias`; dense: `kernel` (O, C*H*W), `bias`; batch_norm:
    `gamma`, `beta`, `mean`, `variance`; prelu: `slope` (C,). A bias may be missing."""
    stride: int = 1
    padding: int = 0
    groups: int = 1
    epsilon: float = 0.0


@dataclasses.dataclass(frozen=True)
class ForeignGraph:
    """A foreign network: image (B, 3, S, S) -> embedding (B, D)."""

    source: str
    ops: tuple[ForeignOp, ...]
    scaling: tuple[float, float] | None
    """`x * scale + offset` of pixels within the graph; `None`: it has none and expects scaled pixels."""
    input_size: int | None
    """Side of the image, where the file states it."""

    @property
    def embedding_size(self) -> int:
        """D, from the last dense operation."""
        last = next(op for op in reversed(self.ops) if op.kind == "dense")
        return len(last.arrays["kernel"])


@dataclasses.dataclass(frozen=True)
class Step:
    """A weighted (or adding) layer of a backbone."""

    layer: keras.Layer
    producers: tuple[keras.Layer | None, ...]
    """Weighted layers before it; `None` is the image."""
    padding: int
    flattened: tuple[int, int, int] | None
    """(H, W, C) of a feature map that is flattened before it."""


class GraphBuilder:
    """Operations of a foreign network, collected in calling order."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.ops: list[ForeignOp] = []
        self.scaling: tuple[float, float] | None = None

    def append(self, op: ForeignOp) -> int:
        """Add an operation; its index."""
        self.ops.append(op)
        return len(self.ops) - 1

    def rescale(self, *, factor: float = 1.0, offset: float = 0.0) -> None:
        """Scale the image further: `x * factor + offset`."""
        scale, before = self.scaling or (1.0, 0.0)
        self.scaling = scale * factor, before * factor + offset

    def finish(self, output: int | None, *, input_size: int | None = None) -> ForeignGraph:
        """The graph, whose output must be its last operation."""
        if not self.ops or output != len(self.ops) - 1:
            raise WeightsError(
                f"{self.source}: not a recognition network known here: the output is not the last operation"
            )
        return ForeignGraph(self.source, tuple(self.ops), self.scaling, input_size)


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
        reason = one_line(error)
        raise WeightsError(f"{graph.source}: damaged weights: {reason}") from error


def _build(graph: ForeignGraph, statement: Statement) -> keras.Model:
    name, arguments = identify(graph)
    _compare(graph.source, "architecture", statement.architecture or name, name)
    _compare(graph.source, "size", statement.input.size, arguments["input_size"])
    _compare(graph.source, "embedding size", statement.embedding_size or graph.embedding_size, graph.embedding_size)
    if graph.scaling is not None and statement.input.range != RAW:
        raise WeightsError(
            f"{graph.source}: the range '{statement.input.range}' is stated, but the graph itself scales pixels (by "
            f"{graph.scaling[0]:.7g}, offset {graph.scaling[1]:.7g}) and so wants '{RAW}'"
        )
    model = build_backbone(name, **arguments)
    assign_weights(model, graph)
    scaling = model.get_layer("pixel_scaling")
    scaling.scale, scaling.offset = graph.scaling or statement.input.scaling
    if statement.input.colour_order == "BGR":
        _swap_colours(model)
    return model


def _compare(source: str, what: str, stated: object, found: object) -> None:
    if stated != found:
        raise WeightsError(f"{source}: {what}: {stated} is stated, the file holds {found}")


def _swap_colours(model: keras.Model) -> None:
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    first.kernel.assign(np.asarray(first.kernel)[:, :, ::-1])


def identify(graph: ForeignGraph) -> tuple[str, dict[str, Any]]:
    """Name of the backbone and the arguments of its builder; `assign_weights` then compares every operation."""
    convolutions = [op for op in graph.ops if op.kind == "conv"]
    dense = [op for op in graph.ops if op.kind == "dense"]
    if len(convolutions) < 3 or len(dense) != 1:
        raise WeightsError(
            f"{graph.source}: expected a recognition network of convolutions and one dense layer, "
            f"received {len(convolutions)} convolutions and {len(dense)} dense layers"
        )
    if any(op.groups > 1 for op in convolutions):
        name, arguments = _mobile(convolutions)
    else:
        name, arguments = _residual(graph, convolutions)
    size = graph.input_size or _input_size(convolutions, dense[0])
    return name, {**arguments, "embedding_size": graph.embedding_size, "input_size": size}


def _filters(op: ForeignOp) -> int:
    return len(op.arrays["kernel"])


def _mobile(convolutions: list[ForeignOp]) -> tuple[str, dict[str, Any]]:
    stem, second = convolutions[:2]
    if second.groups == _filters(second) == _filters(stem):
        return "mobilefacenet_y1", {}
    # Every bottleneck has one depthwise convolution of 3x3; stride 2 opens a stage.
    blocks = [0]
    for op in convolutions[1:]:
        if op.stride == 2:
            blocks.append(0)
        elif op.groups > 1 and op.arrays["kernel"].shape[2] == 3:
            blocks[-1] += 1
    if len(blocks) != 4 or min(blocks) < 1:
        raise WeightsError(f"{stem.name}: not a MobileFaceNet: stages of {blocks} blocks")
    return "mobilefacenet", {"blocks": tuple(blocks), "scale": max(1, _filters(stem) // 64)}


def _residual(graph: ForeignGraph, convolutions: list[ForeignOp]) -> tuple[str, dict[str, Any]]:
    """Each stage of an IResNet opens with a block that has a 1x1 convolution in its shortcut."""
    stem = _filters(convolutions[0])
    following = convolutions[1:]
    places = [i for i, op in enumerate(following) if op.arrays["kernel"].shape[2:] == (1, 1)]
    if not places:
        raise WeightsError(f"{graph.source}: not an IResNet: no stage has a shortcut convolution")
    widths = tuple(_filters(following[place]) for place in places)
    # Two convolutions a block, and the shortcut's stands behind those of the block that opens.
    ends = [*places[1:], len(following) + 2]
    depths = tuple((end - place - 1) // 2 for place, end in zip(places, ends, strict=True))
    standard = {blocks: number for number, blocks in DEPTHS.items()}
    if stem == 64 and widths == (64, 128, 256, 512) and depths in standard:
        return f"iresnet{standard[depths]}", {}
    return "iresnet_slim", {"stem": stem, "widths": widths, "depths": depths}


def _input_size(convolutions: list[ForeignOp], dense: ForeignOp) -> int:
    """Side of the image, from the feature map that the dense layer takes."""
    reduction = math.prod(op.stride for op in convolutions if op.arrays["kernel"].shape[2] == 3)
    last = convolutions[-1]
    if last.groups > 1:
        return int(last.arrays["kernel"].shape[2] * reduction)
    side = math.isqrt(dense.arrays["kernel"].shape[1] // _filters(last))
    return side * reduction


def assign_weights(model: keras.Model, graph: ForeignGraph) -> None:
    """Set every weight of `model` from `graph`; the error names the first operation that differs."""
    _Assignment(model, graph).run()


class _Assignment:
    """One walk over both graphs, with the foreign operation that each layer of ours stands for."""

    def __init__(self, model: keras.Model, graph: ForeignGraph) -> None:
        self._model = model
        self._graph = graph
        self._position = 0
        self._stands_for: dict[str, int] = {}
        self._pending_bias: dict[str, NDArray[np.float32]] = {}

    def run(self) -> None:
        steps = weighted_steps(self._model)
        while steps:
            step = steps.pop(0)
            op = self._peek()
            if isinstance(step.layer, layers.BatchNormalization) and not self._is_next("batch_norm", step):
                self._fold(step)
                continue
            if op is None:
                raise self._differs(step, "the file's graph has ended")
            if isinstance(step.layer, layers.DepthwiseConv2D) and op.kind == "conv":
                parts = [step]
                for _ in range(op.arrays["kernel"].shape[1] - 1):
                    parts.append(steps.pop(0))
                self._set_depthwise(parts, steps.pop(0) if len(parts) > 1 else None, op)
            else:
                self._set(step, op)
            self._position += 1
        left = self._peek()
        if left is not None:
            raise WeightsError(
                f"{self._graph.source}: {self._model.name} ends before {left.kind} '{left.name}': "
                "the file holds another architecture"
            )
        if self._pending_bias:
            raise WeightsError(
                f"{self._graph.source}: {self._model.name} has no place for the bias of "
                f"{next(iter(self._pending_bias))}"
            )

    def _peek(self) -> ForeignOp | None:
        ops = self._graph.ops
        return ops[self._position] if self._position < len(ops) else None

    def _is_next(self, kind: str, step: Step) -> bool:
        op = self._peek()
        return op is not None and op.kind == kind and set(op.inputs) == self._producers(step)

    def _producers(self, step: Step) -> set[int]:
        return {IMAGE if p is None else self._stands_for[p.name] for p in step.producers}

    def _differs(self, step: Step, reason: str) -> WeightsError:
        return WeightsError(
            f"{self._graph.source}: does not fit {self._model.name}: layer '{step.layer.name}' "
            f"({type(step.layer).__name__}): {reason}"
        )

    def _set(self, step: Step, op: ForeignOp) -> None:
        layer = step.layer
        expected = _kind(layer)
        if op.kind != expected:
            raise self._differs(step, f"expected {expected}, the file has {op.kind} '{op.name}'")
        self._check_wiring(step, op)
        self._stands_for[layer.name] = self._position
        if op.kind == "conv":
            self._check_window(step, op)
            if op.groups != 1:
                raise self._differs(step, f"'{op.name}' has {op.groups} groups, expected 1")
            self._set_kernel(step, op, op.arrays["kernel"].transpose(2, 3, 1, 0))
        elif op.kind == "dense":
            self._set_kernel(step, op, _dense_kernel(step, op))
        elif op.kind == "prelu":
            slope = op.arrays["slope"].reshape(-1)
            shape = layer.alpha.shape
            if slope.size != shape[-1] and slope.size != 1:
                raise self._differs(step, f"expected {shape[-1]} slopes, '{op.name}' {slope.size}")
            layer.alpha.assign(np.broadcast_to(slope, shape))
        elif op.kind == "batch_norm":
            self._set_batch_norm(step, op)

    def _check_wiring(self, step: Step, op: ForeignOp) -> None:
        if set(op.inputs) != self._producers(step):
            raise self._differs(step, f"'{op.name}' takes its input from another operation")

    def _check_window(self, step: Step, op: ForeignOp) -> None:
        layer = step.layer
        ours = (tuple(layer.kernel_size), layer.strides[0], step.padding)
        theirs = (op.arrays["kernel"].shape[2:], op.stride, op.padding)
        if ours != theirs:
            raise self._differs(step, f"expected (window, stride, padding) {ours}, '{op.name}' has {theirs}")

    def _set_kernel(self, step: Step, op: ForeignOp, kernel: NDArray[np.float32]) -> None:
        layer = step.layer
        if tuple(layer.kernel.shape) != kernel.shape:
            raise self._differs(step, f"expected a kernel {tuple(layer.kernel.shape)}, '{op.name}' has {kernel.shape}")
        layer.kernel.assign(kernel)
        bias = op.arrays.get("bias")
        if layer.use_bias:
            layer.bias.assign(np.zeros(layer.bias.shape) if bias is None else bias)
        elif bias is not None:
            self._pending_bias[layer.name] = bias

    def _set_depthwise(self, parts: list[Step], total: Step | None, op: ForeignOp) -> None:
        """A convolution of groups as a sum of depthwise ones: part i has each group's i-th channel's kernels."""
        kernel = op.arrays["kernel"]
        for index, part in enumerate(parts):
            if not isinstance(part.layer, layers.DepthwiseConv2D):
                raise self._differs(part, f"'{op.name}' has {kernel.shape[1]} channels a group")
            self._check_wiring(part, op)
            self._check_window(part, op)
            multiplier = len(kernel) // op.groups
            grouped = kernel[:, index].reshape(op.groups, multiplier, *kernel.shape[2:])
            part_op = dataclasses.replace(op, arrays={"kernel": kernel})
            self._set_kernel(part, part_op, grouped.transpose(2, 3, 0, 1))
            self._stands_for[part.layer.name] = self._position
        last = (total or parts[0]).layer
        self._stands_for[last.name] = self._position
        if "bias" in op.arrays:
            self._pending_bias[last.name] = op.arrays["bias"]

    def _set_batch_norm(self, step: Step, op: ForeignOp) -> None:
        layer = step.layer
        size = layer.moving_mean.shape[0]
        for name, array in op.arrays.items():
            if array.shape != (size,):
                raise self._differs(step, f"expected {size} {name}, '{op.name}' {array.shape}")
        bias = self._take_bias(step)
        gamma, mean = op.arrays["gamma"], op.arrays["mean"]
        variance = op.arrays["variance"] + op.epsilon
        layer.beta.assign(op.arrays["beta"])
        layer.moving_mean.assign(mean if bias is None else mean - bias)
        if layer.scale:
            layer.gamma.assign(gamma)
        elif (gamma <= 0).any():
            raise self._differs(step, f"'{op.name}' has a scale that is not positive")
        else:
            variance = variance / gamma**2
        layer.moving_variance.assign(variance - layer.epsilon)

    def _fold(self, step: Step) -> None:
        """Set a batch norm that the exporter has folded into the layer before it."""
        before = step.producers[0]
        if before is None or not isinstance(before, (*CONVOLUTIONS, layers.Dense, layers.Add)):
            op = self._peek()
            found = "nothing" if op is None else f"{op.kind} '{op.name}'"
            raise self._differs(step, f"expected batch_norm, the file has {found}")
        bias = self._take_bias(step)
        if bias is None and not getattr(before, "use_bias", False):
            raise self._differs(step, f"no batch norm in the file, and no bias at '{before.name}'")
        layer = step.layer
        layer.beta.assign(np.zeros(layer.beta.shape) if bias is None else bias)
        layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
        layer.moving_variance.assign(np.full(layer.moving_mean.shape, 1 - layer.epsilon))
        if layer.scale:
            layer.gamma.assign(np.ones(layer.gamma.shape))
        self._stands_for[layer.name] = self._stands_for[before.name]

    def _take_bias(self, step: Step) -> NDArray[np.float32] | None:
        before = step.producers[0]
        return None if before is None else self._pending_bias.pop(before.name, None)


def _kind(layer: keras.Layer) -> str:
    if isinstance(layer, CONVOLUTIONS):
        return "conv"
    if isinstance(layer, layers.Dense):
        return "dense"
    if isinstance(layer, layers.PReLU):
        return "prelu"
    if isinstance(layer, layers.BatchNormalization):
        return "batch_norm"
    if isinstance(layer, layers.Add):
        return "add"
    raise WeightsError(f"no foreign counterpart is known for a {type(layer).__name__} layer")


def _dense_kernel(step: Step, op: ForeignOp) -> NDArray[np.float32]:
    """(O, C*H*W) -> (H*W*C, O): the foreign flatten runs over channels first, ours last."""
    kernel = op.arrays["kernel"]
    if step.flattened is None:
        return kernel.T
    height, width, channels = step.flattened
    if kernel.shape[1] != height * width * channels:
        return kernel.T  # the caller reports the shapes
    ordered = kernel.reshape(-1, channels, height, width).transpose(2, 3, 1, 0)
    return ordered.reshape(height * width * channels, -1)


def weighted_steps(model: keras.Model) -> list[Step]:
    """Weighted layers of a backbone in calling order: a walk from the output, first inputs first.

    `model.layers` and `graphlib.TopologicalSorter` mix a block's main path with its shortcut.
    """
    steps: list[Step] = []
    done: set[str] = set()
    pending: list[tuple[keras.KerasTensor, bool]] = [(model.outputs[0], False)]
    while pending:
        tensor, visited = pending.pop()
        layer = _layer_of(tensor)
        if layer.name in done:
            continue
        inputs = _inputs_of(layer)
        if not visited:
            pending.append((tensor, True))
            pending.extend((below, False) for below in reversed(inputs))
            continue
        done.add(layer.name)
        if not _is_transparent(layer):
            steps.append(_step(layer, inputs))
    return steps


def _is_transparent(operation: keras.Operation) -> bool:
    """Whether it holds no weights and has no counterpart: also slices, which are no layers."""
    return isinstance(operation, _TRANSPARENT) or not isinstance(operation, keras.Layer)


def _layer_of(tensor: keras.KerasTensor) -> keras.Layer:
    return tensor._keras_history.operation


def _inputs_of(layer: keras.Layer) -> list[keras.KerasTensor]:
    return [] if isinstance(layer, layers.InputLayer) else keras.tree.flatten(layer.input)


def _step(layer: keras.Layer, inputs: list[keras.KerasTensor]) -> Step:
    padding = 0
    if isinstance(layer, CONVOLUTIONS) and layer.padding == "same":
        padding = (layer.kernel_size[0] - 1) // 2
    flattened = None
    producers = []
    for tensor in inputs:
        below = _layer_of(tensor)
        while _is_transparent(below):
            if isinstance(below, layers.ZeroPadding2D):
                padding += below.padding[0][0]
            if isinstance(below, layers.Flatten) and len(below.input.shape) == 4:
                flattened = tuple(below.input.shape[1:])
            if isinstance(below, layers.InputLayer):
                break
            below = _layer_of(keras.tree.flatten(below.input)[0])
        producers.append(None if isinstance(below, layers.InputLayer) else below)
    return Step(layer, tuple(producers), padding, flattened)
