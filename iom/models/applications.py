"""Networks of `keras.applications` with ArcFace's embedding head, untrained.

The head is BN - dropout - flatten - FC - BN (option E of Deng et al., CVPR 2019, arXiv 1801.07698).
Pixels are scaled to -1..1 for all of them: they start from random weights, so the customs of their
ImageNet weights do not matter.
"""

from collections.abc import Callable

import keras
from keras import applications, layers


def _with_head(
    body: Callable[..., keras.Model],
    name: str,
    *,
    embedding_size: int,
    input_size: int,
    dropout: float,
) -> keras.Model:
    image = keras.Input((input_size, input_size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="pixel_scaling")(image)
    x = body(include_top=False, weights=None, input_tensor=x).output
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="head_bn")(x)
    x = layers.Dropout(dropout, name="head_dropout")(x)
    x = layers.Flatten(name="head_flatten")(x)
    x = layers.Dense(embedding_size, name="fc")(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, scale=False, name="features")(x)
    # Half-precision training must not round what the margin loss and the hash see.
    embedding = layers.Activation("linear", dtype="float32", name="embedding")(x)
    return keras.Model(image, embedding, name=name)


def resnet50(
    *, embedding_size: int = 512, input_size: int = 112, dropout: float = 0.0
) -> keras.Model:
    """ResNet-50: raw RGB 0..255 `(B, 112, 112, 3)` -> embedding `(B, embedding_size)`."""
    return _with_head(
        applications.ResNet50,
        "resnet50",
        embedding_size=embedding_size,
        input_size=input_size,
        dropout=dropout,
    )


def resnet101(
    *, embedding_size: int = 512, input_size: int = 112, dropout: float = 0.0
) -> keras.Model:
    """ResNet-101: raw RGB 0..255 `(B, 112, 112, 3)` -> embedding `(B, embedding_size)`."""
    return _with_head(
        applications.ResNet101,
        "resnet101",
        embedding_size=embedding_size,
        input_size=input_size,
        dropout=dropout,
    )


def mobilenet_v2(
    *, embedding_size: int = 512, input_size: int = 112, dropout: float = 0.0
) -> keras.Model:
    """MobileNetV2: raw RGB 0..255 `(B, 112, 112, 3)` -> embedding `(B, embedding_size)`."""
    return _with_head(
        applications.MobileNetV2,
        "mobilenet_v2",
        embedding_size=embedding_size,
        input_size=input_size,
        dropout=dropout,
    )


def inception_resnet_v2(
    *, embedding_size: int = 512, input_size: int = 112, dropout: float = 0.0
) -> keras.Model:
    """Inception-ResNet-v2: raw RGB 0..255 `(B, 112, 112, 3)` -> embedding `(B, embedding_size)`."""
    return _with_head(
        applications.InceptionResNetV2,
        "inception_resnet_v2",
        embedding_size=embedding_size,
        input_size=input_size,
        dropout=dropout,
    )


def xception(
    *, embedding_size: int = 512, input_size: int = 112, dropout: float = 0.0
) -> keras.Model:
    """Xception: raw RGB 0..255 `(B, 112, 112, 3)` -> embedding `(B, embedding_size)`."""
    return _with_head(
        applications.Xception,
        "xception",
        embedding_size=embedding_size,
        input_size=input_size,
        dropout=dropout,
    )


def vgg16(*, embedding_size: int = 512, input_size: int = 112, dropout: float = 0.0) -> keras.Model:
    """VGG-16: raw RGB 0..255 `(B, 112, 112, 3)` -> embedding `(B, embedding_size)`."""
    return _with_head(
        applications.VGG16,
        "vgg16",
        embedding_size=embedding_size,
        input_size=input_size,
        dropout=dropout,
    )


def vgg19(*, embedding_size: int = 512, input_size: int = 112, dropout: float = 0.0) -> keras.Model:
    """VGG-19: raw RGB 0..255 `(B, 112, 112, 3)` -> embedding `(B, embedding_size)`."""
    return _with_head(
        applications.VGG19,
        "vgg19",
        embedding_size=embedding_size,
        input_size=input_size,
        dropout=dropout,
    )
