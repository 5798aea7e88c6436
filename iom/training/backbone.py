"""Stage 1: training of a backbone, from images to embeddings, with margin losses or after a teacher, or both.

A training has one phase or several; each puts heads with their losses on the embedding.
"""

import dataclasses
import functools
import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from iom._files import cached_array
from iom._progress import tqdm
from iom._random import numpy_stream, seed_everything
from iom.config import Stage1Config
from iom.data.benchmarks import load_benchmark
from iom.data.benchmarks.base import PairBenchmark
from iom.data.folders import FaceFolder, hold_out, scan_folder
from iom.data.image_batches import AUGMENTATION_VERSION, LABEL, TARGET, ImageBatches
from iom.errors import ConfigError, DataError, missing_extra
from iom.metrics.verification import FoldedScores, error_curve
from iom.models.embedder import Embedder, embed_benchmark, load_embedder
from iom.nn.backbones.registry import build_backbone
from iom.nn.layers import UnitLength
from iom.nn.layers.cosine import CentreDistances, CosineLogits
from iom.nn.layers.sampled_cosine import SLOT, SampledCosineLogits, sampled_classes
from iom.nn.losses.embedding_losses import CenterLoss, EmbeddingDistance, TripletLoss
from iom.nn.losses.margin import SampledLoss, build_margin_loss
from iom.photos.images import check_images, read_images
from iom.pretrained.importers.keras_files import save_model
from iom.pretrained.weights import load_backbone_model
from iom.training.calibration import ValidationPairs, embedder_in_training
from iom.training.distribution import Distribution
from iom.training.loop import TrainingLoop
from iom.training.optimizers import build_optimizer
from iom.training.run_dir import RunDir

TEACHER_CACHE = Path(".cache/teacher")
SCALING = "pixel_scaling"
CENTER, TRIPLET, LABELS = "center", "triplet", "labels"
Verification = Callable[[], dict[str, float]]


