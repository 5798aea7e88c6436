"""Put the weights of a foreign graph into a Keras graph of ours, or say where the two differ.

Both are walked in calling order. Every operation must have its counterpart with the same
producers, stride and padding, and every array must fit and be used; so a graph of another
architecture is an error. Exporters fold batch norms into the convolution or dense layer before
them: there ours becomes the identity, with the folded bias as its beta.
"""

import dataclasses

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from iom.errors import WeightsError
from iom.pretrained.importers.graph import IMAGE, ForeignGraph, ForeignOp
from iom.pretrained.importers.toposort import CONVOLUTIONS, Step, weighted_steps


def assign_weights(model: keras.Model, graph: ForeignGraph) -> None:
    """Set every weight of `model` from `graph`.

    Raises:
        WeightsError: The graphs differ; the message names the first operation that does.
    """
    _Assignment(model, graph).run()


class _Assignment:
    """One walk; keeps what of the foreign graph each of our layers stands for."""

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
        """A convolution of `groups` groups of n channels as n depthwise ones and their sum.

        Part i holds the kernels of the i-th channel of each group.
        """
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
        """The exporter has folded this batch norm into the layer before it."""
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
