"""Backbones by name. To add one, write its builder and add a line here."""

from collections.abc import Callable
from typing import Any

import keras

from iom.errors import ConfigError
from iom.lookup import lookup
from iom.models import iresnet

BACKBONES: dict[str, Callable[..., keras.Model]] = {
    "iresnet18": iresnet.iresnet18,
    "iresnet34": iresnet.iresnet34,
    "iresnet50": iresnet.iresnet50,
    "iresnet100": iresnet.iresnet100,
    "iresnet_slim": iresnet.iresnet_slim,
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
