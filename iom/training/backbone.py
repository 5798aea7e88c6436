"""Stage 1: from images to embeddings. ArcFace on a folder of subjects, a teacher optional."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from iom._random import numpy_stream, seed_everything
from iom.config.phases import ALL
from iom.config.schema import Stage1Config
from iom.config.sections import BackboneConfig
from iom.data.folders import FaceFolder, hold_out, scan_folder
from iom.data.image_batches import ImageBatches
from iom.errors import ConfigError
from iom.models.archive import save_model
from iom.models.embedder import load_embedder
from iom.nn.backbones.registry import build_backbone
from iom.photos.images import check_images
from iom.pretrained.manifest import load_backbone_model
from iom.training.distribution import Distribution
from iom.training.loop import run_epochs
from iom.training.phases import PhaseModel, build_phase, carry_over, check_phases
from iom.training.run_dir import RunDir
from iom.training.teacher import teacher_targets
from iom.training.tensorboard import check_tensorboard, tensorboard_writer
from iom.training.verification import load_benchmarks, verification

TEACHER_CACHE = Path(".cache/teacher")
SCALING = "pixel_scaling"


def train_stage1(
    config: Stage1Config,
    output: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train a backbone.

    Args:
        config: What to train, on what.
        output: The run's folder.
        resume: Continue the run in `output` exactly where it was saved.
        progress: Show progress bars.
        report: Takes a line of text now and then.

    Returns:
        The best backbone, `output/best.keras`, by equal error rate on the held-out subjects.

    Raises:
        ConfigError, DataError, WeightsError, CheckpointError: As their texts say.
    """
    if config.training.tensorboard:
        check_tensorboard()
    distribution = Distribution(config.distribution)
    seed_everything(config.seed, deterministic=config.deterministic)
    phases = config.by_phase()
    check_phases(phases)
    for settings in phases:
        distribution.check_batch(settings.training.batch_size)
    train, held_out = _split(config)
    report(
        f"{len(train):,} images of {len(train.subjects):,} subjects to train on, "
        + (f"{len(held_out):,} of {len(held_out.subjects):,} held out" if held_out else "all")
        + train.describe_left_out(config.data.min_images)
    )
    benchmarks = load_benchmarks(config)
    check_images([*train.files, *(held_out.files if held_out else [])])
    keras.config.set_dtype_policy(config.training.precision)
    try:
        with distribution.scope():
            backbone = _backbone(config)
        distribution.synchronise(backbone)
        measured = distribution.measured(backbone, lambda: _backbone(config))
        verify = verification(measured, held_out, benchmarks, seed=config.seed)
        verify = distribution.verify(verify, measured, backbone)
        run = distribution.open_run(output, config, resume=resume)
        batches = _batches(config, train, measured, progress=progress)
        batches = dataclasses.replace(batches, worker=distribution.worker, workers=distribution.workers)
        _train_phases(run, phases, backbone, batches, verify, report, distribution)
        distribution.close()
    finally:
        keras.config.set_dtype_policy("float32")
    return output / "best.keras"


def _split(config: Stage1Config) -> tuple[FaceFolder, FaceFolder | None]:
    """Training and held-out subjects; with `data.holdout` 0 all are trained on."""
    folder = scan_folder(config.data)
    return hold_out(folder, config.data) if config.data.holdout else (folder, None)


