"""Our networks as anybody would write them in Keras, for `benchmarks.training_step`.

Nothing of this project is imported. Same layers and widths as IResNet-18, IResNet-50 and
MobileFaceNet (`mbf`); convolutions without a stride are padded by Keras.
"""

from typing import Any

import keras
from keras import layers

DEPTHS = {"iresnet18": (2, 2, 2, 2), "iresnet50": (3, 4, 14, 3)}


def plain_network(name: str, size: int, *, decay: float = 0.0) -> tuple[Any, Any]:
    """Image `(B, S, S, 3)` of raw pixels, and its embedding `(B, 512)`.

    Args:
        name: iresnet18, iresnet50 or mobilefacenet.
        size: Side of the image, S.
        decay: L2 penalty of the fully connected layer.
    """
    image = keras.Input((size, size, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    if name == "mobilefacenet":
        x = layers.Flatten()(_mobilefacenet(x))
    else:
        x = _bn(_iresnet(x, DEPTHS[name]))
        x = layers.Flatten()(layers.Dropout(0.0)(x))
    penalty = keras.regularizers.L2(decay) if decay else None
    return image, _bn(layers.Dense(512, kernel_regularizer=penalty)(x))


def _bn(x: Any) -> Any:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def _prelu(x: Any) -> Any:
    return layers.PReLU(shared_axes=[1, 2])(x)


def _conv(x: Any, filters: int, window: int, stride: int = 1) -> Any:
    if stride == 2 and window == 3:
        x = layers.ZeroPadding2D(1)(x)
        return layers.Conv2D(filters, 3, strides=2, use_bias=False)(x)
    return layers.Conv2D(filters, window, strides=stride, padding="same", use_bias=False)(x)


def _iresnet(x: Any, depths: tuple[int, ...]) -> Any:
    x = _prelu(_bn(_conv(x, 64, 3)))
    for filters, depth in zip((64, 128, 256, 512), depths, strict=True):
        for unit in range(depth):
            stride = 2 if unit == 0 else 1
            y = _prelu(_bn(_conv(_bn(x), filters, 3)))
            y = _bn(_conv(y, filters, 3, stride))
            x = _bn(_conv(x, filters, 1, stride)) if stride == 2 else x
            x = layers.Add()([y, x])
    return x


def _depthwise(x: Any, stride: int = 1) -> Any:
    if stride == 2:
        x = layers.ZeroPadding2D(1)(x)
        return layers.DepthwiseConv2D(3, strides=2, use_bias=False)(x)
    return layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)


def _pairs(x: Any) -> Any:
    """3x3 convolution in groups of two channels, 128 results.

    `Conv2D(groups=64)` would take seconds an image in training, so depthwise parts and their sum.
    """
    parts = [
        layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False)(x[..., part::2])
        for part in range(2)
    ]
    return layers.Add()(parts)


def _mobilefacenet(x: Any) -> Any:
    x = _prelu(_bn(_conv(x, 128, 3, 2)))
    x = _prelu(_bn(_pairs(x)))
    stages = ((128, 128, 128, 4), (256, 256, 256, 6), (512, 256, 256, 2))
    for first, filters, expanded, count in stages:
        x = _bottleneck(x, first, filters, 2)
        for _ in range(count):
            x = layers.Add()([x, _bottleneck(x, expanded, filters, 1)])
    x = _prelu(_bn(_conv(x, 512, 1)))
    return _bn(layers.DepthwiseConv2D(x.shape[1], use_bias=False)(x))


def _bottleneck(x: Any, expanded: int, filters: int, stride: int) -> Any:
    y = _prelu(_bn(_conv(x, expanded, 1)))
    y = _prelu(_bn(_depthwise(y, stride)))
    return _bn(_conv(y, filters, 1))


def margin_layer(classes: int) -> keras.layers.Layer:
    """The predecessor's margin layer on `[embeddings, labels]`: scaled cosines, angle plus 0.5."""
    import tensorflow as tf

    class Margin(keras.layers.Layer):
        """ArcFace with its labels as an input and one-hot masks, margin 0.5, scale 64."""

        def build(self, shapes: Any) -> None:
            self.centres = self.add_weight(shape=(int(shapes[0][-1]), classes))

        def call(self, inputs: Any) -> Any:
            embeddings, labels = inputs
            rows = tf.nn.l2_normalize(embeddings, axis=1)
            cosines = tf.matmul(rows, tf.nn.l2_normalize(self.centres, axis=0))
            sines = tf.sqrt(tf.maximum(1.0 - cosines**2, 1e-12))
            cos, sin = 0.8775825618903728, 0.479425538604203  # of the margin
            moved = cosines * cos - sines * sin
            moved = tf.where(cosines > -cos, moved, cosines - 0.5 * sin)
            mask = tf.one_hot(labels, classes)
            return 64.0 * tf.where(mask == 1.0, moved, cosines)

    return Margin()
