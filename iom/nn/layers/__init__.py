"""Layers between the embedding and the code, and heads of training: what they share, unit length, a walk of a graph."""

import inspect
from typing import Any

import keras
from keras import ops

from iom.nn.hash_numpy import FLOOR


class SavedArguments:
    """Part of a Keras object whose `get_config` adds its constructor's arguments, each an attribute of that name."""

    def get_config(self) -> dict[str, Any]:
        parameters = inspect.signature(type(self)).parameters.values()
        names = [each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        return {**config, **{name: getattr(self, name) for name in names}}


def lengths(rows):
    """Euclidean length of each row, not below the root of `FLOOR`."""
    return ops.sqrt(ops.maximum(ops.sum(ops.square(rows), axis=-1, keepdims=True), FLOOR))


def unit_length(rows, axis=-1):
    """Rows, or columns, scaled to Euclidean length one; zeros stay zero."""
    square = ops.sum(ops.square(rows), axis=axis, keepdims=True)
    return rows * ops.rsqrt(ops.maximum(square, FLOOR))


@keras.saving.register_keras_serializable(package="iom")
class Float32Layer(SavedArguments, keras.layers.Layer):
    """A layer that computes in float32 whatever precision the model has."""

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})


@keras.saving.register_keras_serializable(package="iom")
class UnitLength(Float32Layer):
    """Scale each row to Euclidean length one; a zero row stays zero."""

    def call(self, inputs):
        """`(B, D)` -> `(B, D)` of unit length."""
        return unit_length(inputs)


def graph_nodes(model: keras.Model) -> list[Any]:
    """The calls of a functional model in an order in which they can be made, without its inputs."""
    depths = sorted(model._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in model._nodes_by_depth[depth]]
    return [node for node in nodes if not node.is_input]
