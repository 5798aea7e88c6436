"""EfficientNet-Lite 0 to 4: EfficientNet (Tan and Le, ICML 2019) for small devices.

As published in TensorFlow's `tpu` repository: no squeeze and excitation, ReLU6, and stem, head and
the depths of the first and the last stage are not scaled. Widths are the published ones, many of
them no multiples of 16: on CPUs with AVX-512, TensorFlow 2.21 may corrupt the heap in training
unless `TF_ENABLE_ONEDNN_OPTS=0` is set.
"""

import dataclasses
import math

import keras
from keras import layers

from iom._registry import lookup
from iom.nn.backbones.embedding_heads import finish
from iom.nn.backbones.inverted_residual import Stage, convolution, inverted_residuals, round_width

STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
SCALES = {"0": (1.0, 1.0), "1": (1.0, 1.1), "2": (1.1, 1.2), "3": (1.2, 1.4), "4": (1.4, 1.8)}
"""Of widths and depths."""
ACTIVATION = "relu6"


def efficientnet_lite(
    variant: str, *, embedding_size: int = 512, input_size: int = 112, dropout: float = 0.0, head: str = "GDC"
) -> keras.Model:
    """EfficientNet-Lite: raw RGB 0..255 `(B, S, S, 3)` -> embedding `(B, D)`.

    Args:
        variant: A key of `SCALES`.
        embedding_size: Dimensions of the embedding, D.
        input_size: Side of the square image, S.
        dropout: Share dropped in the head in training.
        head: A key of `iom.nn.backbones.embedding_heads.HEADS`.

    Raises:
        ConfigError: No such head or variant.
    """
    width, depth = lookup(SCALES, variant, "EfficientNet-Lite")
    image = keras.Input((input_size, input_size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="pixel_scaling")(image)
    x = convolution(x, "stem", filters=32, kernel=3, stride=2, activation=ACTIVATION)
    x = inverted_residuals(x, _scaled(width, depth), activation=ACTIVATION)
    x = convolution(x, "last", filters=1280, activation=ACTIVATION)
    settings = {"kind": head, "embedding_size": embedding_size, "dropout": dropout}
    return finish(image, x, f"efficientnet_lite{variant}", **settings)


def _scaled(width: float, depth: float) -> list[Stage]:
    ends = (STAGES[0], STAGES[-1])
    return [
        dataclasses.replace(
            stage,
            filters=round_width(stage.filters * width),
            repeats=stage.repeats if stage in ends else math.ceil(stage.repeats * depth),
        )
        for stage in STAGES
    ]
