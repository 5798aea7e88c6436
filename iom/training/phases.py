"""The network of one phase of stage 1: heads and losses over the backbone all phases share."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from iom.config.phases import HEAD
from iom.config.schema import Stage1Config
from iom.data.image_batches import TARGET, ImageBatches
from iom.errors import ConfigError
from iom.nn.layers.sampled_cosine import SLOT, SampledCosineLogits
from iom.training.classification_heads import build_heads
from iom.training.schedules import build_optimizer


@dataclasses.dataclass(frozen=True, eq=False)
class PhaseModel:
    """A compiled network.

    Attributes:
        model: Backbone with heads.
        heads: The layers that are not the backbone's.
        labelled: Outputs whose truth is the label.
        state: Variables of the losses, which are neither the model's nor the optimizer's.
        label_input: The network reads the labels beside the images.
    """

    model: keras.Model
    heads: tuple[keras.Layer, ...]
    labelled: tuple[str, ...]
    state: tuple[Any, ...] = ()
    label_input: bool = False


def build_phase(config: Stage1Config, backbone: keras.Model, batches: ImageBatches, *, train: str) -> PhaseModel:
    """Put heads on the backbone and compile.

    Args:
        config: Of the phase, with its own `training.epochs`.
        backbone: Shared by all phases.
        batches: For the number of subjects and of steps.
        train: `all`, or `head` to freeze the backbone; its batch norms then keep their statistics.
    """
    backbone.trainable = train != HEAD
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
    """Refuse what a later phase could not be built with, before the first one is trained.

    Raises:
        ConfigError: Unknown loss, optimizer or schedule, a warm-up longer than its phase.
    """
    for settings in phases:
        build_optimizer(settings.optimizer, epochs=settings.training.epochs, steps_per_epoch=1)
        build_heads(settings, keras.Input((settings.backbone.embedding_size,)), classes=2)


def carry_over(before: PhaseModel, after: PhaseModel) -> tuple[int, int]:
    """Give the heads of a phase, and its losses, what those of the phase before have learned.

    A variable goes over where layer, name and shape agree; what has no counterpart starts anew.

    Returns:
        How many variables were kept, and how many are new.
    """
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
