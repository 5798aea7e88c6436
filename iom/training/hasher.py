"""Stage 2: training of a hasher, from embeddings and keys to codes, with a fresh key for every batch."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from iom._files import sha256_of
from iom._random import numpy_stream, seed_everything
from iom._registry import did_you_mean
from iom.baselines import BASELINES
from iom.config import EmbedderConfig, FolderConfig, HasherConfig, Stage2Config
from iom.data.batches import CodeBatches, SubjectBatches, TrainingKeys
from iom.data.folders import FaceFolder, hold_out, scan_folder
from iom.errors import ConfigError
from iom.keys import KEY_KINDS
from iom.models.embedder import Embedder, load_embedder, open_embedder
from iom.models.face_hasher import EMBEDDER_FILE, KerasFaceHasher
from iom.nn.adapter import discriminant_whitening, independent_parts, leading_directions, within_class_whitening
from iom.nn.frames import CODEBOOK_ROWS, PRODUCT, fitted_codebook, widened
from iom.nn.hash_network import BOTTLENECK, LEARNED_LAYER, PROJECTION, build_hasher, shape_of
from iom.nn.hash_numpy import check_sizes
from iom.nn.layers.cosine import ClassCentres, CosineLogits
from iom.nn.layers.index_of_max import hard_index, relaxed_codes
from iom.nn.losses.code.objectives import (
    ASYMMETRIC,
    CLASS_COSINES,
    CODE_AND_ROW,
    COLLISIONS,
    COLLISIONS_ACROSS,
    HASHED_CLASS_COSINES,
    RELAXED,
    SOFT,
    build_objectives,
    per_key,
)
from iom.nn.losses.code.pairs import code_cosine, cosine_distance, expected_collision
from iom.photos.images import read_images
from iom.pretrained.importers.keras_files import save_model
from iom.pretrained.weights import load_backbone_model
from iom.training.calibration import ValidationPairs, calibrate, describe, embedder_in_training, validation_keys
from iom.training.loop import TrainingLoop, fit_in_steps
from iom.training.optimizers import build_optimizer
from iom.training.run_dir import RunDir

BASELINE = "grp"
BEST, LAST = "best", "last"
VERIFICATION_KEYS = 5
CODEBOOK_KEYS = 64
"""Keys of the rows that the start of a codebook is found on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stage2Data:
    """Images, unit embeddings `(N, D)` and validation pairs of a configuration; several runs may share them.

    `source` are the settings it was made from: data, embedder, and the seed of the pairs; `held_out_embeddings` are
    those of the images that `pairs` compares.
    """

    source: tuple[FolderConfig, EmbedderConfig, int]
    embedder: Embedder
    train: FaceFolder
    held_out: FaceFolder
    pairs: ValidationPairs
    train_embeddings: NDArray[np.float32]
    held_out_embeddings: NDArray[np.float32]

    def fits(self, config: Stage2Config) -> bool:
        """Whether this is the data of a configuration."""
        return self.source == (config.data, config.embedder, config.seed)


def load_stage2_data(config: Stage2Config, *, progress: bool = False) -> Stage2Data:
    """List, split and embed the images of a configuration."""
    train, held_out = hold_out(scan_folder(config.data), config.data)
    pairs = ValidationPairs(held_out, group_separator=config.data.group_separator, seed=config.seed)
    pairs.check_resolution(min(config.calibration.fmrs))
    embedder = open_embedder(config.embedder)
    check_sizes(embedder.embedding_size, config.hasher)
    rows = embedder.embed_files(train.files, progress=progress)
    held_out_rows = embedder.embed_files(held_out.files, progress=progress)[pairs.images]
    source = (config.data, config.embedder, config.seed)
    return Stage2Data(source, embedder, train, held_out, pairs, rows, held_out_rows)


def train_hasher(
    config: Stage2Config,
    output: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = lambda line: None,
    data: Stage2Data | None = None,
) -> KerasFaceHasher:
    """Train a hasher and calibrate its decision threshold.

    Args:
        config: Data, embedder, network, losses, optimizer.
        output: The run's folder. It becomes a hasher's folder (`hasher.keras`, `hasher.json`) with the best epoch; that
            of the last one is in `output/last`. With `fine_tune` the backbone lies beside each, as `embedder.keras`.
        resume: Continue the run in `output` exactly where it was saved.
        progress: Show progress bars.
        report: Takes a line of text now and then.
        data: Data of the same folder, embedder and seed, where `load_stage2_data` has loaded it already.

    Returns:
        The best hasher, by equal error rate on the held-out subjects, calibrated.
    """
    seed_everything(config.seed, deterministic=config.deterministic)
    if data is None or not data.fits(config):
        data = load_stage2_data(config, progress=progress)
    return HasherTraining(config, data, output, report=report).run(resume=resume)


