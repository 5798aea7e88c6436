"""The weighted layers of a Keras graph in calling order, with what they take their input from."""

import dataclasses

import keras
from keras import layers

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


@dataclasses.dataclass(frozen=True)
class Step:
    """A weighted (or adding) layer of our graph."""

    layer: keras.Layer
    producers: tuple[keras.Layer | None, ...]
    """The weighted layers before it; `None` is the image."""
    padding: int
    flattened: tuple[int, int, int] | None
    """(H, W, C) of a feature map that is flattened in front of it."""


def weighted_steps(model: keras.Model) -> list[Step]:
    """Our layers in calling order: a walk from the output, first inputs first.

    `model.layers` is sorted by depth, which mixes a block's main path with its shortcut.
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
