"""Backbones by name. To add one, write its feature map and add a line here."""

from typing import Any

import keras

from iom._registry import lookup
from iom.errors import ConfigError
from iom.nn.backbones import inverted_residual, iresnet, mobilefacenet
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