def untrained_hasher(config: Stage2Config, data: Stage2Data) -> KerasFaceHasher:
    """The hasher that a training starts from: frame, whitening and refinement alone."""
    check_sizes(data.embedder.embedding_size, config.hasher)
    return KerasFaceHasher(
        initial_network(config, data, learned_start(config, data)),
        embedder_name=data.embedder.name,
        embedder_fingerprint=data.embedder.fingerprint,
    )


def learned_start(config: Stage2Config, data: Stage2Data) -> NDArray[np.float32] | None:
    """Start of the learned layer, `(D, D)`; `None` is the identity."""
    hasher, rows, labels = config.hasher, data.train_embeddings, data.train.labels
    if KEY_KINDS[hasher.key_kind].renews and hasher.learned_layer and not hasher.bottleneck:
        return independent_parts(rows, labels, hasher.whitening, keep=hasher.keep)
    if hasher.equalisation:
        return discriminant_whitening(rows, labels, hasher.whitening, hasher.equalisation)
    if hasher.whitening == 0:
        return None
    return within_class_whitening(rows, labels, hasher.whitening)


def initial_network(config: Stage2Config, data: Stage2Data, start: NDArray[np.float32] | None) -> keras.Model:
    """Hash network with the start of the learned layer, and of the bottleneck: leading directions behind that layer."""
    size, bottleneck = data.embedder.embedding_size, None
    if 0 < config.hasher.bottleneck < size:
        rows = _adapted(data.train_embeddings, start)
        bottleneck = leading_directions(rows, config.hasher.bottleneck, seed=config.seed)
    network = start_hasher(size, config.hasher, seed=config.seed, learned_start=start, bottleneck_start=bottleneck)
    if config.hasher.projection == PRODUCT:
        _fit_codebook(network, config, data)
    return network