def train_backbone(
    config: Stage1Config,
    output: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train a backbone.

    Args:
        config: Data, network, heads, optimizer.
        output: The run's folder.
        resume: Continue the run in `output` exactly where it was saved.
        progress: Show progress bars.
        report: Takes a line of text now and then.

    Returns:
        The best backbone, `output/best.keras`, by equal error rate on the held-out subjects.
    """
    BackboneTraining(config, output, progress=progress, report=report).run(resume=resume)
    return output / "best.keras"


class BackboneTraining:
    """One training of a backbone: data, network and verification, then one phase after the other."""

    def __init__(self, config: Stage1Config, output: Path, *, progress: bool, report: Callable[[str], None]) -> None:
        self.config, self.output, self.report = config, output, report
        if config.training.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise missing_extra("training.tensorboard", "tensorboard", otherwise="set it to false")
        self._progress = progress
        self._distribution = Distribution(config.distribution)
        seed_everything(config.seed, deterministic=config.deterministic)
        self._phases = config.by_phase()
        check_phases(self._phases)
        for settings in self._phases:
            self._distribution.check_batch(settings.training.batch_size)
        folder = scan_folder(config.data)
        self.train = folder
        self.held_out: FaceFolder | None = None
        if config.data.holdout:
            self.train, self.held_out = hold_out(folder, config.data)
        report(
            f"{len(self.train):,} images of {len(self.train.subjects):,} subjects to train on, "
            + (f"{len(self.held_out):,} of {len(self.held_out.subjects):,} held out" if self.held_out else "all")
            + self.train.describe_left_out(config.data.min_images)
        )
        self._benchmarks = [load_benchmark(entry, seed=config.seed) for entry in config.verify]
        # Every image is read once: before training, not after it.
        listed = [each.images for each in self._benchmarks if not isinstance(each.images, np.ndarray)]
        for files in (self.train.files, self.held_out.files if self.held_out else [], *listed):
            check_images(files)

    def run(self, *, resume: bool) -> None:
        """Train all phases that are left."""
        config, distribution = self.config, self._distribution
        keras.config.set_dtype_policy(config.training.precision)
        try:
            with distribution.scope():
                self.backbone = start_backbone(config)
            distribution.synchronise(self.backbone)
            # A network that several devices train is measured by a copy on one.
            measured = start_backbone(config) if distribution.active else self.backbone
            measure = verification(measured, self.held_out, self._benchmarks, seed=config.seed)

            def verify() -> dict[str, float]:
                if measured is not self.backbone:
                    measured.set_weights(self.backbone.get_weights())
                return measure()

            run = distribution.open_run(self.output, config, resume=resume)
            batches = dataclasses.replace(self._batches(), worker=distribution.worker, workers=distribution.workers)
            self._train_phases(run, batches, verify)
            distribution.close()
        finally:
            keras.config.set_dtype_policy("float32")

    def _train_phases(self, run: RunDir, batches: ImageBatches, verify: Verification) -> None:
        """Train the phases that are not done yet, each from the weights of the one before."""
        training, progress = self.config.training, run.progress()
        ends = np.cumsum([settings.training.epochs for settings in self._phases]).tolist()
        before: Heads | None = None
        for number, settings in list(enumerate(self._phases))[progress.phase :]:
            # The first values of a new head must not depend on what was drawn before a resumption.
            draw = numpy_stream(self.config.seed, f"stage1/phase/{number}").integers(2**31)
            seed_everything(int(draw), deterministic=self.config.deterministic)
            part = dataclasses.replace(
                batches,
                batch_size=settings.training.batch_size,
                images_per_subject=settings.training.images_per_subject,
            )
            train = self.config.phases[number].train if self.config.phases else "all"
            with self._distribution.scope():
                model, heads = build_phase(settings, self.backbone, part, train=train)
            self._distribution.check_state(heads.state)
            start = None
            if before is not None:
                kept, new = carry_over(before, heads)
                self.report(f"phase {number + 1} of {len(self._phases)}: {kept} variables of heads kept, {new} new")
                start = dataclasses.replace(progress, phase=number)
            before = heads
            part = dataclasses.replace(
                part,
                labelled=tuple(name for name in heads.losses if name != TARGET),
                label_input=heads.labels is not None,
            )
            loop = TrainingLoop(
                model=model,
                run=run,
                steps_per_epoch=part.steps,
                batches=part.epoch,
                verify=verify,
                save_model=lambda name: save_backbone(self.config, self.backbone, run.path / f"{name}.keras"),
                best_figure=training.best,
                checkpoint_steps=training.checkpoint_steps,
                verify_steps=training.verify_steps,
                state=heads.state,
                files_of=part.files,
                report=self.report,
                fit=self._distribution.fit(model),
            )
            if training.tensorboard:
                loop.on_epoch = functools.partial(_write_for_tensorboard, run.path / "tensorboard", model)
            progress = loop.train(ends[number], start=start, total_epochs=ends[-1])

    def _batches(self) -> ImageBatches:
        config, distillation = self.config, self.config.distillation
        batches = ImageBatches(
            self.train,
            config.augmentation,
            config.training.batch_size,
            seed=config.seed,
            input_size=self.backbone.input_shape[1],
            views=distillation.views if distillation.teacher else 0,
            mix=distillation.mix if distillation.teacher else 0.0,
        )
        if not distillation.teacher:
            return batches
        teacher = load_embedder(distillation.teacher)
        if teacher.embedding_size != self.backbone.output_shape[-1]:
            raise ConfigError(
                f"distillation: the teacher {teacher.name} has embeddings of size "
                f"{teacher.embedding_size}, the backbone of size {self.backbone.output_shape[-1]}; set "
                f"backbone.embedding_size to {teacher.embedding_size}"
            )
        targets = teacher_targets(batches, teacher, cache=TEACHER_CACHE, progress=self._progress)
        return dataclasses.replace(batches, targets=targets)


@dataclasses.dataclass(frozen=True, eq=False)
class Heads:
    """Layers on the embedding, with their outputs, losses and weights, all by name.

    `labels` is the input of the labels, of a head that draws classes.
    """

    layers: dict[str, keras.Layer]
    outputs: dict[str, Any]
    losses: dict[str, keras.losses.Loss]
    weights: dict[str, float]
    labels: Any = None

    @property
    def state(self) -> tuple[Any, ...]:
        """Variables of the losses: neither the model's nor the optimizer's."""
        return tuple(self.losses[LABEL].state) if LABEL in self.losses else ()


def build_heads(config: Stage1Config, embedding: Any, *, classes: int) -> Heads:
    """Heads of one phase on an embedding `(B, D)`, not normalised, of `classes` training subjects."""
    draws = config.margin.weight > 0 and config.margin.sample < 1
    heads = Heads({}, {}, {}, {}, keras.Input((), dtype="int32", name=LABELS) if draws else None)

    def add(weight: float, loss: keras.losses.Loss, layer: keras.Layer, inputs: Any = embedding) -> None:
        name = layer.name
        heads.layers[name], heads.outputs[name] = layer, layer(inputs)
        heads.losses[name], heads.weights[name] = loss, weight

    margin, triplet, distillation = config.margin, config.triplet, config.distillation
    if draws:
        layer, loss = _sampled(config, classes)
        add(margin.weight, loss, layer, [embedding, heads.labels])
    elif margin.weight > 0:
        loss = build_margin_loss(margin, classes=classes)
        if loss.needs_cosines:
            layer = CosineLogits(classes, sub_centers=margin.sub_centers, with_norm=loss.needs_norm, name=LABEL)
        elif margin.sub_centers > 1:
            raise ConfigError(f"margin.sub_centers: {margin.name} compares no centres")
        else:
            layer = keras.layers.Dense(classes, name=LABEL, dtype="float32")
        add(margin.weight, loss, layer)
    if config.center.weight > 0:
        add(config.center.weight, CenterLoss(), CentreDistances(classes, name=CENTER))
    if triplet.weight > 0:
        loss = TripletLoss(margin=triplet.margin, mining=triplet.mining, distance=triplet.distance)
        add(triplet.weight, loss, UnitLength(name=TRIPLET))
    if distillation.teacher:
        add(distillation.weight, EmbeddingDistance(), UnitLength(name=TARGET))
    return heads


def _sampled(config: Stage1Config, classes: int) -> tuple[SampledCosineLogits, SampledLoss]:
    """The head that compares with a part of the subjects only."""
    margin, optimizer = config.margin, config.optimizer
    loss = build_margin_loss(margin, classes=sampled_classes(classes, margin.sample))
    if not loss.needs_cosines:
        raise ConfigError(f"margin.sample: expected 1 with {margin.name}, received {margin.sample}")
    slots = 2 if optimizer.name != "sgd" else int(optimizer.momentum > 0)
    layer = SampledCosineLogits(
        classes, margin.sample, slots=slots, seed=config.seed, with_norm=loss.needs_norm, name=LABEL
    )
    return layer, SampledLoss(loss)


def build_phase(
    config: Stage1Config, backbone: keras.Model, batches: ImageBatches, *, train: str
) -> tuple[keras.Model, Heads]:
    """The compiled network of a phase, and its heads on the backbone, which all phases share.

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
    if heads.labels is not None:
        head = heads.layers[LABEL]
        if config.training.batch_size > head.sampled:
            raise ConfigError(
                f"margin.sample: expected a share with room for the {config.training.batch_size} "
                f"subjects of a batch, received {config.margin.sample} of {head.classes:,} subjects, "
                f"{head.sampled:,}; raise it"
            )
        head.attach(model)
    return model, heads


def check_phases(phases: Sequence[Stage1Config]) -> None:
    """Refuse settings that a later phase cannot be built with, before the first one is trained."""
    for settings in phases:
        build_optimizer(settings.optimizer, epochs=settings.training.epochs, steps_per_epoch=1)
        build_heads(settings, keras.Input((settings.backbone.embedding_size,)), classes=2)


def carry_over(before: Heads, after: Heads) -> tuple[int, int]:
    """Copy the variables of heads and losses to the next phase where layer, name and shape agree; (kept, new)."""
    known, wanted = _by_place(before), _by_place(after)
    kept = 0
    for place, variable in wanted.items():
        source = known.get(place)
        if source is not None and tuple(source.shape) == tuple(variable.shape):
            variable.assign(source)
            kept += 1
    return kept, len(wanted) - kept


def _by_place(heads: Heads) -> dict[tuple[str, str], Any]:
    found = {
        (name, variable.path.rsplit("/", 1)[-1]): variable
        for name, layer in heads.layers.items()
        for variable in layer.weights
        if not variable.name.startswith(SLOT)  # an optimizer's: it starts anew with each phase
    }
    return found | {("state", variable.name): variable for variable in heads.state}


def start_backbone(config: Stage1Config) -> keras.Model:
    """The backbone at the start of its training, with the weights of `backbone.weights`, if any."""
    settings = config.backbone
    backbone = build_backbone(settings.name, embedding_size=settings.embedding_size, **settings.arguments)
    if not settings.weights:
        return backbone
    source = load_backbone_model(settings.weights).trainable_model
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
    return backbone


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


def _write_for_tensorboard(folder: Path, model: keras.Model, record: dict[str, Any]) -> None:
    """Write the numbers of an epoch's record, and close the file."""
    callback = keras.callbacks.TensorBoard(str(folder), write_graph=False)
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_end(
        record["epoch"], {k: v for k, v in record.items() if isinstance(v, float) and k != "learning_rate"}
    )
    callback.on_train_end()


def teacher_targets(batches: ImageBatches, teacher: Embedder, *, cache: Path, progress: bool) -> NDArray[np.float32]:
    """Teacher's unit embeddings of every fixed view (or the plain images), `(max(1, views), N, D)`, a file a view."""
    folder = batches.folder
    if not batches.views:
        return teacher.embed_files(folder.files, progress=progress)[None]
    images = hashlib.sha256()
    for path in folder.files:
        images.update(hashlib.sha256(path.read_bytes()).hexdigest().encode())
    changes = f"{AUGMENTATION_VERSION}/{batches.augmentation}/{batches.mix}/{batches.seed}"

    def embedded(view: int) -> NDArray[np.float32]:
        title = f"teacher, view {view + 1} of {batches.views}"
        parts = tqdm(batches.view(view), title, unit="batch", disable=not progress)
        return np.concatenate([teacher.embed_pixels(pixels.numpy()) for pixels in parts])

    views = []
    for view in range(batches.views):
        key = f"{teacher.fingerprint}/{images.hexdigest()}/{changes}/{view}"
        stored = cache / f"teacher-{hashlib.sha256(key.encode()).hexdigest()}.npy"
        shape = (len(folder), teacher.embedding_size)
        views.append(cached_array(stored, shape, functools.partial(embedded, view)))
    return np.stack(views)


def verification(
    backbone: keras.Model, held_out: FaceFolder | None, benchmarks: Sequence[PairBenchmark], *, seed: int
) -> Verification:
    """A function that measures the backbone as it is when called.

    All pairs of `held_out` give `held_out_eer` (of too many subjects, some are drawn by `seed`), each benchmark
    `NAME_eer` and `NAME_accuracy` (folds as in LFW's view 2).
    """
    side = backbone.input_shape[1]
    for benchmark in benchmarks:
        if isinstance(benchmark.images, np.ndarray) and benchmark.images.shape[1] != side:
            raise DataError(
                f"verify: {benchmark.name} has images of side {benchmark.images.shape[1]}, the "
                f"backbone reads side {side}"
            )
    embedder = embedder_in_training(backbone)
    pairs = None if held_out is None else ValidationPairs(held_out, group_separator="", seed=seed)
    images = read_images([] if pairs is None else pairs.files)

    def verify() -> dict[str, float]:
        values = {}
        if pairs is not None:
            values["held_out_eer"] = pairs.curve_of_embeddings(embedder.embed(images)).equal_error_rate()
        for benchmark in benchmarks:
            rows = embed_benchmark(embedder, benchmark)
            products = rows[benchmark.left] * rows[benchmark.right]
            distances, same = np.asarray(1.0 - products.sum(axis=1), np.float32), benchmark.same
            values[f"{benchmark.name}_eer"] = error_curve(distances[same], distances[~same]).equal_error_rate()
            values[f"{benchmark.name}_accuracy"] = FoldedScores(distances, same, benchmark.fold).accuracy().mean
        return values

    return verify
