"""Parameters and multiply-adds of a network, counted from its layers."""

import dataclasses
import math
from typing import Any

import keras
from keras import layers

LANES = 16


@dataclasses.dataclass(frozen=True)
class Complexity:
    """Cost of a network for one image; `parameters` include running statistics.

    `narrow`: the width of a convolution is no multiple of 16; TensorFlow 2.21 may corrupt the heap when it is trained
    on a CPU with AVX-512, unless `TF_ENABLE_ONEDNN_OPTS=0` is set.
    """

    parameters: int
    trainable_parameters: int
    multiply_adds: int
    narrow: bool


def measure(model: keras.Model) -> Complexity:
    """Count multiply-adds of convolutions and dense layers, as papers do; nothing is computed.

    A multiplication with its addition is one ("FLOPs" of others are twice that); other layers are left out.
    """
    convolutions = [layer for layer in _flat(model) if isinstance(layer, layers.Conv2D)]
    return Complexity(
        parameters=sum(math.prod(weight.shape) for weight in model.weights),
        trainable_parameters=sum(math.prod(weight.shape) for weight in model.trainable_weights),
        multiply_adds=sum(multiply_adds(layer) for layer in _flat(model)),
        narrow=any(layer.filters % LANES for layer in convolutions),
    )


def multiply_adds(layer: Any) -> int:
    """Multiply-adds of one layer for one image; 0 for kinds that are not counted."""
    if isinstance(layer, layers.Dense):
        rows = math.prod(layer.output.shape[1:-1])
        return rows * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.SeparableConv2D):
        kernels = (layer.depthwise_kernel, layer.pointwise_kernel)
        return _places(layer) * sum(math.prod(kernel.shape) for kernel in kernels)
    # A kernel (k, k, channels of a group, results): each number is used once at each place.
    if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
        return _places(layer) * math.prod(layer.kernel.shape)
    return 0


def _places(layer: Any) -> int:
    return math.prod(layer.output.shape[1:3])


def _flat(model: keras.Model) -> list[Any]:
    flat: list[Any] = []
    for layer in model.layers:
        flat += _flat(layer) if isinstance(layer, keras.Model) else [layer]
    return flat
