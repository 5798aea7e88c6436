"""Parameters and multiply-adds of a network, counted from its layers."""

import dataclasses
import math
from typing import Any

import keras
from keras import layers

LANES = 16
COUNTED = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)


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
    flat = model._flatten_layers(include_self=False)
    return Complexity(
        parameters=model.count_params(),
        trainable_parameters=sum(math.prod(weight.shape) for weight in model.trainable_weights),
        multiply_adds=sum(multiply_adds(layer) for layer in flat),
        narrow=any(isinstance(layer, layers.Conv2D) and layer.filters % LANES for layer in flat),
    )


def multiply_adds(layer: Any) -> int:
    """Multiply-adds of one layer for one image: each number of a kernel is used once at each place."""
    if not isinstance(layer, COUNTED):
        return 0
    kernels = [weight.shape for weight in layer.weights if weight.name.endswith("kernel")]
    return math.prod(layer.output.shape[1:-1]) * sum(math.prod(shape) for shape in kernels)
