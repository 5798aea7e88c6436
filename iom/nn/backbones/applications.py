"""Networks of `keras.applications`, from one table, with an embedding head.

Every network scales raw pixels inside its graph as its ImageNet weights want it, whether it starts
from them or from random weights: one architecture, one graph. Two things differ from Keras'
graphs, in results by rounding only: ConvNeXt's grouped convolutions are depthwise ones (300 times
faster in training on a CPU, and they can be exported), and the scaling built into some networks is
replaced by the layer `pixel_scaling`.
"""

import dataclasses
from typing import Any

import keras
from keras import applications, layers

from iom._registry import lookup
from iom.errors import ConfigError
from iom.nn.backbones.embedding_heads import add_head
from iom.nn.backbones.imagenet import copy_weights, imagenet_model

SCALING = "pixel_scaling"


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Raw RGB 0..255 -> `pixels * scale + offset`, by channel, then perhaps in order BGR."""

    scale: float | tuple[float, ...]
    offset: float | tuple[float, ...]
    bgr: bool = False


MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in 0..1, RGB."""
SYMMETRIC = Scaling(1 / 127.5, -1.0)
POWER_OF_TWO = Scaling(1 / 128.0, -1.0)
CAFFE = Scaling(1.0, (-123.68, -116.779, -103.939), bgr=True)
STANDARD = Scaling(
    tuple(1 / (255 * deviation) for deviation in DEVIATION),
    tuple(-mean / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)),
)


@dataclasses.dataclass(frozen=True)
class Application:
    """A network of `keras.applications`.

    Attributes:
        builder: Its name there.
        scaling: What its weights want.
        weights: Name of the file with its ImageNet weights, without the classifier.
        smallest: Smallest side of an image.
        plain: Whether Keras builds it without a scaling of its own.
        altered: Whether layers must be replaced: a scaling that cannot be left out, or a grouped
            convolution.
    """

    builder: str
    scaling: Scaling
    weights: str
    smallest: int = 32
    plain: bool = True
    altered: bool = False


def _family(names: dict[str, str], scaling: Scaling, weights: str, **settings: Any) -> dict[str, Application]:
    """Rows of one family; `{}` in `weights` is the name of the network in its file's name."""
    return {
        name: Application(builder, scaling, weights.format(builder.lower()), **settings)
        for name, builder in names.items()
    }


KERNELS = "{}_weights_tf_dim_ordering_tf_kernels_notop.h5"
APPLICATIONS: dict[str, Application] = {
    "mobilenet": Application("MobileNet", SYMMETRIC, "mobilenet_1_0_224_tf_no_top.h5"),
    "mobilenet_v2": Application(
        "MobileNetV2", SYMMETRIC,
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    ),
    "mobilenet_v3_small": Application(
        "MobileNetV3Small", SYMMETRIC, "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        plain=False,
    ),
    "mobilenet_v3_large": Application(
        "MobileNetV3Large", SYMMETRIC, "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        plain=False,
    ),
    "nasnet_mobile": Application("NASNetMobile", SYMMETRIC, "nasnet_mobile_no_top.h5"),
    "nasnet_large": Application("NASNetLarge", SYMMETRIC, "nasnet_large_no_top.h5"),
    **_family(
        {"resnet50": "ResNet50", "resnet101": "ResNet101", "resnet152": "ResNet152"},
        CAFFE, KERNELS,
    ),
    **_family(
        {
            "resnet50_v2": "ResNet50V2", "resnet101_v2": "ResNet101V2",
            "resnet152_v2": "ResNet152V2",
        },
        SYMMETRIC, KERNELS,
    ),
    "inception_v3": Application(
        "InceptionV3", SYMMETRIC, KERNELS.format("inception_v3"), smallest=75
    ),
    "inception_resnet_v2": Application(
        "InceptionResNetV2", SYMMETRIC, KERNELS.format("inception_resnet_v2"), smallest=75
    ),
    "xception": Application("Xception", SYMMETRIC, KERNELS.format("xception"), smallest=71),
    **_family(
        {
            "densenet121": "DenseNet121", "densenet169": "DenseNet169",
            "densenet201": "DenseNet201",
        },
        STANDARD, KERNELS,
    ),
    **_family({"vgg16": "VGG16", "vgg19": "VGG19"}, CAFFE, KERNELS),
    **_family(
        {f"efficientnet_b{n}": f"EfficientNetB{n}" for n in range(8)},
        STANDARD, "{}_notop.h5", altered=True,
    ),
    **{
        f"efficientnet_v2_{variant}": Application(
            f"EfficientNetV2{variant.upper()}",
            STANDARD if variant.startswith("b") else POWER_OF_TWO,
            f"efficientnetv2-{variant}_notop.h5", plain=False,
        )
        for variant in ("b0", "b1", "b2", "b3", "s", "m", "l")
    },
    **{
        f"convnext_{variant.lower()}": Application(
            f"ConvNeXt{variant}", STANDARD, f"convnext_{variant.lower()}_notop.h5",
            plain=False, altered=True,
        )
        for variant in ("Tiny", "Small", "Base", "Large", "XLarge")
    },
}  # fmt: skip


