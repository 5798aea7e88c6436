"""Adapter before the key: learned hidden layers, and a bottleneck that sets the size the key works on."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.nn.layers.cosine import UnitLength

BOTTLENECK = "bottleneck"
FIRST_PART = 0.01
"""Approximate length that a hidden layer adds to a row at the start."""
FIRST_SLOPE = 0.25


def add_hidden_layer(rows: Any, number: int, *, units: int) -> Any:
    """Residual layer x + W PReLU(V x + b) of rows `(B, D)` of unit length, brought to unit length again.

    Training starts next to the identity, so that the embedding is kept. There is no batch norm: the code of a face must
    not depend on the faces it is trained along with. `number` is part of the layers' names, `units` are the rows of V.
    """
    name = f"hidden_{number}"
    size = rows.shape[-1]
    inner = keras.layers.Dense(units, name=f"{name}_in")(rows)
    slopes = keras.initializers.Constant(FIRST_SLOPE)
    inner = keras.layers.PReLU(alpha_initializer=slopes, name=f"{name}_slope")(inner)
    added = keras.layers.Dense(size, use_bias=False, name=f"{name}_out")(inner)
    rows = keras.layers.Add(name=f"{name}_sum")([rows, added])
    return UnitLength(name=f"unit_{name}")(rows)


def add_bottleneck(rows: Any, size: int) -> Any:
    """Linear map to `size` dimensions, without a bias, and unit length again."""
    rows = keras.layers.Dense(size, use_bias=False, name=BOTTLENECK)(rows)
    return UnitLength(name="unit_bottleneck")(rows)


def set_starting_weights(model: keras.Model, *, seed: int) -> None:
    """Draw the weights of these layers with NumPy, the same on every machine."""
    for layer in model.layers:
        if layer.name == BOTTLENECK:
            layer.set_weights([orthonormal_map(*layer.kernel.shape, seed=seed)])
        elif layer.name.startswith("hidden_") and layer.name.endswith(("_in", "_out")):
            shape = tuple(layer.kernel.shape)
            length = FIRST_PART if layer.name.endswith("_out") else 1.0
            stream = numpy_stream(seed, f"hashing/{layer.name}")
            values = (stream.standard_normal(shape) * length / np.sqrt(shape[1])).astype(np.float32)
            layer.set_weights([values, *layer.get_weights()[1:]])


def orthonormal_map(size: int, new_size: int, *, seed: int) -> NDArray[np.float32]:
    """Random matrix `(size, new_size)` with orthonormal columns, or orthonormal rows if it is wider than high."""
    stream = numpy_stream(seed, "hashing/bottleneck")
    shape = (max(size, new_size), min(size, new_size))
    columns, triangle = np.linalg.qr(stream.standard_normal(shape))
    columns = columns * np.sign(np.diag(triangle))
    return np.asarray(columns if new_size <= size else columns.T, np.float32)