def _train_phases(
    run: RunDir,
    phases: Sequence[Stage1Config],
    backbone: keras.Model,
    batches: ImageBatches,
    verify: Callable[[], dict[str, float]],
    report: Callable[[str], None],
    distribution: Distribution,
) -> None:
    """Train the phases that are not done yet, each from the weights of the one before."""
    whole: Stage1Config = run.config
    progress = run.progress()
    model: PhaseModel | None = None
    for number, settings in enumerate(phases):
        end = sum(phase.training.epochs for phase in phases[: number + 1])
        if number < progress.phase:
            continue
        # The first values of a new head must not hang on what was drawn before a resumption.
        draw = numpy_stream(whole.seed, f"stage1/phase/{number}").integers(2**31)
        seed_everything(int(draw), deterministic=whole.deterministic)
        part = dataclasses.replace(
            batches, batch_size=settings.training.batch_size, images_per_subject=settings.training.images_per_subject
        )
        with distribution.scope():
            following = build_phase(settings, backbone, part, train=_trained(whole, number))
        distribution.check_state(following.state)
        part = dataclasses.replace(part, labelled=following.labelled, label_input=following.label_input)
        start = None
        if model is not None:
            kept, new = carry_over(model, following)
            report(f"phase {number + 1} of {len(phases)}: {kept} variables of heads kept, {new} new")
            start = dataclasses.replace(progress, phase=number)
        model = following
        progress = run_epochs(
            model.model,
            run,
            epochs=end,
            of_epochs=sum(phase.training.epochs for phase in phases),
            steps_per_epoch=part.steps,
            batches=part.epoch,
            verify=verify,
            save_model=lambda name: save_backbone(whole, backbone, run.path / f"{name}.keras"),
            decides=whole.training.best,
            checkpoint_steps=whole.training.checkpoint_steps,
            verify_steps=whole.training.verify_steps,
            start=start,
            state=model.state,
            files_of=part.files,
            watch=_watch(whole, run, model.model),
            report=report,
            fit=distribution.fit(model.model),
        )


def _trained(config: Stage1Config, number: int) -> str:
    return config.phases[number].train if config.phases else ALL


def _watch(config: Stage1Config, run: RunDir, model: keras.Model) -> Callable[[dict[str, Any]], None]:
    if not config.training.tensorboard:
        return lambda record: None
    return tensorboard_writer(run.path / "tensorboard", model)


def _backbone(config: Stage1Config) -> keras.Model:
    settings = config.backbone
    backbone = build_backbone(settings.name, embedding_size=settings.embedding_size, **settings.arguments)
    if settings.weights:
        _take_weights(backbone, load_backbone_model(settings.weights).trainable_model, settings)
    return backbone


def _take_weights(backbone: keras.Model, source: keras.Model, settings: BackboneConfig) -> None:
    """Copy all weights.

    Raises:
        ConfigError: Another architecture, or pixels are scaled in another way there.
    """
    try:
        backbone.set_weights(source.get_weights())
        scalings = [model.get_layer(SCALING).get_config() for model in (backbone, source)]
    except ValueError as error:
        raise ConfigError(f"backbone.weights: {settings.weights} does not fit {settings.name}: {error}") from error
    if any(scalings[0][name] != scalings[1][name] for name in ("scale", "offset")):
        raise ConfigError(
            f"backbone.weights: {settings.weights} scales pixels in another way than "
            f"{settings.name}; set backbone.name to the architecture of those weights"
        )


def _batches(config: Stage1Config, train: FaceFolder, backbone: keras.Model, *, progress: bool) -> ImageBatches:
    distillation = config.distillation
    batches = ImageBatches(
        train,
        config.augmentation,
        config.training.batch_size,
        seed=config.seed,
        input_size=backbone.input_shape[1],
        views=distillation.views if distillation.teacher else 0,
        mix=distillation.mix if distillation.teacher else 0.0,
    )
    if not distillation.teacher:
        return batches
    teacher = load_embedder(distillation.teacher)
    if teacher.embedding_size != backbone.output_shape[-1]:
        raise ConfigError(
            f"distillation: the teacher {teacher.name} has embeddings of size "
            f"{teacher.embedding_size}, the backbone of size {backbone.output_shape[-1]}; set "
            f"backbone.embedding_size to {teacher.embedding_size}"
        )
    targets = teacher_targets(batches, teacher, cache=TEACHER_CACHE, progress=progress)
    return dataclasses.replace(batches, targets=targets)


def save_backbone(config: Stage1Config, backbone: keras.Model, path: Path) -> None:
    """Write the backbone in float32, whatever precision it was trained in."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        settings = config.backbone
        plain = build_backbone(
            settings.name, embedding_size=settings.embedding_size, untrained=True, **settings.arguments
        )
    finally:
        keras.config.set_dtype_policy(policy)
    plain.set_weights(backbone.get_weights())
    save_model(plain, path)
