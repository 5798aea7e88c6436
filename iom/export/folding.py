"""Batch norms folded into the convolutions and dense layers around them, for inference."""

from typing import Any

import keras
import numpy as np
from keras import layers

from iom.nn.layers import graph_nodes

_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)
_WEIGHTED = (*_CONVOLUTIONS, layers.Dense)
MAX_MOVE = 8.0
"""Standard deviations that a sum is moved by, at most: half precision would lose by more."""


def fold_batch_norms(model: keras.Model) -> keras.Model:
    """The same functional model with fewer layers and no dropout; embeddings differ by rounding only.

    A batch norm behind a convolution or a dense layer that nothing else reads goes into its kernel and bias. A batch
    norm in front of one goes into it where no zero padding stands between, as padding is not normalised (also through
    `Flatten`), and in front of a padded one where the sum of a residual block can be moved by shift / scale beforehand
    (`_wanted_move`). The others stay.
    """
    return _Folding(model).run()


class _Folding:
    """One walk over a functional model, which builds the folded one; tensors of the old model are known by their id."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._readers = graph_readers(model)
        self._image = keras.Input(model.inputs[0].shape[1:], name=model.inputs[0].name)
        self._known: dict[int, Any] = {id(model.inputs[0]): self._image}
        self._ahead: dict[int, tuple[Any, Any]] = {}  # tensors that still miss a scale and a shift
        self._open_layers: dict[int, keras.Layer] = {}  # new layers whose result has one reader
        ends = _ends_in_layer(model, self._readers)
        additions = [node for node in graph_nodes(model) if isinstance(node.operation, layers.Add)]
        movable = [node for node in additions if any(id(tensor) in ends for tensor in node.input_tensors)]
        self._sums = {id(node.output_tensors[0]) for node in movable}

    def run(self) -> keras.Model:
        for node in graph_nodes(self._model):
            self._visit(node)
        return keras.Model(self._image, self._known[id(self._model.outputs[0])], name=self._model.name)

    def _visit(self, node: Any) -> None:
        operation, source, result = node.operation, id(node.input_tensors[0]), id(node.output_tensors[0])
        left_out = isinstance(operation, layers.Dropout)
        if isinstance(operation, layers.BatchNormalization):
            left_out = self._fold(operation, source, node.output_tensors[0])
        if left_out:
            self._known[result] = self._known[source]
        if isinstance(operation, layers.Dropout | layers.ZeroPadding2D) and source in self._ahead:
            self._ahead[result] = self._ahead[source]
        if isinstance(operation, layers.Flatten) and source in self._ahead:
            places = int(np.prod(node.input_tensors[0].shape[1:-1]))
            scale, shift = self._ahead[source]
            self._ahead[result] = np.tile(scale, places), np.tile(shift, places)
        if isinstance(operation, layers.Add):
            self._move_sum(node)
        if type(operation) in _WEIGHTED and _is_linear(operation):
            self._copy(operation, source, result)
        elif not left_out:
            self._known[result] = _call_again(node, self._known)

    def _fold(self, norm: keras.Layer, source: int, result: Any) -> bool:
        """Whether a batch norm goes into the layer before it or those behind it."""
        if source in self._open_layers:
            _scale_outputs(self._open_layers[source], *_affine(norm))
            if len(self._readers[id(result)]) == 1:
                self._open_layers[id(result)] = self._open_layers[source]
        elif source in self._ahead:  # a moved sum
            scale, shift = _affine(norm)
            self._ahead[id(result)] = scale, np.zeros_like(shift)
        elif _can_wait(result, self._readers):
            self._ahead[id(result)] = _affine(norm)
        else:
            return False
        return True

    def _move_sum(self, node: Any) -> None:
        """Move a sum for the batch norm behind it, in the bias of a layer that ends in the sum."""
        result, inputs = node.output_tensors[0], [id(tensor) for tensor in node.input_tensors]
        wanted = _wanted_move(result, self._readers, self._sums) if id(result) in self._sums else None
        carried = sum(-self._ahead[tensor][1] for tensor in inputs if tensor in self._ahead)
        if wanted is not None or np.any(carried):
            last = next(self._open_layers[tensor] for tensor in inputs if tensor in self._open_layers)
            _scale_outputs(last, np.ones(last.bias.shape), (0.0 if wanted is None else wanted) - carried)
        if wanted is not None:
            self._ahead[id(result)] = np.ones_like(wanted), -wanted

    def _copy(self, operation: keras.Layer, source: int, result: int) -> None:
        """Copy a weighted layer, with the scale and shift before it folded into its weights."""
        layer = type(operation).from_config({**operation.get_config(), "use_bias": True})
        self._known[result] = layer(self._known[source])
        kernel, *bias = operation.get_weights()
        layer.set_weights([kernel, bias[0] if bias else np.zeros(layer.bias.shape, np.float32)])
        if source in self._ahead:
            _scale_inputs(layer, *self._ahead[source])
        if len(self._readers[result]) == 1:
            self._open_layers[result] = layer


def graph_readers(model: keras.Model) -> dict[int, list[Any]]:
    """By tensor, the operations that read it, each with its result."""
    readers: dict[int, list[Any]] = {id(tensor): [(None, None)] for tensor in model.outputs}
    for node in graph_nodes(model):
        for tensor in node.input_tensors:
            entry = (node.operation, node.output_tensors[0])
            readers.setdefault(id(tensor), []).append(entry)
    return readers


def _call_again(node: Any, known: dict[int, Any]) -> Any:
    """The same call in the new graph; a layer is copied, so that the old model stays as it is."""
    operation = node.operation
    arguments, named = node.arguments.fill_in(known)
    if not isinstance(operation, layers.Layer):
        return operation(*arguments, **named)
    copy = type(operation).from_config(operation.get_config())
    result = copy(*arguments, **named)
    copy.set_weights(operation.get_weights())
    return result


def _is_linear(layer: Any) -> bool:
    return layer.activation is keras.activations.linear and getattr(layer, "groups", 1) == 1


def _affine(norm: keras.Layer) -> tuple[Any, Any]:
    """A batch norm as x * scale + shift, `(C,)` each, in double precision."""
    mean, variance = (np.asarray(w, np.float64) for w in (norm.moving_mean, norm.moving_variance))
    scale = 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma, np.float64)
    shift = -mean * scale
    return scale, shift + np.asarray(norm.beta, np.float64) if norm.center else shift


def _can_wait(result: Any, readers: dict[int, list[Any]]) -> bool:
    """Whether all that reads a tensor can take a scale and a shift into its weights."""
    found = readers.get(id(result), [])
    return bool(found) and all(_can_take(by, made, readers) for by, made in found)


def _can_take(operation: Any, result: Any, readers: dict[int, list[Any]]) -> bool:
    if isinstance(operation, layers.Dropout | layers.Flatten):
        return _can_wait(result, readers)
    if type(operation) not in _WEIGHTED or not _is_linear(operation):
        return False
    return isinstance(operation, layers.Dense) or operation.padding == "valid"


def _ends_in_layer(model: keras.Model, readers: dict[int, list[Any]]) -> set[int]:
    """Tensors that a weighted layer makes, batch norm included, for one reader."""
    found: set[int] = set()
    for node in graph_nodes(model):
        source, result = node.input_tensors[0], node.output_tensors[0]
        made = _is_convolution(node.operation) or (
            isinstance(node.operation, layers.BatchNormalization) and id(source) in found
        )
        if made and len(readers[id(result)]) == 1:
            found.add(id(result))
    return found


def _wanted_move(result: Any, readers: dict[int, list[Any]], sums: set[int]) -> Any:
    """How far a sum is moved for the one batch norm that reads it; `None` if it cannot be."""
    # With BN(x) = s x + t, the batch norm of x + t / s is a product with s, which a kernel can take in, and zero
    # padding of it is that of BN(x). A convolution without padding that also reads the sum, and the next sum, take it
    # back.
    found = readers[id(result)]
    norms = [by for by, _ in found if isinstance(by, layers.BatchNormalization)]
    if len(norms) != 1 or not all(_bears(by, made, readers, sums) for by, made in found):
        return None
    scale, shift = _affine(norms[0])
    spread = np.sqrt(np.asarray(norms[0].moving_variance, np.float64))
    if not np.all(np.abs(shift) <= MAX_MOVE * np.abs(scale) * spread):
        return None
    return shift / np.where(scale == 0, 1, scale)


def _bears(operation: Any, result: Any, readers: dict[int, list[Any]], sums: set[int]) -> bool:
    """Whether a reader of a sum stays right when the sum is moved."""
    if isinstance(operation, layers.Add):
        return id(result) in sums
    if not isinstance(operation, layers.BatchNormalization):
        return _is_convolution(operation) and tuple(operation.kernel_size) == (1, 1)
    found = readers[id(result)]
    while len(found) == 1 and isinstance(found[0][0], layers.ZeroPadding2D):
        found = readers[id(found[0][1])]
    return len(found) == 1 and _is_convolution(found[0][0])


def _is_convolution(operation: Any) -> bool:
    return type(operation) in _CONVOLUTIONS and _is_linear(operation)


def _scale_outputs(layer: Any, scale: Any, shift: Any) -> None:
    kernel, bias = (np.asarray(w, np.float64) for w in layer.get_weights())
    kernel = kernel * scale.reshape(kernel.shape[2:]) if isinstance(layer, layers.DepthwiseConv2D) else kernel * scale
    layer.set_weights([kernel.astype(np.float32), (bias * scale + shift).astype(np.float32)])


def _scale_inputs(layer: Any, scale: Any, shift: Any) -> None:
    kernel, bias = (np.asarray(w, np.float64) for w in layer.get_weights())
    if isinstance(layer, layers.DepthwiseConv2D):
        bias = bias + (kernel.sum((0, 1)) * shift[:, None]).ravel()
    else:
        bias = bias + (kernel * shift[:, None]).reshape(-1, kernel.shape[-1]).sum(0)
    layer.set_weights([(kernel * scale[:, None]).astype(np.float32), bias.astype(np.float32)])
