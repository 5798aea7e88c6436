"""Losses on class labels with a margin, one table of them, each named after its paper."""

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError, create_model

from iom._registry import lookup
from iom.config import MarginConfig, Section, explain
from iom.errors import ConfigError
from iom.nn.losses.margin.adaptive_margin import AdaFaceLoss, MagFaceLoss
from iom.nn.losses.margin.base import SoftmaxCrossEntropy
from iom.nn.losses.margin.curricularface import CurricularFaceLoss
from iom.nn.losses.margin.fixed_margin import (
    ArcFaceLoss,
    CombinedMarginLoss,
    CosFaceLoss,
    NormalisedSoftmaxLoss,
    SoftmaxLoss,
    SphereFaceLoss,
)

MARGIN_LOSSES: dict[str, Callable[..., SoftmaxCrossEntropy]] = {
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
"""Name to loss. Its settings are the arguments of its class, with their ranges and defaults."""


def build_margin_loss(config: MarginConfig, *, classes: int) -> SoftmaxCrossEntropy:
    """The loss of a configuration, with its settings."""
    kind = lookup(MARGIN_LOSSES, config.name, "margin loss")
    parameters = inspect.signature(kind).parameters
    fields: dict[str, Any] = {
        name: (parameter.annotation, parameter.default)
        for name, parameter in parameters.items()
        if parameter.annotation is not inspect.Parameter.empty
    }
    model = create_model(f"{kind.__name__}Settings", __base__=Section, **fields)
    try:
        settings = model.model_validate(config.model_extra)
    except ValidationError as error:
        raise ConfigError(f"{explain(error, section='margin')[1]}; the loss is {config.name}") from error
    sizes = {"classes": classes} if "classes" in parameters else {}
    return kind(label_smoothing=config.label_smoothing, **sizes, **settings.model_dump())
