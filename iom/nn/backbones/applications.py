"""Networks of `keras.applications`, from one table, with an embedding head.

Raw pixels are scaled inside the graph as the ImageNet weights want it, with or without these weights. Two things differ
from Keras' graphs, in results by rounding only: grouped convolutions of ConvNeXt are depthwise ones (300 times faster
in training on a CPU, and exportable), and built-in scalings become the layer `pixel_scaling`.
"""

import inspect
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

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


class KerasApplication(NamedTuple):
    """A network of `keras.applications`: builder, scaling that its weights want, smallest image side."""

    builder: str
    scaling: Scaling
    smallest: int = 32


APPLICATIONS: dict[str, KerasApplication] = {
    "mobilenet": KerasApplication("MobileNet", SYMMETRIC),
    "mobilenet_v2": KerasApplication("MobileNetV2", SYMMETRIC),
    **{
        f"mobilenet_v3_{size}": KerasApplication(f"MobileNetV3{size.title()}", SYMMETRIC) for size in ("small", "large")
    },
    **{f"nasnet_{size}": KerasApplication(f"NASNet{size.title()}", SYMMETRIC) for size in ("mobile", "large")},
    "inception_v3": KerasApplication("InceptionV3", SYMMETRIC, smallest=75),
    "inception_resnet_v2": KerasApplication("InceptionResNetV2", SYMMETRIC, smallest=75),
    "xception": KerasApplication("Xception", SYMMETRIC, smallest=71),
    **{f"resnet{depth}": KerasApplication(f"ResNet{depth}", CAFFE) for depth in (50, 101, 152)},
    **{f"resnet{depth}_v2": KerasApplication(f"ResNet{depth}V2", SYMMETRIC) for depth in (50, 101, 152)},
    **{f"densenet{depth}": KerasApplication(f"DenseNet{depth}", STANDARD) for depth in (121, 169, 201)},
    **{f"vgg{depth}": KerasApplication(f"VGG{depth}", CAFFE) for depth in (16, 19)},
    **{f"efficientnet_b{n}": KerasApplication(f"EfficientNetB{n}", STANDARD) for n in range(8)},
    **{f"efficientnet_v2_b{n}": KerasApplication(f"EfficientNetV2B{n}", STANDARD) for n in range(4)},
    **{f"efficientnet_v2_{size}": KerasApplication(f"EfficientNetV2{size.upper()}", POWER_OF_TWO) for size in "sml"},
    **{
        f"convnext_{size.lower()}": KerasApplication(f"ConvNeXt{size}", STANDARD)
        for size in ("Tiny", "Small", "Base", "Large", "XLarge")
    },
}


def application(x: Any, *, network: str, imagenet: bool | str = False) -> Any:
    """Feature map of scaled pixels by a key of `APPLICATIONS`; `imagenet` takes Keras' weights or a file of them."""
    entry = APPLICATIONS[network]
    if x.shape[1] < entry.smallest:
        raise ConfigError(f"{network}: expected input_size >= {entry.smallest}, received {x.shape[1]}")
    body = _build(entry, input_tensor=x)
    if any(_replaced(layer) for layer in body.layers):
        body = keras.models.clone_model(body, input_tensors=body.input, clone_function=_replacement)
    if imagenet:
        _copy_weights(imagenet_model(entry, imagenet), body)
    return body.output


def imagenet_model(entry: KerasApplication, imagenet: bool | str) -> keras.Model:
    """The network as Keras builds it, without a classifier, with its ImageNet weights; never with random ones."""
    if not isinstance(imagenet, bool):
        return _from_file(entry, Path(imagenet).expanduser())
    try:
        with warnings.catch_warnings():
            # "weights for input shape (224, 224) will be loaded": without a classifier, all fit.
            warnings.simplefilter("ignore")
            return _build(entry, weights="imagenet")
    # A plain Exception that names the file where the download fails, others where the file is damaged.
    except Exception as error:
        folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"
        raise WeightsError(
            f"ImageNet weights of {entry.builder}: {' '.join(str(error).split())}. Put the file into {folder}, or name "
            "it: imagenet: path/to/file"
        ) from error


def _from_file(entry: KerasApplication, path: Path) -> keras.Model:
    expected = f"expected Keras' weights of {entry.builder} without a classifier"
    if not path.is_file():
        raise WeightsError(f"imagenet: {expected}, there is none at {path}")
    model = _build(entry)
    try:
        model.load_weights(path)
    # h5py and Keras raise several kinds for weights of another shape or a damaged file.
    except Exception as error:
        raise WeightsError(f"imagenet: {path} does not fit; {expected}: {' '.join(str(error).split())}") from error
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


def _build(entry: KerasApplication, **settings: Any) -> keras.Model:
    builder = getattr(applications, entry.builder)
    if "include_preprocessing" in inspect.signature(builder).parameters:
        settings["include_preprocessing"] = False
    return builder(include_top=False, **{"weights": None, **settings})


def _replaced(layer: keras.Layer) -> str:
    """Name of a kind of layer that is not taken over as Keras builds it, or empty."""
    if isinstance(layer, layers.Rescaling | layers.Normalization) and layer.name != SCALING:
        return "scaling"
    return "grouped" if type(layer) is layers.Conv2D and layer.groups > 1 else ""


def _replacement(layer: keras.Layer) -> keras.Layer:
    """Copy of a layer; depthwise for a grouped convolution, nothing for a built-in scaling."""
    if not (kind := _replaced(layer)):
        return type(layer).from_config(layer.get_config())
    if kind == "scaling":
        return layers.Activation("linear", name=layer.name)
    return layers.DepthwiseConv2D(
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        use_bias=layer.use_bias,
        depthwise_initializer=layer.get_config()["kernel_initializer"],
        dtype=layer.dtype_policy,
        name=layer.name,
    )
