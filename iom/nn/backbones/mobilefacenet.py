"""MobileFaceNet (Chen et al., CCBR 2018, arXiv 1804.07573) in the two layouts that are in use."""

from collections.abc import Sequence

import keras
from keras import layers

from iom.errors import ConfigError
from iom.nn.backbones.embedding_heads import HeadStyle, finish

TORCH_EPSILON = 1e-5
MXNET_EPSILON = 1e-3
Y1_HEAD = HeadStyle(
    names={
        "conv": "conv_6dw7_7_conv2d", "conv_bn": "conv_6dw7_7_batchnorm", "flatten": "flatten",
        "fc": "pre_fc1", "features": "fc1",
    },
    epsilon=2e-5,
    map_epsilon=MXNET_EPSILON,
)  # fmt: skip
HEAD = HeadStyle(
    names={"conv": "global_conv", "conv_bn": "global_bn", "flatten": "flatten"},
    epsilon=TORCH_EPSILON,
    map_epsilon=TORCH_EPSILON,
    bias=False,
    scale=True,
)


def _prelu(name: str) -> layers.Layer:
    slope = keras.initializers.Constant(0.25)
    return layers.PReLU(alpha_initializer=slope, shared_axes=[1, 2], name=name)


def _y1_unit(
    x: keras.KerasTensor, name: str, *, filters: int = 0, window: int = 1, stride: int = 1, activation: bool = True
) -> keras.KerasTensor:
    """Convolution - BN (- PReLU). Without `filters` it is depthwise.

    Where a stride is not 1 the padding stands apart: Keras' 'same' then pads one side only.
    """
    padding = "same" if stride == 1 and window == 3 else "valid"
    if stride != 1:
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    settings = {"strides": stride, "padding": padding, "use_bias": False, "name": f"{name}_conv2d"}
    if filters:
        x = layers.Conv2D(filters, window, kernel_initializer="he_normal", **settings)(x)
    else:
        x = layers.DepthwiseConv2D(window, depthwise_initializer="he_normal", **settings)(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=MXNET_EPSILON, name=f"{name}_batchnorm")(x)
    return _prelu(f"{name}_relu")(x) if activation else x


def _y1_bottleneck(x: keras.KerasTensor, name: str, *, expanded: int, filters: int, stride: int) -> keras.KerasTensor:
    y = _y1_unit(x, f"{name}_conv_sep", filters=expanded)
    y = _y1_unit(y, f"{name}_conv_dw", window=3, stride=stride)
    return _y1_unit(y, f"{name}_conv_proj", filters=filters, activation=False)


def mobilefacenet_y1(
    *, embedding_size: int = 128, input_size: int = 112, dropout: float = 0.0, head: str = "GDC"
) -> keras.Model:
    """InsightFace's MXNet MobileFaceNet (`y1`): raw RGB 0..255 `(B, S, S, 3)` -> `(B, D)`.

    Layer names are those of its `model-symbol.json`.

    Args:
        embedding_size: Dimensions of the embedding, D.
        input_size: Side of the square image, S.
        dropout: Share dropped in the head in training.
        head: A key of `iom.nn.backbones.embedding_heads.HEADS`.
    """
    image = keras.Input((input_size, input_size, 3), name="image")
    x = layers.Rescaling(0.0078125, offset=-127.5 * 0.0078125, name="pixel_scaling")(image)
    x = _y1_unit(x, "conv_1", filters=64, window=3, stride=2)
    x = _y1_unit(x, "conv_2_dw", window=3)
    stages = ((3, "23", 128, 64, 4, 128), (4, "34", 256, 128, 6, 256), (5, "45", 512, 128, 2, 256))
    for stage, change, first, filters, blocks, expanded in stages:
        x = _y1_bottleneck(x, f"dconv_{change}", expanded=first, filters=filters, stride=2)
        for block in range(blocks):
            name = f"res_{stage}_block{block}"
            y = _y1_bottleneck(x, name, expanded=expanded, filters=filters, stride=1)
            x = layers.Add(name=f"{name}_add")([y, x])
    x = _y1_unit(x, "conv_6sep", filters=512)
    settings = {"kind": head, "embedding_size": embedding_size, "dropout": dropout}
    return finish(image, x, "mobilefacenet_y1", **settings, style=Y1_HEAD)


