"""Backbones by name, and their cost. To add one, write its feature map and add a line here."""

import dataclasses
import math
from typing import Any

import keras
from keras import layers

from iom._registry import lookup
from iom.errors import ConfigError
from iom.nn.backbones import dlib_resnet, inverted_residual, iresnet, mobilefacenet
from iom.nn.backbones.applications import APPLICATIONS, application
from iom.nn.backbones.blocks import Backbone, add_head, scale_pixels
from iom.nn.backbones.ghostnet import ghostnet

BACKBONES: dict[str, Backbone] = {
    **{
        f"iresnet{depth}": Backbone(iresnet.iresnet, {"depth": depth}, "E", style=iresnet.HEAD)
        for depth in iresnet.DEPTHS
    },
    "iresnet_slim": Backbone(iresnet.iresnet_slim, head="E", style=iresnet.HEAD),
    "mobilefacenet": Backbone(mobilefacenet.mobilefacenet, style=mobilefacenet.HEAD),
    "mobilefacenet_y1": Backbone(
        mobilefacenet.mobilefacenet_y1, scaling=mobilefacenet.Y1_SCALING, style=mobilefacenet.Y1_HEAD
    ),
    "dlib_resnet": Backbone(dlib_resnet.dlib_resnet, head="GAP", scaling=dlib_resnet.SCALING, style=dlib_resnet.HEAD),
    "ghostnet": Backbone(ghostnet),
    **{
        f"efficientnet_lite{variant}": Backbone(inverted_residual.efficientnet_lite, {"variant": variant})
        for variant in inverted_residual.LITE_SCALES
    },
    **{
        f"mnasnet_{variant}": Backbone(inverted_residual.mnasnet, {"variant": variant})
        for variant in inverted_residual.MNASNETS
    },
    **{name: Backbone(application, {"network": name}, "E", entry.scaling) for name, entry in APPLICATIONS.items()},
}
_COUNTED = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)


def build_backbone(
    name: str,
    *,
    embedding_size: int = 512,
    input_size: int = 112,
    dropout: float = 0.0,
    head: str = "",
    untrained: bool = False,
    **arguments: Any,
) -> keras.Model:
    """Build a backbone with random weights, or from ImageNet where `arguments` ask for it.

    Args:
        name: A key of `BACKBONES`.
        embedding_size: Dimensions of the embedding, D.
        input_size: Side of the square image, S.
        dropout: Share dropped in the head in training.
        head: A key of `iom.nn.backbones.blocks.HEADS`; empty takes the network's own.
        untrained: Leave `imagenet` out of `arguments`: the weights are about to be replaced.
        **arguments: Settings of that network.

    Returns:
        Functional model: raw RGB pixels 0..255 `(B, S, S, 3)` -> embedding `(B, D)`, not normalised. The scaling of
        pixels is part of the graph.

    Raises:
        ConfigError: Unknown name or head, or a setting that the network does not have.
        WeightsError: ImageNet weights are asked for and cannot be had.
    """
    backbone = lookup(BACKBONES, name, "backbone")
    if untrained:
        arguments.pop("imagenet", None)
    image = keras.Input((input_size, input_size, 3), name="image")
    try:
        features = backbone.features(scale_pixels(image, backbone.scaling), **backbone.fixed, **arguments)
        kind = head or backbone.head
        embedding = add_head(features, kind=kind, embedding_size=embedding_size, dropout=dropout, style=backbone.style)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"backbone {name}: {error}") from error
    return keras.Model(image, embedding, name=name)


@dataclasses.dataclass(frozen=True)
class Complexity:
    """Cost of a network for one image; `parameters` include running statistics.

    `narrow`: the width of a convolution is no multiple of 16; TensorFlow 2.21 may corrupt the heap when it is trained
    on a CPU with AVX-512, unless `TF_ENABLE_ONEDNN_OPTS=0` is set.
    """

    parameters: int
    trainable_parameters: int
    multiply_adds: int
    narrow: bool


def measure(model: keras.Model) -> Complexity:
    """Count multiply-adds of convolutions and dense layers, as papers do; nothing is computed.

    A multiplication with its addition is one ("FLOPs" of others are twice that); other layers are left out.
    """
    flat = model._flatten_layers(include_self=False)
    return Complexity(
        parameters=model.count_params(),
        trainable_parameters=sum(math.prod(weight.shape) for weight in model.trainable_weights),
        multiply_adds=sum(multiply_adds(layer) for layer in flat),
        narrow=any(isinstance(layer, layers.Conv2D) and layer.filters % iresnet.LANES for layer in flat),
    )


def multiply_adds(layer: Any) -> int:
    """Multiply-adds of one layer for one image: each number of a kernel is used once at each place."""
    if not isinstance(layer, _COUNTED):
        return 0
    kernels = [weight.shape for weight in layer.weights if weight.name.endswith("kernel")]
    return math.prod(layer.output.shape[1:-1]) * sum(math.prod(shape) for shape in kernels)
