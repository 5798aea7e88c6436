"""GhostNet (Han et al., CVPR 2020, arXiv 1911.11907), the first version.

Half of the channels of a ghost module come from a 1x1 convolution, the others from a depthwise one of these. Published
widths, many no multiples of 16: see `iom.nn.backbones.registry.Complexity` for training on AVX-512.
"""

from typing import Any

from keras import layers

from iom.errors import ConfigError
from iom.nn.backbones.blocks import conv_unit, round_width, squeeze_excite

BLOCKS = (
    (3, 16, 16, False, 1),
    (3, 48, 24, False, 2),
    (3, 72, 24, False, 1),
    (5, 72, 40, True, 2),
    (5, 120, 40, True, 1),
    (3, 240, 80, False, 2),
    (3, 200, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 480, 112, True, 1),
    (3, 672, 112, True, 1),
    (5, 672, 160, True, 2),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
)
"""Kernel, inner channels, channels out, squeeze and excitation, stride (Table 1 of the paper)."""
STEM = 16
LAST = 960
DIVISOR = 4
SQUEEZE = 0.25


def ghostnet(x: Any, *, width: float = 1.0) -> Any:
    """Feature map of GhostNet of scaled pixels; `width` is the factor of all widths, rounded to multiples of 4."""
    if width <= 0:
        raise ConfigError(f"ghostnet: expected a positive width, received {width}")
    x = conv_unit(x, "stem", "relu", filters=round_width(STEM * width, DIVISOR), kernel=3, stride=2)
    for number, (kernel, inner, filters, squeezes, stride) in enumerate(BLOCKS, start=1):
        x = _bottleneck(
            x,
            f"block{number}",
            kernel=kernel,
            inner=round_width(inner * width, DIVISOR),
            filters=round_width(filters * width, DIVISOR),
            squeezes=squeezes,
            stride=stride,
        )
    return conv_unit(x, "last", "relu", filters=round_width(LAST * width, DIVISOR))


def _ghost(x: Any, name: str, activation: str = "", *, filters: int) -> Any:
    # Rounded widths are even: both halves have the same number of channels.
    first = conv_unit(x, f"{name}_primary", activation, filters=filters // 2)
    second = conv_unit(first, f"{name}_cheap", activation, kernel=3)
    return layers.Concatenate(name=f"{name}_both")([first, second])


def _bottleneck(x: Any, name: str, *, kernel: int, inner: int, filters: int, squeezes: bool, stride: int) -> Any:
    y = _ghost(x, f"{name}_ghost1", "relu", filters=inner)
    if stride > 1:
        y = conv_unit(y, f"{name}_depthwise", kernel=kernel, stride=stride)
    if squeezes:
        reduced = round_width(inner * SQUEEZE, DIVISOR)
        y = squeeze_excite(y, f"{name}_se", reduced=reduced, gate="hard_sigmoid")
    y = _ghost(y, f"{name}_ghost2", filters=filters)
    if stride > 1 or x.shape[-1] != filters:
        x = conv_unit(x, f"{name}_shortcut1", kernel=kernel, stride=stride)
        x = conv_unit(x, f"{name}_shortcut2", filters=filters)
    return layers.Add(name=f"{name}_add")([x, y])