def _unit(
    x: keras.KerasTensor, name: str, *, filters: int = 0, window: int = 1, stride: int = 1, activation: bool = True
) -> keras.KerasTensor:
    """Convolution - BN (- PReLU). Without `filters` it is depthwise."""
    if window == 3 and stride != 1:  # 'same' pads a stride-2 convolution on one side only
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    padding = "same" if window == 3 and stride == 1 else "valid"
    settings = {"strides": stride, "padding": padding, "use_bias": False, "name": f"{name}_conv"}
    if filters:
        x = layers.Conv2D(filters, window, kernel_initializer="he_normal", **settings)(x)
    else:
        x = layers.DepthwiseConv2D(window, depthwise_initializer="he_normal", **settings)(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=TORCH_EPSILON, name=f"{name}_bn")(x)
    return _prelu(f"{name}_prelu")(x) if activation else x


def _grouped_unit(x: keras.KerasTensor, name: str, *, scale: int) -> keras.KerasTensor:
    """3x3 convolution in groups of `scale` channels - BN - PReLU.

    A grouped `Conv2D` trains 300 times slower on a CPU and cannot be exported. The same sum: part i
    is a depthwise convolution, with `scale` results each, of the i-th channel of every group.
    """
    padded = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    parts = [
        layers.DepthwiseConv2D(
            3, depth_multiplier=scale, use_bias=False, depthwise_initializer="he_normal", name=f"{name}_conv{part}"
        )(padded[..., part::scale] if scale > 1 else padded)
        for part in range(scale)
    ]
    x = layers.Add(name=f"{name}_sum")(parts) if scale > 1 else parts[0]
    x = layers.BatchNormalization(momentum=0.9, epsilon=TORCH_EPSILON, name=f"{name}_bn")(x)
    return _prelu(f"{name}_prelu")(x)


def _bottleneck(x: keras.KerasTensor, name: str, *, expanded: int, filters: int, stride: int) -> keras.KerasTensor:
    y = _unit(x, f"{name}_expand", filters=expanded)
    y = _unit(y, f"{name}_depthwise", window=3, stride=stride)
    return _unit(y, f"{name}_project", filters=filters, activation=False)


def _residuals(x: keras.KerasTensor, name: str, *, count: int, expanded: int) -> keras.KerasTensor:
    for block in range(1, count + 1):
        unit = f"{name}_{block}"
        y = _bottleneck(x, unit, expanded=expanded, filters=x.shape[-1], stride=1)
        x = layers.Add(name=f"{unit}_add")([x, y])
    return x


def mobilefacenet(
    *,
    embedding_size: int = 512,
    input_size: int = 112,
    blocks: Sequence[int] = (1, 4, 6, 2),
    scale: int = 2,
    dropout: float = 0.0,
    head: str = "GDC",
) -> keras.Model:
    """InsightFace's PyTorch MobileFaceNet (`mbf`): raw RGB 0..255 `(B, S, S, 3)` -> `(B, D)`.

    Args:
        embedding_size: Dimensions of the embedding, D.
        input_size: Side of the square image, S.
        blocks: Residual blocks at each resolution. 1 in the first place means a single grouped
            convolution there. The deep variant is (2, 8, 12, 4).
        scale: Width; also the channels of a group in the grouped convolution.
        dropout: Share dropped in the head in training.
        head: A key of `iom.nn.backbones.embedding_heads.HEADS`.

    Raises:
        ConfigError: `blocks` are not four positive numbers.
    """
    if len(blocks) != 4 or min(blocks) < 1:
        raise ConfigError(f"mobilefacenet: expected four blocks counts, received {blocks}")
    image = keras.Input((input_size, input_size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="pixel_scaling")(image)
    x = _unit(x, "stem", filters=64 * scale, window=3, stride=2)
    if blocks[0] == 1:
        x = _grouped_unit(x, "grouped", scale=scale)
    else:
        x = _residuals(x, "stage0", count=blocks[0], expanded=128)
    stages = ((128, 64 * scale, 128), (256, 128 * scale, 256), (512, 128 * scale, 256))
    for stage, (first, filters, expanded) in enumerate(stages, start=1):
        name = f"stage{stage}"
        x = _bottleneck(x, f"{name}_0", expanded=first, filters=filters, stride=2)
        x = _residuals(x, name, count=blocks[stage], expanded=expanded)
    x = _unit(x, "separate", filters=512)
    settings = {"kind": head, "embedding_size": embedding_size, "dropout": dropout}
    return finish(image, x, "mobilefacenet", **settings, style=HEAD)