def _fit_codebook(network: keras.Model, config: Stage2Config, data: Stage2Data) -> None:
    """Set the codebook of a product frame by k-means on training rows under random keys."""
    shape = shape_of(network)
    layer = network.get_layer(PROJECTION)
    derive = KEY_KINDS[shape["key_kind"]].order
    keys = validation_keys(config.seed, "codebook-keys", CODEBOOK_KEYS)
    stream = numpy_stream(config.seed, "stage2/codebook-rows")
    count = -(-CODEBOOK_ROWS // shape["code_length"])
    rows = data.train_embeddings[stream.integers(len(data.train_embeddings), size=count)]
    orders = np.array([derive(key, shape["key_size"], shape["keep"]) for key in keys], np.int32)
    inputs = {"embedding": rows, "order": orders[np.arange(count) % len(keys)]}
    keyed = keras.Model(network.input, layer.input).predict(inputs, batch_size=1024, verbose=0)
    blocks = keyed.reshape(-1, layer.codebook.shape[0] // layer.window)
    layer.set_weights([widened(fitted_codebook(blocks, config.hasher.alphabet_size, seed=config.seed), layer.window)])


def _adapted(rows: NDArray[np.float32], start: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Embeddings behind the start of the learned layer, `(N, D)`, unit length."""
    rows = rows if start is None else rows @ start
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


class HasherTraining:
    """One training of a hasher; the arguments are those of `train_hasher`."""

    def __init__(self, config: Stage2Config, data: Stage2Data, output: Path, *, report: Callable[[str], None]) -> None:
        self.config, self.data, self.output, self.report = config, data, output, report
        data.pairs.check_resolution(min(config.calibration.fmrs))
        self._keys = TrainingKeys(
            check_sizes(data.embedder.embedding_size, config.hasher),
            config.seed,
            config.key,
            kind=config.hasher.key_kind,
            keep=config.hasher.keep,
            count=config.batches.keys,
            second=config.links_keys,
        )
        batches = config.batches
        self._sampler = SubjectBatches(data.train.labels, batches.subjects, batches.images, config.seed)
        report(
            f"{len(data.train):,} images of {len(data.train.subjects):,} subjects to train on, "
            f"{self._sampler.usable_subjects:,} of them with {batches.images} images; "
            f"{len(data.held_out):,} of {len(data.held_out.subjects):,} held out"
            + data.train.describe_left_out(config.data.min_images)
        )
        self.backbone = _trained_backbone(config) if config.fine_tune else None
        self._start = learned_start(config, data)
        self.network = initial_network(config, data, self._start)

    def run(self, *, resume: bool) -> KerasFaceHasher:
        """Train all epochs that are left, and calibrate the best hasher."""
        config = self.config
        run = RunDir.open(self.output, config, resume=resume)
        verify = self._verification()
        if config.epochs == 0:
            self._save(BEST)
            self._save(LAST)
            rates = ", ".join(f"{name} {rate:.4f}" for name, rate in verify().items())
            self.report(f"no epochs, so nothing but the start of the layers is learned: {rates}")
            return self._calibrated()
        self._loop(run, verify).train(config.epochs)
        return self._calibrated()

    def _loop(self, run: RunDir, verify: Callable[[], dict[str, float]]) -> TrainingLoop:
        config, data, steps = self.config, self.data, self.config.batches.steps_per_epoch
        objectives = build_objectives(config.losses, config.hasher)
        if config.batches.keys > 1:
            objectives = {name: per_key(loss, config.batches.keys) for name, loss in objectives.items()}
        temperature = temperature_schedule(config.hasher, steps=config.epochs * steps)
        model = training_graph(
            self.network,
            config.hasher,
            {name: loss.reads for name, loss in objectives.items()},
            backbone=self.backbone,
            keys=config.batches.keys,
            temperature_input=temperature is not None,
            classes=len(data.train.subjects),
        )
        model.compile(
            optimizer=build_optimizer(config.optimizer, epochs=config.epochs, steps_per_epoch=steps),
            loss=objectives,
            loss_weights={loss.name: loss.weight for loss in config.losses if loss.name in objectives},
            jit_compile=config.xla,
        )
        # Distillation follows the cosine behind the start of the learned layer.
        rows, labels = _adapted(data.train_embeddings, self._start), data.train.labels.astype(np.float32)
        targets = {name: rows if loss.reads_embeddings else labels for name, loss in objectives.items()}
        return TrainingLoop(
            model=model,
            run=run,
            steps_per_epoch=steps,
            batches=lambda epoch, first_step: CodeBatches(
                self._sampler,
                data.train.files if config.fine_tune else data.train_embeddings,
                targets,
                self._keys,
                epoch=epoch,
                first_step=first_step,
                steps=steps,
                inverse_temperature=temperature,
            ),
            verify=verify,
            save_model=self._save,
            checkpoint_steps=config.checkpoint_steps,
            report=self.report,
            fit=fit_in_steps(model),
        )

    def _verification(self) -> Callable[[], dict[str, float]]:
        """Held-out equal error rate of the codes, beside the baseline's and the embedding's."""
        config, data = self.config, self.data
        keys = validation_keys(config.seed, "verification-keys", VERIFICATION_KEYS)
        size = data.embedder.embedding_size
        code = config.hasher.replace(bottleneck=0, keep=min(config.hasher.keep, size))
        baseline = BASELINES[BASELINE](size, code, config.seed)
        rate = functools.partial(data.pairs.equal_error_rate, keys=keys)
        known = {
            f"held_out_{BASELINE}_eer": rate(data.held_out_embeddings, baseline),
            "held_out_float_eer": data.pairs.curve_of_embeddings(data.held_out_embeddings).equal_error_rate(),
        }

        def own_rate(embeddings: NDArray[np.float32]) -> float:
            # A new hasher each time, which reads the weights anew.
            hasher = KerasFaceHasher(self.network, embedder_name="stage 2", embedder_fingerprint="in training")
            return rate(embeddings, hasher, comparison=config.hasher.comparison)

        if self.backbone is None:
            return lambda: {"held_out_eer": own_rate(data.held_out_embeddings), **known}
        images = read_images(data.pairs.files)
        embedder = embedder_in_training(self.backbone, batch_size=config.embedder.batch_size)
        return lambda: {"held_out_eer": own_rate(embedder.embed(images)), **known}

    def _save(self, name: str) -> None:
        """Write the hasher, and before it the backbone it belongs to, if that was trained too."""
        folder = self.output if name == BEST else self.output / name
        embedder_name, fingerprint = self.data.embedder.name, self.data.embedder.fingerprint
        if self.backbone is not None:
            path = folder / EMBEDDER_FILE
            save_model(self.backbone, path)
            embedder_name, fingerprint = f"{embedder_name}, fine-tuned", sha256_of(path)
        KerasFaceHasher(self.network, embedder_name=embedder_name, embedder_fingerprint=fingerprint).save(folder)

    def _calibrated(self) -> KerasFaceHasher:
        """The best hasher with its threshold, also stored."""
        hasher = KerasFaceHasher.load(self.output)
        embeddings = self.data.held_out_embeddings
        if self.config.fine_tune:
            embedder = load_embedder(str(self.output / EMBEDDER_FILE), batch_size=self.config.embedder.batch_size)
            hasher.check_embedder(embedder)
            embeddings = embedder.embed_files(self.data.pairs.files)
        config = self.config
        hasher.calibration = calibrate(
            hasher,
            self.data.pairs,
            embeddings,
            config.calibration,
            seed=config.seed,
            comparison=config.hasher.comparison,
        )
        hasher.save(self.output)
        self.report(describe(hasher))
        return hasher


def _trained_backbone(config: Stage2Config) -> keras.Model:
    """The backbone that trains along, its layers before `fine_tune_from` frozen (batch normalisation, too)."""
    backbone = load_backbone_model(config.embedder.weights).trainable_model
    if first := config.fine_tune_from:
        names = [layer.name for layer in backbone.layers]
        if first not in names:
            raise ConfigError(
                f"fine_tune_from: {config.embedder.weights} has no layer {first!r}{did_you_mean(first, names)} "
                f"(its last ones: {', '.join(names[-12:])})"
            )
        for layer in backbone.layers[: names.index(first)]:
            layer.trainable = False
    return backbone


def start_hasher(
    embedding_size: int,
    config: HasherConfig,
    *,
    seed: int,
    learned_start: NDArray[np.float32] | None = None,
    bottleneck_start: NDArray[np.float32] | None = None,
) -> keras.Model:
    """Hashing network at the start of its training.

    `learned_start` `(D, D)` is by default the identity, `bottleneck_start` a random orthonormal map; `seed` is that of
    the initial projection.
    """
    model = build_hasher(embedding_size, config, seed=seed)
    for name, present, start in (
        (LEARNED_LAYER, config.learned_layer, learned_start),
        (BOTTLENECK, config.bottleneck > 0, bottleneck_start),
    ):
        if not present:
            continue
        layer = model.get_layer(name)
        if start is not None:
            layer.set_weights([start])
        layer.trainable = config.train_learned_layer
    return model


def temperature_schedule(config: HasherConfig, *, steps: int) -> Callable[[int], float] | None:
    """Inverse temperature at each step of a run, annealed from a soft code to a hard one; `None` where it is fixed.

    A pure function of the step, which reaches the graph as an input of the batch: there is no state to save.
    """
    start, end = config.inverse_temperature, config.inverse_temperature_end
    if end in (0.0, start):
        return None
    values = (np.linspace if config.annealing == "linear" else np.geomspace)(start, end, steps)
    return lambda step: float(values[min(step, steps - 1)])


def training_graph(
    hasher: keras.Model,
    config: HasherConfig,
    reads: dict[str, str],
    *,
    backbone: keras.Model | None = None,
    keys: int = 1,
    temperature_input: bool = False,
    classes: int = 0,
) -> keras.Model:
    """Graph whose outputs bear the names of the losses, over the layers of `hasher`.

    Args:
        hasher: Made by `start_hasher`.
        config: Inverse temperature, and whether codes are hard in the forward pass.
        reads: Name of each loss -> its input, of `iom.nn.losses.code.objectives`. `COLLISIONS_ACROSS` adds the input
            `second_order`, like `order` under one key; `CLASS_COSINES` and `HASHED_CLASS_COSINES` add a head that is no
            part of `hasher`.
        backbone: Trained along, from images; otherwise the input is the embedding.
        keys: G, keys that each batch is hashed under. With more than one, `order` is `(B, G, W)` and each output gets
            an axis for the keys behind the rows, for `per_key`.
        temperature_input: The inverse temperature is an input `(B, 1)` instead of a constant.
        classes: Training subjects, for that head.
    """
    inputs, embedding = _embedding_inputs(hasher, backbone)
    if keys > 1:
        width = hasher.input["order"].shape[1]
        inputs["order"] = keras.Input((keys, width), dtype="int32", name="order")
    temperature: Any = config.inverse_temperature
    if temperature_input:
        inputs["inverse_temperature"] = keras.Input((1,), name="inverse_temperature")
        temperature = ops.reshape(inputs["inverse_temperature"], (-1, 1, 1))
    orders = [inputs["order"]] if keys == 1 else [inputs["order"][:, key] for key in range(keys)]
    projection = hasher.get_layer(PROJECTION)
    network, read_back = keras.Model(hasher.input, [projection.input, hasher.output]), _ReadBack(projection)
    both = [network({"embedding": embedding, "order": order}) for order in orders]
    parts = [
        _loss_inputs(responses, config, temperature) | _asymmetric_inputs(read_back, keyed, responses)
        for keyed, responses in both
    ]
    if COLLISIONS_ACROSS in reads.values():
        shape = hasher.input["order"].shape[1:]
        second = keras.Input(shape, dtype="int32", name="second_order")
        inputs["second_order"] = second
        other = _loss_inputs(hasher({"embedding": embedding, "order": second}), config, temperature)
        for part in parts:
            part[COLLISIONS_ACROSS] = expected_collision(part[RELAXED], other[RELAXED])
    if CLASS_COSINES in reads.values():
        flatten, head = keras.layers.Flatten(), CosineLogits(classes, name="class_head")
        for part in parts:
            part[CLASS_COSINES] = head(flatten(part[RELAXED]))
    if HASHED_CLASS_COSINES in reads.values():
        centres = ClassCentres(classes, name="class_centres")(embedding)
        own_temperature = temperature[:1, :, :] if temperature_input else temperature
        for part, order in zip(parts, orders, strict=True):
            same_key = ops.repeat(order[:1, :], classes, axis=0)  # all rows of a batch share it
            hashed = _loss_inputs(hasher({"embedding": centres, "order": same_key}), config, own_temperature)
            agreement = expected_collision(part[RELAXED], hashed[RELAXED])
            part[HASHED_CLASS_COSINES] = code_cosine(agreement, config.alphabet_size)
    outputs = {
        name: ops.stack([part[read] for part in parts], axis=1) if keys > 1 else parts[0][read]
        for name, read in reads.items()
    }
    model = keras.Model(inputs, outputs, name="stage2")
    if not model.trainable_variables:
        raise ConfigError(
            "nothing to train: set hasher.train_learned_layer, hasher.train_projection or fine_tune to true"
        )
    return model


def _embedding_inputs(hasher: keras.Model, backbone: keras.Model | None) -> tuple[dict[str, Any], Any]:
    """Inputs of the graph, and the embedding."""
    inputs = dict(hasher.input)
    if backbone is None:
        return inputs, inputs["embedding"]
    image = keras.Input(backbone.input_shape[1:], name="image")
    return {"image": image, "order": inputs["order"]}, backbone(image)


class _ReadBack(keras.layers.Layer):
    """Vectors `(B, K)` that relaxed codes `(B, M, Q)` stand for; its weights are those of the layer `projection`."""

    def __init__(self, projection: Any) -> None:
        super().__init__()
        self.projection = projection

    def call(self, relaxed: Any) -> Any:
        return self.projection.read_back(relaxed)


def _asymmetric_inputs(read_back: _ReadBack, rows: Any, responses: Any) -> dict[str, Any]:
    """Inputs of the losses on codes, read back, and keyed rows `(B, K)`.

    The gradient reaches the vectors that a code chose; that of the cosines passes straight through to the row, too.
    """
    hard = ops.one_hot(hard_index(responses), responses.shape[-1], dtype=rows.dtype)
    codes = read_back(hard)
    through = codes + rows - ops.stop_gradient(rows)
    return {ASYMMETRIC: 1.0 - cosine_distance(through, rows), CODE_AND_ROW: ops.stack([codes, rows], axis=1)}


def _loss_inputs(responses: Any, config: HasherConfig, temperature: Any) -> dict[str, Any]:
    """Inputs of the losses, for the rows under one key."""
    soft = relaxed_codes(responses, temperature)
    relaxed = relaxed_codes(responses, temperature, straight_through=True) if config.straight_through else soft
    return {COLLISIONS: expected_collision(relaxed, relaxed), SOFT: soft, RELAXED: relaxed}
