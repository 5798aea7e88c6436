"""Networks of `keras.applications`, from one table, with an embedding head.

Raw pixels are scaled inside the graph as the ImageNet weights want it, with or without these weights. Two things differ
from Keras' graphs, in results by rounding only: grouped convolutions of ConvNeXt are depthwise ones (300 times faster
in training on a CPU, and exportable), and built-in scalings become the layer `pixel_scaling`.
"""

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import applications, layers

from iom.errors import ConfigError, WeightsError
from iom.nn.backbones.blocks import SCALING, SYMMETRIC, Scaling

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's pixels in 0..1, RGB."""
POWER_OF_TWO = Scaling(1 / 128.0, -1.0)
CAFFE = Scaling(1.0, (-123.68, -116.779, -103.939), bgr=True)
STANDARD = Scaling(
    tuple(1 / (255 * deviation) for deviation in DEVIATION),
    tuple(-mean / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)),
)


@dataclasses.dataclass(frozen=True)
class Application:
    """A network of `keras.applications`: builder, scaling and file name of its weights, smallest image side.

    `plain`: Keras can build it without a scaling. `altered`: a scaling or grouped convolution must be replaced.
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
        "MobileNetV2", SYMMETRIC, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    ),
    "mobilenet_v3_small": Application(
        "MobileNetV3Small", SYMMETRIC, "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5", plain=False
    ),
    "mobilenet_v3_large": Application(
        "MobileNetV3Large", SYMMETRIC, "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5", plain=False
    ),
    "nasnet_mobile": Application("NASNetMobile", SYMMETRIC, "nasnet_mobile_no_top.h5"),
    "nasnet_large": Application("NASNetLarge", SYMMETRIC, "nasnet_large_no_top.h5"),
    **_family({"resnet50": "ResNet50", "resnet101": "ResNet101", "resnet152": "ResNet152"}, CAFFE, KERNELS),
    **_family(
        {"resnet50_v2": "ResNet50V2", "resnet101_v2": "ResNet101V2", "resnet152_v2": "ResNet152V2"}, SYMMETRIC, KERNELS
    ),
    "inception_v3": Application("InceptionV3", SYMMETRIC, KERNELS.format("inception_v3"), smallest=75),
    "inception_resnet_v2": Application(
        "InceptionResNetV2", SYMMETRIC, KERNELS.format("inception_resnet_v2"), smallest=75
    ),
    "xception": Application("Xception", SYMMETRIC, KERNELS.format("xception"), smallest=71),
    **_family(
        {"densenet121": "DenseNet121", "densenet169": "DenseNet169", "densenet201": "DenseNet201"}, STANDARD, KERNELS
    ),
    **_family({"vgg16": "VGG16", "vgg19": "VGG19"}, CAFFE, KERNELS),
    **_family({f"efficientnet_b{n}": f"EfficientNetB{n}" for n in range(8)}, STANDARD, "{}_notop.h5", altered=True),
    **{
        f"efficientnet_v2_{variant}": Application(
            f"EfficientNetV2{variant.upper()}",
            STANDARD if variant.startswith("b") else POWER_OF_TWO,
            f"efficientnetv2-{variant}_notop.h5",
            plain=False,
        )
        for variant in ("b0", "b1", "b2", "b3", "s", "m", "l")
    },
    **{
        f"convnext_{variant.lower()}": Application(
            f"ConvNeXt{variant}", STANDARD, f"convnext_{variant.lower()}_notop.h5", plain=False, altered=True
        )
        for variant in ("Tiny", "Small", "Base", "Large", "XLarge")
    },
}


def application(x: Any, *, network: str, imagenet: bool | str = False) -> Any:
    """Feature map of scaled pixels by a key of `APPLICATIONS`; `imagenet` takes Keras' weights or a file of them."""
    entry = APPLICATIONS[network]
    if x.shape[1] < entry.smallest:
        raise ConfigError(f"{network}: expected input_size >= {entry.smallest}, received {x.shape[1]}")
    body = _build(entry, input_tensor=x)
    if entry.altered:
        body = keras.models.clone_model(body, input_tensors=body.input, clone_function=_replacement)
    if imagenet:
        _copy_weights(imagenet_model(entry, imagenet), body)
    return body.output


def imagenet_model(entry: Application, imagenet: bool | str) -> keras.Model:
    """The network as Keras builds it, without a classifier, with its ImageNet weights; never with random ones."""
    if not isinstance(imagenet, bool):
        return _from_file(entry, Path(imagenet).expanduser())
    try:
        with warnings.catch_warnings():
            # "weights for input shape (224, 224) will be loaded": without a classifier, all fit.
            warnings.simplefilter("ignore")
            return _build(entry, weights="imagenet")
    # A plain Exception where the download fails, others where the file is damaged.
    except Exception as error:
        folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"
        raise WeightsError(
            f"ImageNet weights {entry.weights}: {' '.join(str(error).split())}. Put the file into "
            f"{folder}, or name it: imagenet: path/to/{entry.weights}"
        ) from error


def _from_file(entry: Application, path: Path) -> keras.Model:
    if not path.is_file():
        raise WeightsError(f"imagenet: expected a file such as {entry.weights}, there is none at {path}")
    model = _build(entry)
    try:
        model.load_weights(path)
    # h5py and Keras raise several kinds for weights of another shape or a damaged file.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"imagenet: {path} does not fit; expected the layout of Keras' {entry.weights}: {reason}"
        ) from error
    return model


def _copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy all weights but those of a built-in scaling; `target` may have depthwise for grouped convolutions."""
    givers = [layer for layer in source.layers if layer.weights and not isinstance(layer, layers.Normalization)]
    takers = [layer for layer in target.layers if layer.weights]
    for giver, taker in zip(givers, takers, strict=True):
        values = giver.get_weights()
        if isinstance(taker, layers.DepthwiseConv2D) and not isinstance(giver, layers.DepthwiseConv2D):
            # (k, k, 1, C) of a grouped convolution -> (k, k, C, 1)
            values = [np.swapaxes(value, 2, 3) if value.ndim == 4 else value for value in values]
        taker.set_weights(values)


def _build(entry: Application, **settings: Any) -> keras.Model:
    own = {} if entry.plain else {"include_preprocessing": False}
    return getattr(applications, entry.builder)(include_top=False, **{"weights": None, **own, **settings})


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
