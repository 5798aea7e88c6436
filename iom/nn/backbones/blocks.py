"""Shared parts of backbones: pixel scaling, squeeze and excitation, embedding heads, and the network around them.

Head E is that of ArcFace (option E of Deng et al., CVPR 2019, arXiv 1801.07698), GDC that of MobileFaceNet (Chen et
al., CCBR 2018, arXiv 1804.07573), GAP that of classification networks.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import layers

from iom._registry import lookup

SCALING = "pixel_scaling"


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Raw RGB 0..255 -> `pixels * scale + offset`, by channel, then perhaps in order BGR."""

    scale: float | tuple[float, ...]
    offset: float | tuple[float, ...]
    bgr: bool = False


SYMMETRIC = Scaling(1 / 127.5, -1.0)


NAMES = {
    "bn": "head_bn",
    "dropout": "head_dropout",
    "flatten": "head_flatten",
    "conv": "head_conv",
    "conv_bn": "head_conv_bn",
    "pool": "head_pool",
    "fc": "fc",
    "features": "features",
}
"""Names of the layers of heads."""


@dataclasses.dataclass(frozen=True)
class HeadStyle:
    """Names of layers, and constants in which published networks with the same head differ.

    `epsilon` is that of the last batch norm and of head E, `map_epsilon` that behind the depthwise convolution; `bias`
    of the fully connected layer; `scale` of the last batch norm, which InsightFace fixes at one.
    """

    names: Mapping[str, str] = dataclasses.field(default_factory=lambda: NAMES)
    epsilon: float = 1e-5
    map_epsilon: float = 1e-5
    bias: bool = True
    scale: bool = False


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network from raw pixels to an embedding, of which only the part between scaling and head is its own.

    `features` takes scaled pixels `(B, S, S, 3)` and settings to a feature map `(B, H, W, C)`; `fixed` are the settings
    of this member of its family; `head` is the default key of `HEADS`.
    """

    features: Callable[..., Any]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    head: str = "GDC"
    scaling: Scaling = SYMMETRIC
    style: HeadStyle = HeadStyle()


def scale_pixels(image: Any, scaling: Scaling) -> Any:
    """Raw pixels scaled inside the graph."""
    scale, offset = (list(x) if isinstance(x, tuple) else x for x in (scaling.scale, scaling.offset))
    x = layers.Rescaling(scale, offset=offset, name=SCALING)(image)
    return x[..., ::-1] if scaling.bgr else x


def add_head(x: Any, *, kind: str, embedding_size: int, dropout: float = 0.0, style: HeadStyle = HeadStyle()) -> Any:
    """Embedding `(B, embedding_size)`, float32, not normalised, of a feature map `(B, H, W, C)` of known size.

    `kind` is a key of `HEADS`; `dropout` the share dropped in training.
    """
    x = lookup(HEADS, kind, "head")(x, dropout, style)
    x = layers.Dense(embedding_size, use_bias=style.bias, name=style.names["fc"])(x)
    x = batch_norm(style.names["features"], style.epsilon, scale=style.scale)(x)
    # Half-precision training must not round what the margin loss and the hash see.
    return layers.Activation("linear", dtype="float32", name="embedding")(x)


def _flat(x: Any, dropout: float, style: HeadStyle) -> Any:
    """BN - dropout - flatten."""
    x = batch_norm(style.names["bn"], style.epsilon)(x)
    x = layers.Dropout(dropout, name=style.names["dropout"])(x)
    return layers.Flatten(name=style.names["flatten"])(x)


def _global_depthwise(x: Any, dropout: float, style: HeadStyle) -> Any:
    """Depthwise convolution over the whole map - BN: a learned weight for each place."""
    window = tuple(x.shape[1:3])
    depthwise = layers.DepthwiseConv2D(
        window, use_bias=False, depthwise_initializer="he_normal", name=style.names["conv"]
    )
    x = batch_norm(style.names["conv_bn"], style.map_epsilon)(depthwise(x))
    x = layers.Flatten(name=style.names["flatten"])(x)
    return layers.Dropout(dropout, name=style.names["dropout"])(x) if dropout else x


def _global_average(x: Any, dropout: float, style: HeadStyle) -> Any:
    """Average over the map."""
    x = layers.GlobalAveragePooling2D(name=style.names["pool"])(x)
    return layers.Dropout(dropout, name=style.names["dropout"])(x) if dropout else x


HEADS: dict[str, Callable[[Any, float, HeadStyle], Any]] = {
    "E": _flat,
    "GDC": _global_depthwise,
    "GAP": _global_average,
}


def round_width(filters: float, divisor: int = 8) -> int:
    """Nearest multiple of `divisor` that loses at most a tenth."""
    rounded = max(divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * filters else rounded


def batch_norm(name: str, epsilon: float = 1e-5, **settings: Any) -> layers.Layer:
    """Batch norm; all have a momentum of 0.9."""
    return layers.BatchNormalization(momentum=0.9, epsilon=epsilon, name=name, **settings)


def conv_norm(
    x: Any,
    conv: str,
    norm: str,
    *,
    filters: int = 0,
    kernel: int = 1,
    stride: int = 1,
    epsilon: float = 1e-5,
    symmetric: bool = True,
) -> Any:
    """Convolution without a bias, depthwise without `filters`, and batch norm; `conv` and `norm` are their names.

    `symmetric` pads strided ones alike on both sides, apart from the convolution: Keras' 'same' is one-sided there.
    """
    apart = symmetric and stride > 1 and kernel > 1
    if apart:
        x = layers.ZeroPadding2D(kernel // 2, name=f"{conv}_pad")(x)
    padding = "same" if kernel > 1 and not apart else "valid"
    settings = {"strides": stride, "padding": padding, "use_bias": False, "name": conv}
    if filters:
        x = layers.Conv2D(filters, kernel, kernel_initializer="he_normal", **settings)(x)
    else:
        x = layers.DepthwiseConv2D(kernel, depthwise_initializer="he_normal", **settings)(x)
    return batch_norm(norm, epsilon)(x)


def prelu(name: str) -> layers.Layer:
    """PReLU with a slope for each channel, 0.25 at the start."""
    slope = keras.initializers.Constant(0.25)
    return layers.PReLU(alpha_initializer=slope, shared_axes=[1, 2], name=name)


def conv_unit(x: Any, name: str, activation: str = "", **settings: Any) -> Any:
    """Convolution - BN (- activation), PReLU or one of Keras by its name; `settings` as of `conv_norm`."""
    x = conv_norm(x, f"{name}_conv", f"{name}_bn", **settings)
    if activation == "prelu":
        return prelu(f"{name}_prelu")(x)
    return layers.Activation(activation, name=f"{name}_{activation}")(x) if activation else x


def squeeze_excite(x: Any, name: str, *, reduced: int, bias: bool = True, gate: str = "sigmoid") -> Any:
    """Squeeze and excitation (Hu et al., CVPR 2018, arXiv 1709.01507): channels weighed by their averages.

    `reduced` are the units of the inner layer; `gate` is the activation that gives the weights, in 0..1.
    """
    channels = x.shape[-1]
    # Rank 2, not 1x1 convolutions: those crash or crawl on some CPUs.
    y = layers.GlobalAveragePooling2D(name=f"{name}_pool")(x)
    y = layers.Dense(reduced, activation="relu", use_bias=bias, kernel_initializer="he_normal", name=f"{name}_reduce")(
        y
    )
    y = layers.Dense(channels, activation=gate, use_bias=bias, name=f"{name}_expand")(y)
    y = layers.Reshape((1, 1, channels), name=f"{name}_weights")(y)
    return layers.Multiply(name=f"{name}_scale")([x, y])
