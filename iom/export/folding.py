"""Batch norms folded into the convolutions and dense layers around them, for inference."""

from typing import Any

import keras
import numpy as np
from keras import layers

_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)
_WEIGHTED = (*_CONVOLUTIONS, layers.Dense)
FARTHEST = 8.0
"""Standard deviations that a sum is moved by, at most: half precision would lose by more."""


def fold_batch_norms(model: keras.Model) -> keras.Model:
    """The same function with fewer layers.

    A batch norm behind a convolution or a dense layer that nothing else reads goes into its kernel and bias. A batch
    norm in front of one goes into it where no zero padding stands between, as padding is not normalised: in front of
    the dense layer of a head, for instance, also through `Flatten`. In front of a padded one it does where the sum of a
    residual block can be moved by shift / scale beforehand (`_wanted_move`). The others stay. Dropout is left out.

    Args:
        model: Functional, of one input and one output, such as a backbone; it is not changed.

    Returns:
        A functional model; embeddings differ by rounding only.
    """
    image = keras.Input(model.inputs[0].shape[1:], name=model.inputs[0].name)
    known: dict[int, Any] = {id(model.inputs[0]): image}
    readers = _readers(model)
    ahead: dict[int, tuple[Any, Any]] = {}  # tensors that still miss a scale and a shift
    open_layers: dict[int, keras.Layer] = {}  # new layers whose result has one reader
    moves: dict[int, Any] = {}  # by how much a sum is more than it was
    ends = _ends_in_layer(model, readers)
    sums = {id(node.output_tensors[0]) for node in graph_nodes(model)
            if isinstance(node.operation, layers.Add)
            and any(id(tensor) in ends for tensor in node.input_tensors)}  # fmt: skip
    for node in graph_nodes(model):
        operation, source, result = node.operation, node.input_tensors[0], node.output_tensors[0]
        if isinstance(operation, layers.Dropout):
            known[id(result)] = known[id(source)]
            if id(source) in ahead:
                ahead[id(result)] = ahead[id(source)]
            continue
        if isinstance(operation, layers.BatchNormalization):
            known[id(result)] = known[id(source)]
            if id(source) in open_layers:
                _scale_outputs(open_layers[id(source)], *_affine(operation))
                if len(readers[id(result)]) == 1:
                    open_layers[id(result)] = open_layers[id(source)]
                continue
            if id(source) in moves:
                scale, shift = _affine(operation)
                ahead[id(result)] = scale, np.zeros_like(shift)
                continue
            if _can_wait(result, readers):
                ahead[id(result)] = _affine(operation)
                continue
        if isinstance(operation, layers.ZeroPadding2D) and id(source) in ahead:
            ahead[id(result)] = ahead[id(source)]
        if isinstance(operation, layers.Add):
            inputs = [id(tensor) for tensor in node.input_tensors]
            wanted = _wanted_move(result, readers, sums) if id(result) in sums else None
            carried = sum(moves[tensor] for tensor in inputs if tensor in moves)
            if wanted is not None or np.any(carried):
                last = next(open_layers[tensor] for tensor in inputs if tensor in open_layers)
                more = (0.0 if wanted is None else wanted) - carried
                _scale_outputs(last, np.ones(last.bias.shape), more)
            if wanted is not None:
                moves[id(result)] = wanted
        if isinstance(operation, layers.Flatten) and id(source) in ahead:
            places = int(np.prod(source.shape[1:-1]))
            scale, shift = ahead[id(source)]
            ahead[id(result)] = np.tile(scale, places), np.tile(shift, places)
        if type(operation) not in _WEIGHTED or not _is_linear(operation):
            known[id(result)] = _call_again(node, known)
            continue
        layer = _with_bias(operation)
        known[id(result)] = layer(known[id(source)])
        _copy_weights(operation, layer)
        if id(source) in ahead:
            _scale_inputs(layer, *ahead[id(source)])
        if id(source) in moves:
            _scale_inputs(layer, np.ones_like(moves[id(source)]), -moves[id(source)])
        if len(readers[id(result)]) == 1:
            open_layers[id(result)] = layer
    return keras.Model(image, known[id(model.outputs[0])], name=model.name)


def graph_nodes(model: keras.Model) -> list[Any]:
    """The calls of a functional model in an order in which they can be made, without its inputs."""
    depths = sorted(model._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in model._nodes_by_depth[depth]]
    return [node for node in nodes if not node.is_input]


def _readers(model: keras.Model) -> dict[int, list[Any]]:
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
    """How far a sum is moved for the one batch norm that reads it; `None` if it cannot be.

    With BN(x) = s x + t, of x + t / s the batch norm is a product with s, which a kernel can take in, and zero padding
    of it is the zero padding of BN(x). A convolution without padding that reads the sum, too, takes the move back in
    its bias, and so does what the next sum adds.
    """
    found = readers[id(result)]
    norms = [by for by, _ in found if isinstance(by, layers.BatchNormalization)]
    if len(norms) != 1 or not all(_bears(by, made, readers, sums) for by, made in found):
        return None
    scale, shift = _affine(norms[0])
    if not np.all(np.abs(shift) <= FARTHEST * np.abs(scale) * _spread(norms[0])):
        return None
    return shift / np.where(scale == 0, 1, scale)


def _spread(norm: keras.Layer) -> Any:
    return np.sqrt(np.asarray(norm.moving_variance, np.float64))


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


def _with_bias(layer: Any) -> Any:
    return type(layer).from_config({**layer.get_config(), "use_bias": True})


def _copy_weights(old: Any, new: Any) -> None:
    kernel, *bias = old.get_weights()
    new.set_weights([kernel, bias[0] if bias else np.zeros(new.bias.shape, np.float32)])


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
