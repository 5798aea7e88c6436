"""Stage 1: from images to embeddings. ArcFace on a folder of subjects, a teacher optional."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from iom.config.schema import Stage1Config
from iom.config.sections import BackboneConfig
from iom.data.folders import FaceFolder, hold_out, scan_folder
from iom.data.image_batches import LABEL, TARGET, ImageBatches
from iom.data.images import check_images, read_images
from iom.errors import ConfigError
from iom.layers.cosine import CosineLogits, UnitLength
from iom.lookup import lookup
from iom.losses.distillation import EmbeddingDistance
from iom.losses.margin import MARGIN_LOSSES
from iom.metrics.verification import equal_error_rate
from iom.models.archive import save_model
from iom.models.backbones import build_backbone
from iom.models.embedder import Embedder, load_embedder
from iom.models.weights.manifest import load_backbone_model
from iom.seeding import seed_everything
from iom.training.loop import run_epochs
from iom.training.run_dir import RunDir
from iom.training.schedules import build_optimizer
from iom.training.teacher import teacher_targets

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
    seed_everything(config.seed, deterministic=config.deterministic)
    train, held_out = hold_out(scan_folder(config.data), config.data)
    report(
        f"{len(train):,} images of {len(train.subjects):,} subjects to train on, "
        f"{len(held_out):,} of {len(held_out.subjects):,} held out"
        + train.describe_left_out(config.data.min_images)
    )
    check_images([*train.files, *held_out.files])
    run = RunDir.open(output, config, resume=resume)
    keras.config.set_dtype_policy(config.training.precision)
    try:
        backbone = _backbone(config)
        batches = _batches(config, train, backbone, progress=progress)
        model = _training_model(config, backbone, classes=len(train.subjects))
        model.compile(
            optimizer=build_optimizer(
                config.optimizer, epochs=config.training.epochs, steps_per_epoch=batches.steps
            ),
            loss=_losses(config),
            loss_weights=_loss_weights(config),
            jit_compile=False,
        )
        run_epochs(
            model,
            run,
            epochs=config.training.epochs,
            steps_per_epoch=batches.steps,
            batches=batches.epoch,
            verify=_verification(backbone, held_out),
            save_model=lambda name: save_backbone(config, backbone, output / f"{name}.keras"),
            checkpoint_steps=config.training.checkpoint_steps,
            report=report,
        )
    finally:
        keras.config.set_dtype_policy("float32")
    return output / "best.keras"


def _backbone(config: Stage1Config) -> keras.Model:
    settings = config.backbone
    backbone = build_backbone(
        settings.name, embedding_size=settings.embedding_size, **settings.arguments
    )
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
        raise ConfigError(
            f"backbone.weights: {settings.weights} does not fit {settings.name}: {error}"
        ) from error
    if any(scalings[0][name] != scalings[1][name] for name in ("scale", "offset")):
        raise ConfigError(
            f"backbone.weights: {settings.weights} scales pixels in another way than "
            f"{settings.name}; set backbone.name to the architecture of those weights"
        )


def _batches(
    config: Stage1Config, train: FaceFolder, backbone: keras.Model, *, progress: bool
) -> ImageBatches:
    distillation = config.distillation
    batches = ImageBatches(
        train,
        config.augmentation,
        config.training.batch_size,
        seed=config.seed,
        input_size=backbone.input_shape[1],
        views=distillation.views if distillation.teacher else 0,
        mix=distillation.mix if distillation.teacher else 0.0,
        labelled=config.margin.weight > 0,
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


def _training_model(config: Stage1Config, backbone: keras.Model, *, classes: int) -> keras.Model:
    outputs = {}
    if config.margin.weight > 0:
        outputs[LABEL] = CosineLogits(classes, name=LABEL)(backbone.output)
    if config.distillation.teacher:
        outputs[TARGET] = UnitLength(name=TARGET)(backbone.output)
    return keras.Model(backbone.input, outputs, name="stage1")


def _losses(config: Stage1Config) -> dict[str, keras.losses.Loss]:
    losses = {}
    if config.margin.weight > 0:
        margin = lookup(MARGIN_LOSSES, config.margin.name, "margin loss")
        losses[LABEL] = margin(margin=config.margin.margin, scale=config.margin.scale)
    if config.distillation.teacher:
        losses[TARGET] = EmbeddingDistance()
    return losses


def _loss_weights(config: Stage1Config) -> dict[str, float]:
    weights = {LABEL: config.margin.weight, TARGET: config.distillation.weight}
    return {name: weights[name] for name in _losses(config)}


def _verification(backbone: keras.Model, held_out: FaceFolder) -> Callable[[], dict[str, float]]:
    """Equal error rate over all pairs of the held-out images."""
    images = read_images(held_out.files)
    rows, columns = np.triu_indices(len(images), k=1)
    same = held_out.labels[rows] == held_out.labels[columns]
    embedder = Embedder(
        backbone.predict_on_batch,
        name="stage 1",
        fingerprint="in training",
        embedding_size=backbone.output_shape[-1],
        input_size=backbone.input_shape[1],
    )

    def verify() -> dict[str, float]:
        embeddings = embedder.embed(images)
        distances = 1.0 - (embeddings @ embeddings.T)[rows, columns]
        return {"eer": equal_error_rate(distances[same], distances[~same])}

    return verify


def save_backbone(config: Stage1Config, backbone: keras.Model, path: Path) -> None:
    """Write the backbone in float32, whatever precision it was trained in."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        settings = config.backbone
        plain = build_backbone(
            settings.name, embedding_size=settings.embedding_size, **settings.arguments
        )
    finally:
        keras.config.set_dtype_policy(policy)
    plain.set_weights(backbone.get_weights())
    save_model(plain, path)
