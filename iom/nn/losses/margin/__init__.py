"""Losses on class labels with a margin, one table of them, each named after its paper."""

import dataclasses
from typing import Any

from pydantic import ValidationError, create_model

from iom._registry import lookup
from iom.config import MarginConfig, Section, explain
from iom.errors import ConfigError
from iom.nn.losses.margin.adaptive_margin import AdaFaceLoss, CurricularFaceLoss, MagFaceLoss
from iom.nn.losses.margin.base import SoftmaxCrossEntropy
from iom.nn.losses.margin.fixed_margin import (
    ArcFaceLoss,
    CombinedMarginLoss,
    CosFaceLoss,
    NormalisedSoftmaxLoss,
    SoftmaxLoss,
    SphereFaceLoss,
)

MARGIN_LOSSES: dict[str, type[SoftmaxCrossEntropy]] = {
    "softmax": SoftmaxLoss,
    "normalised_softmax": NormalisedSoftmaxLoss,
    "arcface": ArcFaceLoss,
    "cosface": CosFaceLoss,
    "sphereface": SphereFaceLoss,
    "combined": CombinedMarginLoss,
    "curricularface": CurricularFaceLoss,
    "magface": MagFaceLoss,
    "adaface": AdaFaceLoss,
}
"""Name to loss. Its settings are the fields of its class, with their ranges and defaults."""
_SHARED = {field.name for field in dataclasses.fields(SoftmaxCrossEntropy)} | {"classes"}


def build_margin_loss(config: MarginConfig, *, classes: int) -> SoftmaxCrossEntropy:
    """The loss of a configuration, with its settings."""
    kind = lookup(MARGIN_LOSSES, config.name, "margin loss")
    fields = {field.name: (field.type, field.default) for field in dataclasses.fields(kind)}
    own: dict[str, Any] = {name: field for name, field in fields.items() if name not in _SHARED}
    model = create_model(f"{kind.__name__}Settings", __base__=Section, **own)
    try:
        settings = model.model_validate(config.model_extra)
    except ValidationError as error:
        raise ConfigError(f"{explain(error, section='margin')[1]}; the loss is {config.name}") from error
    sizes: dict[str, Any] = {"classes": classes} if "classes" in fields else {}
    return kind(label_smoothing=config.label_smoothing, **sizes, **settings.model_dump())
