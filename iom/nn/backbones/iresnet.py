"""IResNet, the ResNet of ArcFace (Deng et al., CVPR 2019; InsightFace's `arcface_torch` layout).

A block is BN - conv3x3 - BN - PReLU - conv3x3 (stride here) - BN, and nothing after the sum. The head is BN - dropout -
flatten - FC - BN. Layer names follow the original, so that weights can be matched by name as well as by order.
"""

from collections.abc import Sequence
from typing import Any

from keras import layers

from iom.errors import ConfigError
from iom.nn.backbones.blocks import NAMES, HeadStyle, batch_norm, conv_norm, prelu, squeeze_excite

LANES = 16
REDUCTION = 16
"""Reduction of squeeze and excitation: channels over inner units."""
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
"""Layers of the standard networks to the blocks of their stages."""
HEAD = HeadStyle(names={**NAMES, "bn": "bn2", "dropout": "dropout", "flatten": "flatten"})


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
    x = conv_norm(x, "conv1", "bn1", filters=stem, kernel=3)
    x = prelu("prelu")(x)
    for stage, (filters, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for unit in range(depth):
            stride = 2 if unit == 0 else 1
            x = _block(x, filters, stride, f"layer{stage}_{unit}", squeezes=squeezes)
    return x


def _block(x: Any, filters: int, stride: int, name: str, *, squeezes: bool) -> Any:
    y = batch_norm(f"{name}_bn1")(x)
    y = conv_norm(y, f"{name}_conv1", f"{name}_bn2", filters=filters, kernel=3)
    y = prelu(f"{name}_prelu")(y)
    y = conv_norm(y, f"{name}_conv2", f"{name}_bn3", filters=filters, kernel=3, stride=stride)
    if squeezes:
        y = squeeze_excite(y, f"{name}_se", reduced=filters // REDUCTION, bias=False)
    if stride != 1 or x.shape[-1] != filters:
        x = conv_norm(x, f"{name}_downsample_conv", f"{name}_downsample_bn", filters=filters, stride=stride)
    return layers.Add(name=f"{name}_add")([y, x])
