"""IResNet, the ResNet of ArcFace (Deng et al., CVPR 2019; InsightFace's `arcface_torch` layout).

A block is BN - conv3x3 - BN - PReLU - conv3x3 (stride here) - BN, and nothing after the sum. The head is BN - dropout -
flatten - FC - BN. Layer names follow the original, so that weights can be matched by name as well as by order.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from iom.errors import ConfigError
from iom.nn.backbones.blocks import MOMENTUM, HeadStyle, prelu, squeeze_excite

EPSILON = 1e-5
LANES = 16
REDUCTION = 16
"""Reduction of squeeze and excitation: channels over inner units."""
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
"""Layers of the standard networks to the blocks of their stages."""
HEAD = HeadStyle(names={"bn": "bn2", "dropout": "dropout", "flatten": "flatten"})


def iresnet(x: Any, *, depth: int, squeeze_excitation: bool = False) -> Any:
    """Feature map of a standard IResNet of scaled pixels; `depth` is a key of `DEPTHS`.

    `squeeze_excitation` weighs the channels behind the last batch norm of each block (SE-IR: reduction 16, no biases).
    """
    return _stages(x, 64, (64, 128, 256, 512), DEPTHS[depth], squeezes=squeeze_excitation)


def iresnet_slim(
    x: Any,
    *,
    stem: int = 16,
    widths: Sequence[int] = (16, 32, 64, 64),
    depths: Sequence[int] = (1, 2, 4, 2),
    squeeze_excitation: bool = False,
) -> Any:
    """Feature map of an IResNet for small machines; each stage halves the image side.

    Widths must be multiples of 16: TensorFlow 2.21's oneDNN corrupts the heap on AVX-512 machines when a convolution of
    another width is trained; a multiple of the vector lanes is also fast.
    """
    if len(widths) != len(depths) or not widths:
        raise ConfigError(f"iresnet_slim: expected as many widths as depths, received {widths} and {depths}")
    uneven = [width for width in (stem, *widths) if width < LANES or width % LANES]
    if uneven:
        raise ConfigError(f"iresnet_slim: expected widths in multiples of {LANES}, received {uneven}")
    return _stages(x, stem, widths, depths, squeezes=squeeze_excitation)


def _stages(x: Any, stem: int, widths: Sequence[int], depths: Sequence[int], *, squeezes: bool) -> Any:
    x = _conv3x3(x, stem, 1, "conv1")
    x = _batch_norm("bn1")(x)
    x = prelu("prelu")(x)
    for stage, (filters, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for unit in range(depth):
            stride = 2 if unit == 0 else 1
            x = _block(x, filters, stride, f"layer{stage}_{unit}", squeezes=squeezes)
    return x


def _batch_norm(name: str) -> layers.Layer:
    return layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=name)


def _conv3x3(x: keras.KerasTensor, filters: int, stride: int, name: str) -> keras.KerasTensor:
    """Keras' 'same' pads a stride-2 convolution on one side only: there padding stands apart."""
    if stride != 1:
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return layers.Conv2D(
        filters,
        3,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)


def _block(x: keras.KerasTensor, filters: int, stride: int, name: str, *, squeezes: bool) -> keras.KerasTensor:
    shortcut = x
    y = _batch_norm(f"{name}_bn1")(x)
    y = _conv3x3(y, filters, 1, f"{name}_conv1")
    y = _batch_norm(f"{name}_bn2")(y)
    y = prelu(f"{name}_prelu")(y)
    y = _conv3x3(y, filters, stride, f"{name}_conv2")
    y = _batch_norm(f"{name}_bn3")(y)
    if squeezes:
        y = squeeze_excite(y, f"{name}_se", reduced=filters // REDUCTION, bias=False)
    if stride != 1 or x.shape[-1] != filters:
        shortcut = layers.Conv2D(
            filters, 1, strides=stride, use_bias=False, kernel_initializer="he_normal", name=f"{name}_downsample_conv"
        )(x)
        shortcut = _batch_norm(f"{name}_downsample_bn")(shortcut)
    return layers.Add(name=f"{name}_add")([y, shortcut])
