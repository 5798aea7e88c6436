"""MnasNet (Tan et al., CVPR 2019, arXiv 1807.11626): A1, B1 and small.

As published in TensorFlow's `tpu` repository: A1 has squeeze and excitation, B1 has none; `width`
is its depth multiplier. Widths are the published ones, many of them no multiples of 16: on CPUs
with AVX-512, TensorFlow 2.21 may corrupt the heap in training unless `TF_ENABLE_ONEDNN_OPTS=0` is
set.
"""

import dataclasses

import keras
from keras import layers

from iom._registry import lookup
from iom.errors import ConfigError
from iom.nn.backbones.embedding_heads import finish
from iom.nn.backbones.inverted_residual import Stage, convolution, inverted_residuals, round_width

VARIANTS = {
    "a1": (32, (
        Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(3, 5, 2, 3, 40, 0.25),
        Stage(4, 3, 2, 6, 80), Stage(2, 3, 1, 6, 112, 0.25), Stage(3, 5, 2, 6, 160, 0.25),
        Stage(1, 3, 1, 6, 320),
    )),
    "b1": (32, (
        Stage(1, 3, 1, 1, 16), Stage(3, 3, 2, 3, 24), Stage(3, 5, 2, 3, 40),
        Stage(3, 5, 2, 6, 80), Stage(2, 3, 1, 6, 96), Stage(4, 5, 2, 6, 192),
        Stage(1, 3, 1, 6, 320),
    )),
    "small": (8, (
        Stage(1, 3, 1, 1, 8), Stage(1, 3, 2, 3, 16), Stage(2, 3, 2, 6, 16),
        Stage(4, 5, 2, 6, 32, 0.25), Stage(3, 3, 1, 6, 32, 0.25), Stage(3, 5, 2, 6, 88, 0.25),
        Stage(1, 3, 1, 6, 144),
    )),
}  # fmt: skip
"""Channels of the stem, and the stages."""
ACTIVATION = "relu"


def mnasnet(
    variant: str,
    *,
    embedding_size: int = 512,
    input_size: int = 112,
    dropout: float = 0.0,
    head: str = "GDC",
    width: float = 1.0,
) -> keras.Model:
    """MnasNet: raw RGB 0..255 `(B, S, S, 3)` -> embedding `(B, D)`.

    Args:
        variant: A key of `VARIANTS`.
        embedding_size: Dimensions of the embedding, D.
        input_size: Side of the square image, S.
        dropout: Share dropped in the head in training.
        head: A key of `iom.nn.backbones.embedding_heads.HEADS`.
        width: Factor of all widths but the last, rounded to multiples of 8.

    Raises:
        ConfigError: No such head or variant, or a width that is not positive.
    """
    stem, stages = lookup(VARIANTS, variant, "MnasNet")
    if width <= 0:
        raise ConfigError(f"mnasnet_{variant}: expected a positive width, received {width}")
    scaled = [dataclasses.replace(stage, filters=round_width(stage.filters * width)) for stage in stages]
    image = keras.Input((input_size, input_size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="pixel_scaling")(image)
    filters = round_width(stem * width)
    x = convolution(x, "stem", filters=filters, kernel=3, stride=2, activation=ACTIVATION)
    x = inverted_residuals(x, scaled, activation=ACTIVATION)
    x = convolution(x, "last", filters=1280, activation=ACTIVATION)
    settings = {"kind": head, "embedding_size": embedding_size, "dropout": dropout}
    return finish(image, x, f"mnasnet_{variant}", **settings)
