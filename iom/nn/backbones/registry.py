"""Backbones by name. To add one, write its builder and add a line here."""

import functools
from collections.abc import Callable
from typing import Any

import keras

from iom._registry import lookup
from iom.errors import ConfigError
from iom.nn.backbones import efficientnet_lite, ghostnet, iresnet, mnasnet, mobilefacenet
from iom.nn.backbones.applications import APPLICATIONS, application

BACKBONES: dict[str, Callable[..., keras.Model]] = {
    "iresnet18": iresnet.iresnet18,
    "iresnet34": iresnet.iresnet34,
    "iresnet50": iresnet.iresnet50,
    "iresnet100": iresnet.iresnet100,
    "iresnet_slim": iresnet.iresnet_slim,
    "mobilefacenet": mobilefacenet.mobilefacenet,
    "mobilefacenet_y1": mobilefacenet.mobilefacenet_y1,
    "ghostnet": ghostnet.ghostnet,
    **{
        f"efficientnet_lite{variant}": functools.partial(efficientnet_lite.efficientnet_lite, variant)
        for variant in efficientnet_lite.SCALES
    },
    **{f"mnasnet_{variant}": functools.partial(mnasnet.mnasnet, variant) for variant in mnasnet.VARIANTS},
    **{name: functools.partial(application, name) for name in APPLICATIONS},
}


def build_backbone(name: str, *, embedding_size: int = 512, untrained: bool = False, **arguments: Any) -> keras.Model:
    """Build a backbone with random weights, or from ImageNet where `arguments` ask for it.

    Args:
        name: A key of `BACKBONES`.
        embedding_size: Dimensions of the embedding.
        untrained: Leave `imagenet` out of `arguments`: the weights are about to be replaced.
        **arguments: Further arguments of that builder.

    Returns:
        Functional model: raw RGB pixels 0..255 `(B, H, W, 3)` -> embedding `(B, embedding_size)`,
        not normalised. The scaling of pixels is part of the graph.

    Raises:
        ConfigError: Unknown name, or an argument the builder does not take.
        WeightsError: ImageNet weights are asked for and cannot be had.
    """
    builder = lookup(BACKBONES, name, "backbone")
    if untrained:
        arguments.pop("imagenet", None)
    try:
        return builder(embedding_size=embedding_size, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"backbone {name}: {error}") from error
