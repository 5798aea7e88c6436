"""Heads: from the last feature map to the embedding.

E is the head of ArcFace (option E of Deng et al., CVPR 2019, arXiv 1801.07698), GDC the one of
MobileFaceNet (Chen et al., CCBR 2018, arXiv 1804.07573), GAP the one of classification networks.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import layers

from iom._registry import lookup


@dataclasses.dataclass(frozen=True)
class HeadStyle:
    """In what the published networks differ where they have the same kind of head.

    Attributes:
        names: Own names of layers; the others have the names of `NAMES`.
        epsilon: Of the last batch norm and of that of head E.
        map_epsilon: Of the batch norm behind the depthwise convolution.
        bias: Whether the fully connected layer has one.
        scale: Whether the last batch norm learns a scale; InsightFace fixes it at one.
    """

    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    epsilon: float = 1e-5
    map_epsilon: float = 1e-5
    bias: bool = True
    scale: bool = False

    def name(self, part: str) -> str:
        """Name of a layer."""
        return self.names.get(part, NAMES[part])


NAMES = {
    "bn": "head_bn", "dropout": "head_dropout", "flatten": "head_flatten", "conv": "head_conv",
    "conv_bn": "head_conv_bn", "pool": "head_pool", "fc": "fc", "features": "features",
}  # fmt: skip
PLAIN = HeadStyle()
MOMENTUM = 0.9


def add_head(x: Any, *, kind: str, embedding_size: int, dropout: float = 0.0, style: HeadStyle = PLAIN) -> Any:
    """Embedding of a feature map.

    Args:
        x: Feature map `(B, H, W, C)` of known size.
        kind: A key of `HEADS`.
        embedding_size: Dimensions of the embedding.
        dropout: Share that is dropped in training.
        style: Names and constants.

    Returns:
        `(B, embedding_size)` in float32, not normalised.

    Raises:
        ConfigError: No such head.
    """
    x = lookup(HEADS, kind, "head")(x, dropout, style)
    x = layers.Dense(embedding_size, use_bias=style.bias, name=style.name("fc"))(x)
    x = layers.BatchNormalization(
        momentum=MOMENTUM, epsilon=style.epsilon, scale=style.scale, name=style.name("features")
    )(x)
    # Half-precision training must not round what the margin loss and the hash see.
    return layers.Activation("linear", dtype="float32", name="embedding")(x)


def _flat(x: Any, dropout: float, style: HeadStyle) -> Any:
    """BN - dropout - flatten."""
    x = layers.BatchNormalization(momentum=MOMENTUM, epsilon=style.epsilon, name=style.name("bn"))(x)
    x = layers.Dropout(dropout, name=style.name("dropout"))(x)
    return layers.Flatten(name=style.name("flatten"))(x)


def _global_depthwise(x: Any, dropout: float, style: HeadStyle) -> Any:
    """Depthwise convolution over the whole map - BN: a learned weight for each place."""
    x = layers.DepthwiseConv2D(
        (x.shape[1], x.shape[2]), use_bias=False, depthwise_initializer="he_normal", name=style.name("conv")
    )(x)
    x = layers.BatchNormalization(momentum=MOMENTUM, epsilon=style.map_epsilon, name=style.name("conv_bn"))(x)
    x = layers.Flatten(name=style.name("flatten"))(x)
    return layers.Dropout(dropout, name=style.name("dropout"))(x) if dropout else x


def _global_average(x: Any, dropout: float, style: HeadStyle) -> Any:
    """Average over the map."""
    x = layers.GlobalAveragePooling2D(name=style.name("pool"))(x)
    return layers.Dropout(dropout, name=style.name("dropout"))(x) if dropout else x


HEADS: dict[str, Callable[[Any, float, HeadStyle], Any]] = {
    "E": _flat,
    "GDC": _global_depthwise,
    "GAP": _global_average,
}


def finish(image: keras.KerasTensor, features: Any, name: str, **head: Any) -> keras.Model:
    """The backbone from `image` to the embedding of the map `features`; `head` as in `add_head`."""
    return keras.Model(image, add_head(features, **head), name=name)
