"""MobileFaceNet (Chen et al., CCBR 2018, arXiv 1804.07573) in the two layouts that are in use."""

from collections.abc import Sequence
from typing import Any

from keras import layers

from iom.errors import ConfigError
from iom.nn.backbones.blocks import NAMES, HeadStyle, Scaling, batch_norm, conv_norm, conv_unit, prelu

MXNET_EPSILON = 1e-3
Y1_SCALING = Scaling(0.0078125, -127.5 * 0.0078125)
Y1_HEAD = HeadStyle(
    names={
        **NAMES,
        "conv": "conv_6dw7_7_conv2d",
        "conv_bn": "conv_6dw7_7_batchnorm",
        "flatten": "flatten",
        "fc": "pre_fc1",
        "features": "fc1",
    },
    epsilon=2e-5,
    map_epsilon=MXNET_EPSILON,
)
HEAD = HeadStyle(
    names={**NAMES, "conv": "global_conv", "conv_bn": "global_bn", "flatten": "flatten"}, bias=False, scale=True
)


def mobilefacenet(x: Any, *, blocks: Sequence[int] = (1, 4, 6, 2), scale: int = 2) -> Any:
    """Feature map of InsightFace's PyTorch MobileFaceNet (`mbf`); the deep variant has `blocks` (2, 8, 12, 4).

    `blocks` are the residual blocks at each resolution (1 in the first place: a single grouped convolution); `scale` is
    the width, and also the channels of a group in the grouped convolution.
    """
    if len(blocks) != 4 or min(blocks) < 1:
        raise ConfigError(f"mobilefacenet: expected four blocks counts, received {blocks}")
    x = conv_unit(x, "stem", "prelu", filters=64 * scale, kernel=3, stride=2)
    if blocks[0] == 1:
        x = _grouped_unit(x, "grouped", scale=scale)
    else:
        x = _residuals(x, "stage0", count=blocks[0], expanded=128)
    stages = ((128, 64 * scale, 128), (256, 128 * scale, 256), (512, 128 * scale, 256))
    for stage, (first, filters, expanded) in enumerate(stages, start=1):
        name = f"stage{stage}"
        x = _bottleneck(x, f"{name}_0", expanded=first, filters=filters, stride=2)
        x = _residuals(x, name, count=blocks[stage], expanded=expanded)
    return conv_unit(x, "separate", "prelu", filters=512)


def mobilefacenet_y1(x: Any) -> Any:
    """Feature map of InsightFace's MXNet MobileFaceNet (`y1`); layers are called as in its `model-symbol.json`."""
    x = _y1_unit(x, "conv_1", filters=64, kernel=3, stride=2)
    x = _y1_unit(x, "conv_2_dw", kernel=3)
    stages = ((3, "23", 128, 64, 4, 128), (4, "34", 256, 128, 6, 256), (5, "45", 512, 128, 2, 256))
    for stage, change, first, filters, blocks, expanded in stages:
        x = _y1_bottleneck(x, f"dconv_{change}", expanded=first, filters=filters, stride=2)
        for block in range(blocks):
            name = f"res_{stage}_block{block}"
            y = _y1_bottleneck(x, name, expanded=expanded, filters=filters, stride=1)
            x = layers.Add(name=f"{name}_add")([y, x])
    return _y1_unit(x, "conv_6sep", filters=512)


def _y1_unit(x: Any, name: str, *, activation: bool = True, **settings: Any) -> Any:
    x = conv_norm(x, f"{name}_conv2d", f"{name}_batchnorm", epsilon=MXNET_EPSILON, **settings)
    return prelu(f"{name}_relu")(x) if activation else x


def _y1_bottleneck(x: Any, name: str, *, expanded: int, filters: int, stride: int) -> Any:
    y = _y1_unit(x, f"{name}_conv_sep", filters=expanded)
    y = _y1_unit(y, f"{name}_conv_dw", kernel=3, stride=stride)
    return _y1_unit(y, f"{name}_conv_proj", filters=filters, activation=False)


def _grouped_unit(x: Any, name: str, *, scale: int) -> Any:
    """3x3 convolution in groups of `scale` channels - BN - PReLU."""
    # A grouped Conv2D trains 300 times slower on a CPU and cannot be exported. The same sum: part i is a depthwise
    # convolution, with `scale` results each, of the i-th channel of every group.
    padded = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    parts = [
        layers.DepthwiseConv2D(
            3, depth_multiplier=scale, use_bias=False, depthwise_initializer="he_normal", name=f"{name}_conv{part}"
        )(padded[..., part::scale] if scale > 1 else padded)
        for part in range(scale)
    ]
    x = layers.Add(name=f"{name}_sum")(parts) if scale > 1 else parts[0]
    return prelu(f"{name}_prelu")(batch_norm(f"{name}_bn")(x))


def _bottleneck(x: Any, name: str, *, expanded: int, filters: int, stride: int) -> Any:
    y = conv_unit(x, f"{name}_expand", "prelu", filters=expanded)
    y = conv_unit(y, f"{name}_depthwise", "prelu", kernel=3, stride=stride)
    return conv_unit(y, f"{name}_project", filters=filters)


def _residuals(x: Any, name: str, *, count: int, expanded: int) -> Any:
    for block in range(1, count + 1):
        unit = f"{name}_{block}"
        y = _bottleneck(x, unit, expanded=expanded, filters=x.shape[-1], stride=1)
        x = layers.Add(name=f"{unit}_add")([x, y])
    return x
