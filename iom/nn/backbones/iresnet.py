"""IResNet, the ResNet of ArcFace (Deng et al., CVPR 2019; InsightFace's `arcface_torch` layout).

A block is BN - conv3x3 - BN - PReLU - conv3x3 (stride here) - BN, and nothing after the sum. The
head is BN - dropout - flatten - FC - BN. Layer names follow the original, so that weights can be
matched by name as well as by order.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from iom.errors import ConfigError
from iom.nn.backbones.embedding_heads import HeadStyle, finish
from iom.nn.backbones.squeeze import squeeze_excite

EPSILON = 1e-5
MOMENTUM = 0.9
LANES = 16
REDUCTION = 16
"""Of squeeze and excitation: channels over inner units."""
HEAD = HeadStyle(names={"bn": "bn2", "dropout": "dropout", "flatten": "flatten"})


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


def _prelu(name: str) -> layers.Layer:
    return layers.PReLU(alpha_initializer=keras.initializers.Constant(0.25), shared_axes=[1, 2], name=name)


def _block(x: keras.KerasTensor, filters: int, stride: int, name: str, *, squeezes: bool) -> keras.KerasTensor:
    shortcut = x
    y = _batch_norm(f"{name}_bn1")(x)
    y = _conv3x3(y, filters, 1, f"{name}_conv1")
    y = _batch_norm(f"{name}_bn2")(y)
    y = _prelu(f"{name}_prelu")(y)
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


def _iresnet(
    name: str,
    *,
    stem: int,
    widths: Sequence[int],
    depths: Sequence[int],
    embedding_size: int,
    input_size: int,
    dropout: float,
    head: str,
    squeeze_excitation: bool,
) -> keras.Model:
    image = keras.Input((input_size, input_size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="pixel_scaling")(image)
    x = _conv3x3(x, stem, 1, "conv1")
    x = _batch_norm("bn1")(x)
    x = _prelu("prelu")(x)
    for stage, (filters, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for unit in range(depth):
            stride = 2 if unit == 0 else 1
            block = f"layer{stage}_{unit}"
            x = _block(x, filters, stride, block, squeezes=squeeze_excitation)
    settings = {"kind": head, "embedding_size": embedding_size, "dropout": dropout}
    return finish(image, x, name, **settings, style=HEAD)


def _standard(
    name: str,
    depths: Sequence[int],
    *,
    embedding_size: int = 512,
    input_size: int = 112,
    dropout: float = 0.0,
    head: str = "E",
    squeeze_excitation: bool = False,
) -> keras.Model:
    """Raw RGB 0..255 `(B, input_size, input_size, 3)` -> embedding `(B, embedding_size)`.

    Args:
        name: Name of the model.
        depths: Blocks of each stage.
        embedding_size: Dimensions of the embedding.
        input_size: Side of the square image, in pixels.
        dropout: Share dropped in the head in training.
        head: A key of `iom.nn.backbones.embedding_heads.HEADS`.
        squeeze_excitation: Weigh the channels behind the last batch norm of each block (SE-IR):
            reduction 16, ReLU, no biases.
    """
    return _iresnet(
        name,
        stem=64,
        widths=(64, 128, 256, 512),
        depths=depths,
        embedding_size=embedding_size,
        input_size=input_size,
        dropout=dropout,
        head=head,
        squeeze_excitation=squeeze_excitation,
    )


def iresnet18(**settings: Any) -> keras.Model:
    """IResNet-18; settings as in `_standard`."""
    return _standard("iresnet18", (2, 2, 2, 2), **settings)


def iresnet34(**settings: Any) -> keras.Model:
    """IResNet-34; settings as in `_standard`."""
    return _standard("iresnet34", (3, 4, 6, 3), **settings)


def iresnet50(**settings: Any) -> keras.Model:
    """IResNet-50; settings as in `_standard`."""
    return _standard("iresnet50", (3, 4, 14, 3), **settings)


def iresnet100(**settings: Any) -> keras.Model:
    """IResNet-100; settings as in `_standard`."""
    return _standard("iresnet100", (3, 13, 30, 3), **settings)


def iresnet_slim(
    *,
    embedding_size: int = 128,
    input_size: int = 112,
    dropout: float = 0.0,
    stem: int = 16,
    widths: Sequence[int] = (16, 32, 64, 64),
    depths: Sequence[int] = (1, 2, 4, 2),
    head: str = "E",
    squeeze_excitation: bool = False,
) -> keras.Model:
    """IResNet for small machines: any stem, widths and depths.

    Args:
        embedding_size: Dimensions of the embedding.
        input_size: Side of the square image, in pixels.
        dropout: Share of the last feature map dropped in training.
        stem: Channels of the first convolution.
        widths: Channels of each stage; each stage halves the image side.
        depths: Blocks of each stage.
        head: A key of `iom.nn.backbones.embedding_heads.HEADS`.
        squeeze_excitation: As in the standard networks.

    Raises:
        ConfigError: `widths` and `depths` differ in length, or a width is no multiple of 16.
            TensorFlow 2.21's oneDNN corrupts the heap on AVX-512 machines when a convolution of
            another width is trained; a multiple of the vector lanes is also what is fast.
    """
    if len(widths) != len(depths) or not widths:
        raise ConfigError(f"iresnet_slim: expected as many widths as depths, received {widths} and {depths}")
    uneven = [width for width in (stem, *widths) if width < LANES or width % LANES]
    if uneven:
        raise ConfigError(f"iresnet_slim: expected widths in multiples of {LANES}, received {uneven}")
    return _iresnet(
        "iresnet_slim",
        stem=stem,
        widths=widths,
        depths=depths,
        embedding_size=embedding_size,
        input_size=input_size,
        dropout=dropout,
        head=head,
        squeeze_excitation=squeeze_excitation,
    )