def application(
    name: str,
    *,
    embedding_size: int = 512,
    input_size: int = 112,
    dropout: float = 0.0,
    head: str = "E",
    imagenet: bool | str = False,
) -> keras.Model:
    """A network by its name: raw RGB 0..255 `(B, S, S, 3)` -> embedding `(B, D)`.

    Args:
        name: A key of `APPLICATIONS`.
        embedding_size: Dimensions of the embedding, D.
        input_size: Side of the square image, S.
        dropout: Share dropped in the head in training.
        head: A key of `iom.nn.backbones.embedding_heads.HEADS`.
        imagenet: True: all but the head starts from Keras' ImageNet weights. A path: from that
            file of them.

    Raises:
        ConfigError: No such network or head, or too small an image.
        WeightsError: The ImageNet weights cannot be had, or do not fit.
    """
    entry = lookup(APPLICATIONS, name, "backbone")
    if input_size < entry.smallest:
        raise ConfigError(f"{name}: expected input_size >= {entry.smallest}, received {input_size}")
    image = keras.Input((input_size, input_size, 3), name="image")
    body = _build(entry, input_tensor=scale_pixels(image, entry.scaling))
    if entry.altered:
        body = keras.models.clone_model(body, clone_function=_replacement)
    if imagenet:
        copy_weights(imagenet_model(_plain_builder(entry), entry.weights, imagenet), body)
    embedding = add_head(body.output, kind=head, embedding_size=embedding_size, dropout=dropout)
    # Not `body.input`, a list for some of them: the model would then ask for a list.
    return keras.Model(body.inputs[0], embedding, name=name)


def scale_pixels(image: Any, scaling: Scaling) -> Any:
    """Pixels as a network wants them."""
    offset = list(scaling.offset) if isinstance(scaling.offset, tuple) else scaling.offset
    scale = list(scaling.scale) if isinstance(scaling.scale, tuple) else scaling.scale
    x = layers.Rescaling(scale, offset=offset, name=SCALING)(image)
    return x[..., ::-1] if scaling.bgr else x


def _build(entry: Application, **settings: Any) -> keras.Model:
    own = {} if entry.plain else {"include_preprocessing": False}
    return getattr(applications, entry.builder)(include_top=False, **{"weights": None, **own, **settings})


def _plain_builder(entry: Application) -> Any:
    return lambda weights: _build(entry, weights=weights)


def _replacement(layer: keras.Layer) -> keras.Layer:
    """Copy of a layer; depthwise for a grouped convolution, nothing for a built-in scaling."""
    if isinstance(layer, layers.Rescaling | layers.Normalization) and layer.name != SCALING:
        return layers.Activation("linear", name=layer.name)
    if type(layer) is not layers.Conv2D or layer.groups == 1:
        return type(layer).from_config(layer.get_config())
    settings = layer.get_config()
    return layers.DepthwiseConv2D(
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        use_bias=layer.use_bias,
        depthwise_initializer=settings["kernel_initializer"],
        dtype=layer.dtype_policy,
        name=layer.name,
    )
