"""Networks of inverted residual blocks (Sandler et al., CVPR 2018): EfficientNet-Lite and MnasNet.

EfficientNet-Lite 0 to 4 (EfficientNet: Tan and Le, ICML 2019) and MnasNet A1, B1 and small (Tan et al., CVPR 2019,
arXiv 1807.11626) as published in TensorFlow's `tpu` repository. EfficientNet-Lite has no squeeze and excitation, and
its stem, head and the depths of the first and the last stage are not scaled. Many widths are no multiples of 16: see
`iom.nn.backbones.registry.Complexity` for training on AVX-512.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

from keras import layers

from iom.errors import ConfigError
from iom.nn.backbones.blocks import conv_unit, round_width, squeeze_excite


@dataclasses.dataclass(frozen=True)
class Stage:
    """Blocks of one width; the stride is that of the first one.

    `expansion` is the factor between the 1x1 convolutions (1: none), `squeeze` the inner units of squeeze and
    excitation as a share of the channels that come in (0: none).
    """

    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int
    squeeze: float = 0.0


_unit = functools.partial(conv_unit, epsilon=1e-3, symmetric=False)
"""Padded as TensorFlow does."""
LITE_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
LITE_SCALES = {"0": (1.0, 1.0), "1": (1.0, 1.1), "2": (1.1, 1.2), "3": (1.2, 1.4), "4": (1.4, 1.8)}
"""Factors of widths and depths."""
MNASNETS = {
    "a1": (
        32,
        (
            Stage(1, 3, 1, 1, 16),
            Stage(2, 3, 2, 6, 24),
            Stage(3, 5, 2, 3, 40, 0.25),
            Stage(4, 3, 2, 6, 80),
            Stage(2, 3, 1, 6, 112, 0.25),
            Stage(3, 5, 2, 6, 160, 0.25),
            Stage(1, 3, 1, 6, 320),
        ),
    ),
    "b1": (
        32,
        (
            Stage(1, 3, 1, 1, 16),
            Stage(3, 3, 2, 3, 24),
            Stage(3, 5, 2, 3, 40),
            Stage(3, 5, 2, 6, 80),
            Stage(2, 3, 1, 6, 96),
            Stage(4, 5, 2, 6, 192),
            Stage(1, 3, 1, 6, 320),
        ),
    ),
    "small": (
        8,
        (
            Stage(1, 3, 1, 1, 8),
            Stage(1, 3, 2, 3, 16),
            Stage(2, 3, 2, 6, 16),
            Stage(4, 5, 2, 6, 32, 0.25),
            Stage(3, 3, 1, 6, 32, 0.25),
            Stage(3, 5, 2, 6, 88, 0.25),
            Stage(1, 3, 1, 6, 144),
        ),
    ),
}
"""Channels of the stem, and the stages."""


def efficientnet_lite(x: Any, *, variant: str) -> Any:
    """Feature map of EfficientNet-Lite of scaled pixels; `variant` is a key of `LITE_SCALES`."""
    width, depth = LITE_SCALES[variant]
    ends = (LITE_STAGES[0], LITE_STAGES[-1])
    stages = [
        dataclasses.replace(
            stage,
            filters=round_width(stage.filters * width),
            repeats=stage.repeats if stage in ends else math.ceil(stage.repeats * depth),
        )
        for stage in LITE_STAGES
    ]
    return _network(x, 32, stages, activation="relu6")


def mnasnet(x: Any, *, variant: str, width: float = 1.0) -> Any:
    """Feature map of MnasNet, a key of `MNASNETS`; `width` scales all widths but the last, to multiples of 8."""
    if width <= 0:
        raise ConfigError(f"mnasnet_{variant}: expected a positive width, received {width}")
    stem, stages = MNASNETS[variant]
    scaled = [dataclasses.replace(stage, filters=round_width(stage.filters * width)) for stage in stages]
    return _network(x, round_width(stem * width), scaled, activation="relu")


def _network(x: Any, stem: int, stages: Sequence[Stage], *, activation: str) -> Any:
    """Stem, blocks and last convolution; a block adds its input where the shapes allow it."""
    x = _unit(x, "stem", filters=stem, kernel=3, stride=2, activation=activation)
    for number, stage in enumerate(stages, start=1):
        for unit in range(stage.repeats):
            stride = stage.stride if unit == 0 else 1
            x = _block(x, f"stage{number}_{unit}", stage, stride=stride, activation=activation)
    return _unit(x, "last", filters=1280, activation=activation)


def _block(x: Any, name: str, stage: Stage, *, stride: int, activation: str) -> Any:
    channels = x.shape[-1]
    y = x
    if stage.expansion != 1:
        filters = channels * stage.expansion
        y = _unit(y, f"{name}_expand", filters=filters, activation=activation)
    y = _unit(y, f"{name}_depthwise", kernel=stage.kernel, stride=stride, activation=activation)
    if stage.squeeze:
        y = squeeze_excite(y, f"{name}_se", reduced=max(1, int(channels * stage.squeeze)))
    y = _unit(y, f"{name}_project", filters=stage.filters)
    if stride == 1 and channels == stage.filters:
        y = layers.Add(name=f"{name}_add")([x, y])
    return y
