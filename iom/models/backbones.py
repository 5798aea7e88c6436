"""Backbones by name. To add one, write its builder and add a line here."""

from collections.abc import Callable
from typing import Any

import keras

from iom.errors import ConfigError
from iom.lookup import lookup
from iom.models import applications, iresnet, mobilefacenet

BACKBONES: dict[str, Callable[..., keras.Model]] = {
    "iresnet18": iresnet.iresnet18,
    "iresnet34": iresnet.iresnet34,
    "iresnet50": iresnet.iresnet50,
    "iresnet100": iresnet.iresnet100,
    "iresnet_slim": iresnet.iresnet_slim,
    "mobilefacenet": mobilefacenet.mobilefacenet,
    "mobilefacenet_y1": mobilefacenet.mobilefacenet_y1,
    "resnet50": applications.resnet50,
    "resnet101": applications.resnet101,
    "mobilenet_v2": applications.mobilenet_v2,
    "inception_resnet_v2": applications.inception_resnet_v2,
    "xception": applications.xception,
    "vgg16": applications.vgg16,
    "vgg19": applications.vgg19,
}


def build_backbone(name: str, *, embedding_size: int = 512, **arguments: Any) -> keras.Model:
    """Build a backbone with random weights.

    Args:
        name: A key of `BACKBONES`.
        embedding_size: Dimensions of the embedding.
        **arguments: Further arguments of that builder.

    Returns:
        Functional model: raw RGB pixels 0..255 `(B, H, W, 3)` -> embedding `(B, embedding_size)`,
        not normalised. The scaling of pixels is part of the graph.

    Raises:
        ConfigError: Unknown name, or an argument the builder does not take.
    """
    builder = lookup(BACKBONES, name, "backbone")
    try:
        return builder(embedding_size=embedding_size, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"backbone {name}: {error}") from error
