"""Heads of stage 1 on the embedding, with their losses, and the compiled network of each phase of the training."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from iom.config import MarginConfig, Stage1Config
from iom.data.image_batches import LABEL, TARGET, ImageBatches
from iom.errors import ConfigError
from iom.nn.layers.cosine import CentreDistances, CosineLogits, UnitLength
from iom.nn.layers.sampled_cosine import SLOT, SampledCosineLogits, sampled_classes
from iom.nn.losses.embedding_losses import CenterLoss, EmbeddingDistance, TripletLoss
from iom.nn.losses.margin import SampledLoss, SoftmaxCrossEntropy, build_margin_loss
from iom.training.optimizers import build_optimizer

CENTER, TRIPLET, LABELS = "center", "triplet", "labels"


@dataclasses.dataclass(frozen=True, eq=False)
class Heads:
    """Outputs on the embedding by name, their losses and weights.

    Attributes:
        state: Variables of the losses: neither the model's nor the optimizer's.
        labels: Input of the labels, of a head that draws classes.
        sampled: That head; it wants the compiled model.
    """

    outputs: dict[str, Any]
    losses: dict[str, keras.losses.Loss]
    weights: dict[str, float]
    state: Sequence[Any] = ()
    labels: Any = None
    sampled: SampledCosineLogits | None = None


def build_heads(config: Stage1Config, embedding: Any, *, classes: int) -> Heads:
    """Heads of one phase on an embedding `(B, D)`, not normalised, of `classes` training subjects."""
    outputs: dict[str, Any] = {}
    losses: dict[str, keras.losses.Loss] = {}
    state: Sequence[Any] = ()
    labels = sampled = None
    if config.margin.weight > 0 and config.margin.sample < 1:
        labels = keras.Input((), dtype="int32", name=LABELS)
        sampled, losses[LABEL] = _sampled(config, classes)
        state = losses[LABEL].state
        outputs[LABEL] = sampled([embedding, labels])
    elif config.margin.weight > 0:
        loss = build_margin_loss(config.margin, classes=classes)
        losses[LABEL], state = loss, loss.state
        outputs[LABEL] = _logits(config.margin, loss, classes)(embedding)
    if config.center.weight > 0:
        losses[CENTER] = CenterLoss()
        outputs[CENTER] = CentreDistances(classes, name=CENTER)(embedding)
    if config.triplet.weight > 0:
        settings = config.triplet
        losses[TRIPLET] = TripletLoss(margin=settings.margin, mining=settings.mining, distance=settings.distance)
        outputs[TRIPLET] = UnitLength(name=TRIPLET)(embedding)
    if config.distillation.teacher:
        losses[TARGET] = EmbeddingDistance()
        outputs[TARGET] = UnitLength(name=TARGET)(embedding)
    weight_of = {
        LABEL: config.margin.weight,
        CENTER: config.center.weight,
        TRIPLET: config.triplet.weight,
        TARGET: config.distillation.weight,
    }
    weights = {name: weight_of[name] for name in outputs}
    return Heads(outputs, losses, weights, state, labels, sampled)


def _logits(config: MarginConfig, loss: SoftmaxCrossEntropy, classes: int) -> keras.layers.Layer:
    if not loss.needs_cosines:
        if config.sub_centers > 1:
            raise ConfigError(f"margin.sub_centers: {config.name} compares no centres")
        return keras.layers.Dense(classes, name=LABEL, dtype="float32")
    return CosineLogits(classes, sub_centers=config.sub_centers, with_norm=loss.needs_norm, name=LABEL)


def _sampled(config: Stage1Config, classes: int) -> tuple[SampledCosineLogits, SampledLoss]:
    """The head that compares with a part of the subjects only."""
    margin, optimizer = config.margin, config.optimizer
    loss = build_margin_loss(margin, classes=sampled_classes(classes, margin.sample))
    if not loss.needs_cosines:
        raise ConfigError(f"margin.sample: expected 1 with {margin.name}, received {margin.sample}")
    if config.training.accumulate > 1:
        raise ConfigError(
            "training.accumulate: expected 1 with margin.sample below 1 (each batch has classes "
            f"of its own), received {config.training.accumulate}"
        )
    slots = 2 if optimizer.name != "sgd" else int(optimizer.momentum > 0)
    layer = SampledCosineLogits(
        classes, margin.sample, slots=slots, seed=config.seed, with_norm=loss.needs_norm, name=LABEL
    )
    return layer, SampledLoss(loss)


@dataclasses.dataclass(frozen=True, eq=False)
class PhaseModel:
    """A compiled network of backbone and heads; `state` are the variables of the losses, `heads` layers of its own.

    `labelled` are the outputs whose truth is the label; with `label_input` the network also reads the labels.
    """

    model: keras.Model
    heads: tuple[keras.Layer, ...]
    labelled: tuple[str, ...]
    state: tuple[Any, ...] = ()
    label_input: bool = False


def build_phase(config: Stage1Config, backbone: keras.Model, batches: ImageBatches, *, train: str) -> PhaseModel:
    """The compiled network of a phase: heads on the backbone, which all phases share.

    `train` is `all`, or `head` to freeze the backbone; its batch norms then keep their statistics.
    """
    backbone.trainable = train != "head"
    heads = build_heads(config, backbone.output, classes=len(batches.folder.subjects))
    inputs = backbone.input if heads.labels is None else [backbone.input, heads.labels]
    model = keras.Model(inputs, heads.outputs, name="stage1")
    model.compile(
        optimizer=build_optimizer(
            config.optimizer,
            epochs=config.training.epochs,
            steps_per_epoch=batches.steps,
            accumulate=config.training.accumulate,
        ),
        loss=heads.losses,
        loss_weights=heads.weights,
        jit_compile=False,
    )
    if heads.sampled is not None:
        _attach(heads.sampled, model, config)
    known = {id(layer) for layer in backbone.layers}
    return PhaseModel(
        model,
        heads=tuple(layer for layer in model.layers if id(layer) not in known),
        labelled=tuple(name for name in heads.outputs if name != TARGET),
        state=tuple(heads.state),
        label_input=heads.labels is not None,
    )


def _attach(head: SampledCosineLogits, model: keras.Model, config: Stage1Config) -> None:
    if config.training.batch_size > head.sampled:
        raise ConfigError(
            f"margin.sample: expected a share with room for the {config.training.batch_size} "
            f"subjects of a batch, received {config.margin.sample} of {head.classes:,} subjects, "
            f"{head.sampled:,}; raise it"
        )
    head.attach(model)


def check_phases(phases: Sequence[Stage1Config]) -> None:
    """Refuse settings that a later phase cannot be built with, before the first one is trained."""
    for settings in phases:
        build_optimizer(settings.optimizer, epochs=settings.training.epochs, steps_per_epoch=1)
        build_heads(settings, keras.Input((settings.backbone.embedding_size,)), classes=2)


def carry_over(before: PhaseModel, after: PhaseModel) -> tuple[int, int]:
    """Copy the variables of heads and losses to the next phase where layer, name and shape agree; (kept, new)."""
    known = {**_by_place(before.heads), **{("state", variable.name): variable for variable in before.state}}
    wanted = {**_by_place(after.heads), **{("state", variable.name): variable for variable in after.state}}
    kept = 0
    for place, variable in wanted.items():
        source = known.get(place)
        if source is not None and tuple(source.shape) == tuple(variable.shape):
            variable.assign(source)
            kept += 1
    return kept, len(wanted) - kept


def _by_place(layers: Sequence[keras.Layer]) -> dict[tuple[str, str], Any]:
    return {
        (layer.name, variable.path.rsplit("/", 1)[-1]): variable
        for layer in layers
        for variable in layer.weights
        if not variable.name.startswith(SLOT)  # an optimizer's: it starts anew with each phase
    }
