"""Inverted residual blocks (Sandler et al., CVPR 2018), of EfficientNet-Lite and MnasNet."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras import layers

from iom.nn.backbones.squeeze import squeeze_excite

EPSILON = 1e-3
MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Stage:
    """Blocks of one width.

    Attributes:
        repeats: Blocks; the stride is that of the first one.
        kernel: Side of the depthwise kernel.
        stride: Of the first block.
        expansion: Channels between the 1x1 convolutions, over those that come in. 1: no expansion.
        filters: Channels that go out.
        squeeze: Inner units of squeeze and excitation, over the channels that come in. 0: none.
    """

    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int
    squeeze: float = 0.0


def round_width(filters: float, divisor: int = 8) -> int:
    """Nearest multiple of `divisor` that loses at most a tenth."""
    rounded = max(divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * filters else rounded


def convolution(x: Any, name: str, *, filters: int = 0, kernel: int = 1, stride: int = 1, activation: str = "") -> Any:
    """Convolution - BN (- activation), padded as TensorFlow does. Without `filters` depthwise."""
    settings = {"strides": stride, "padding": "same", "use_bias": False, "name": f"{name}_conv"}
    if filters:
        x = layers.Conv2D(filters, kernel, kernel_initializer="he_normal", **settings)(x)
    else:
        x = layers.DepthwiseConv2D(kernel, depthwise_initializer="he_normal", **settings)(x)
    x = layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=f"{name}_bn")(x)
    return layers.Activation(activation, name=f"{name}_{activation}")(x) if activation else x


def inverted_residuals(x: Any, stages: Sequence[Stage], *, activation: str) -> Any:
    """All blocks of a network; a block adds its input where the shapes allow it."""
    for number, stage in enumerate(stages, start=1):
        for unit in range(stage.repeats):
            stride = stage.stride if unit == 0 else 1
            x = _block(x, f"stage{number}_{unit}", stage, stride=stride, activation=activation)
    return x


def _block(x: Any, name: str, stage: Stage, *, stride: int, activation: str) -> Any:
    channels = x.shape[-1]
    y = x
    if stage.expansion != 1:
        filters = channels * stage.expansion
        y = convolution(y, f"{name}_expand", filters=filters, activation=activation)
    y = convolution(y, f"{name}_depthwise", kernel=stage.kernel, stride=stride, activation=activation)
    if stage.squeeze:
        y = squeeze_excite(y, f"{name}_se", reduced=max(1, int(channels * stage.squeeze)))
    y = convolution(y, f"{name}_project", filters=stage.filters)
    if stride == 1 and channels == stage.filters:
        y = layers.Add(name=f"{name}_add")([x, y])
    return y
