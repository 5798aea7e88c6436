"""Stage 2: from embeddings and keys to codes. Similarity distillation and triplets, fresh keys."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from iom._files import sha256_of
from iom._random import seed_everything
from iom.baselines import BASELINES
from iom.config.schema import Stage2Config
from iom.data.batches import SubjectBatches
from iom.data.code_batches import CodeBatches
from iom.errors import ConfigError
from iom.models.archive import save_model
from iom.models.embedder import Embedder, load_embedder
from iom.models.keras_face_hasher import EMBEDDER_FILE, KerasFaceHasher
from iom.nn.hash_network import check_sizes
from iom.nn.losses.code.objectives import READS_EMBEDDINGS, build_objectives
from iom.nn.losses.code.per_key import PerKeyLoss
from iom.photos.images import read_images
from iom.pretrained.manifest import load_backbone_model
from iom.training.annealing import annealed_temperature
from iom.training.calibration import calibrate, describe
from iom.training.held_out import held_out_keys
from iom.training.loop import run_epochs
from iom.training.run_dir import RunDir
from iom.training.schedules import build_optimizer
from iom.training.stage2_data import Material, load_material
from iom.training.stage2_model import start_hasher, training_graph
from iom.training.whitening import independent_parts, leading_directions, within_class_whitening

BASELINE = "grp"
BEST, LAST = "best", "last"
VERIFICATION_KEYS = 5


def train_stage2(
    config: Stage2Config,
    output: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = lambda line: None,
    material: Material | None = None,
) -> KerasFaceHasher:
    """Train a hasher and find its decision threshold.

    Args:
        config: What to train, on what.
        output: The run's folder. It becomes a hasher's folder (`hasher.keras`, `hasher.json`) with
            the best epoch; that of the last one is in `output/last`. With `fine_tune` the backbone
            lies beside each, as `embedder.keras`.
        resume: Continue the run in `output` exactly where it was saved.
        progress: Show progress bars.
        report: Takes a line of text now and then.
        material: What `load_material` gave for the same data, embedder and seed, if at hand.

    Returns:
        The best hasher, by equal error rate on the held-out subjects, calibrated.

    Raises:
        ConfigError, DataError, WeightsError, CheckpointError: As their texts say.
    """
    seed_everything(config.seed, deterministic=config.deterministic)
    if material is None or not material.serves(config):
        material = load_material(config, progress=progress)
    material.pairs.check_resolution(config.calibration.fmr)
    key_size = check_sizes(material.embedder.embedding_size, config.hasher)
    sampler = SubjectBatches(material.train.labels, config.batches.subjects, config.batches.images, config.seed)
    report(
        f"{len(material.train):,} images of {len(material.train.subjects):,} subjects to train on, "
        f"{sampler.usable_subjects:,} of them with {config.batches.images} images; "
        f"{len(material.held_out):,} of {len(material.held_out.subjects):,} held out"
        + material.train.describe_left_out(config.data.min_images)
    )
    backbone = _backbone(config) if config.fine_tune else None
    start = _learned_start(config, material)
    hasher = _start_hasher(config, material, start)
    run = RunDir.open(output, config, resume=resume)
    store = functools.partial(_store, config, material, output, hasher, backbone)
    verify = _verification(config, material, hasher, backbone)
    if config.epochs == 0:
        store(BEST)
        store(LAST)
        rates = ", ".join(f"{name} {rate:.4f}" for name, rate in verify().items())
        report(f"no epochs, so nothing but the start of the layers is learned: {rates}")
        return _calibrate(config, material, output, report)
    objectives: dict[str, Any] = dict(build_objectives(config.losses, config.hasher))
    if config.batches.keys > 1:
        keys = config.batches.keys
        objectives = {name: PerKeyLoss(loss, keys) for name, loss in objectives.items()}
    steps = config.batches.steps_per_epoch
    temperature = annealed_temperature(config.hasher, steps=config.epochs * steps)
    model = training_graph(
        hasher,
        config.hasher,
        {name: loss.reads for name, loss in objectives.items()},
        backbone=backbone,
        keys=config.batches.keys,
        annealed=temperature is not None,
        classes=len(material.train.subjects),
    )
    model.compile(
        optimizer=build_optimizer(config.optimizer, epochs=config.epochs, steps_per_epoch=steps),
        loss=objectives,
        loss_weights={name: getattr(config.losses, name) for name in objectives},
        jit_compile=config.xla,
    )
    run_epochs(
        model,
        run,
        epochs=config.epochs,
        steps_per_epoch=steps,
        batches=functools.partial(
            _epoch,
            config,
            material,
            sampler,
            _truths(objectives, material, start),
            key_size=key_size,
            temperature=temperature,
        ),
        verify=verify,
        save_model=store,
        checkpoint_steps=config.checkpoint_steps,
        report=report,
    )
    return _calibrate(config, material, output, report)


def untrained_hasher(config: Stage2Config, material: Material) -> KerasFaceHasher:
    """The hasher that `train_stage2` starts from: frame, whitening and refinement alone."""
    check_sizes(material.embedder.embedding_size, config.hasher)
    return KerasFaceHasher(
        _start_hasher(config, material, _learned_start(config, material)),
        embedder_name=material.embedder.name,
        embedder_fingerprint=material.embedder.fingerprint,
    )


def _start_hasher(config: Stage2Config, material: Material, start: NDArray[np.float32] | None) -> keras.Model:
    return start_hasher(
        material.embedder.embedding_size,
        config.hasher,
        seed=config.seed,
        learned_start=start,
        bottleneck_start=_bottleneck_start(config, material, start),
    )


def _backbone(config: Stage2Config) -> keras.Model:
    if config.embedder.flip:
        raise ConfigError("fine_tune trains on plain images: set embedder.flip to false")
    model = load_backbone_model(config.embedder.weights).model
    if not isinstance(model, keras.Model):
        raise ConfigError(
            f"fine_tune: {config.embedder.weights} is a fixed TensorFlow graph, which cannot be "
            "trained; set fine_tune to false"
        )
    return model


def _learned_start(config: Stage2Config, material: Material) -> NDArray[np.float32] | None:
    hasher, rows, labels = config.hasher, material.train_embeddings, material.train.labels
    if hasher.key_kind == "part" and hasher.learned_layer and not hasher.bottleneck:
        return independent_parts(rows, labels, hasher.whitening, keep=hasher.keep)
    if hasher.whitening == 0:
        return None
    return within_class_whitening(rows, labels, hasher.whitening)


def _bottleneck_start(
    config: Stage2Config, material: Material, start: NDArray[np.float32] | None
) -> NDArray[np.float32] | None:
    """Leading directions behind the learned layer, where the bottleneck has fewer dimensions."""
    size = config.hasher.bottleneck
    if not 0 < size < material.embedder.embedding_size:
        return None
    return leading_directions(_behind(start, material), size, seed=config.seed)


def _behind(start: NDArray[np.float32] | None, material: Material) -> NDArray[np.float32]:
    """Training embeddings behind the start of the learned layer, `(N, D)`, unit length."""
    rows = material.train_embeddings if start is None else material.train_embeddings @ start
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _truths(
    objectives: dict[str, Any], material: Material, start: NDArray[np.float32] | None
) -> dict[str, NDArray[Any]]:
    """Truth of each loss. Distillation follows the cosine behind the start of the learned layer."""
    rows = _behind(start, material)
    labels = material.train.labels.astype(np.float32)
    return {name: rows if name in READS_EMBEDDINGS else labels for name in objectives}


def _epoch(
    config: Stage2Config,
    material: Material,
    sampler: SubjectBatches,
    truths: dict[str, NDArray[Any]],
    epoch: int,
    first_step: int,
    *,
    key_size: int,
    temperature: Callable[[int], float] | None,
) -> CodeBatches:
    return CodeBatches(
        sampler,
        material.train.files if config.fine_tune else material.train_embeddings,
        truths,
        embedding_size=key_size,
        key=config.key,
        epoch=epoch,
        first_step=first_step,
        steps=config.batches.steps_per_epoch,
        key_kind=config.hasher.key_kind,
        keep=config.hasher.keep,
        keys=config.batches.keys,
        inverse_temperature=temperature,
        second_key=config.losses.linkability > 0,
    )


def _verification(
    config: Stage2Config, material: Material, hasher: keras.Model, backbone: keras.Model | None
) -> Callable[[], dict[str, float]]:
    """Held-out equal error rate of the codes, beside the baseline's and the embedding's."""
    keys = held_out_keys(config.seed, "verification-keys", VERIFICATION_KEYS)
    start = material.held_out_embeddings
    size = material.embedder.embedding_size
    code = dataclasses.replace(config.hasher, bottleneck=0, keep=min(config.hasher.keep, size))
    baseline = BASELINES[BASELINE](size, code, config.seed)
    rate = functools.partial(material.pairs.equal_error_rate, keys=keys)
    known = {
        f"held_out_{BASELINE}_eer": rate(start, baseline.hash, baseline.alphabet_size),
        "held_out_float_eer": material.pairs.curve_of_embeddings(start).equal_error_rate(),
    }
    codes = KerasFaceHasher(hasher, embedder_name="stage 2", embedder_fingerprint="in training")
    images = None if backbone is None else read_images(material.held_out_files)

    def verify() -> dict[str, float]:
        rows = start
        if backbone is not None and images is not None:
            rows = _embedder_of(backbone, config, material).embed(images)
        return {"held_out_eer": rate(rows, codes.hash, codes.alphabet_size), **known}

    return verify


def _embedder_of(backbone: keras.Model, config: Stage2Config, material: Material) -> Embedder:
    return Embedder(
        backbone.predict_on_batch,
        name="stage 2",
        fingerprint="in training",
        embedding_size=material.embedder.embedding_size,
        input_size=material.embedder.input_size,
        batch_size=config.embedder.batch_size,
    )


def _store(
    config: Stage2Config, material: Material, output: Path, hasher: keras.Model, backbone: keras.Model | None, name: str
) -> None:
    """Write the hasher, and before it the backbone it belongs to, if that was trained too."""
    folder = output if name == BEST else output / name
    embedder_name = material.embedder.name
    fingerprint = material.embedder.fingerprint
    if backbone is not None:
        path = folder / EMBEDDER_FILE
        save_model(backbone, path)
        embedder_name, fingerprint = f"{embedder_name}, fine-tuned", sha256_of(path)
    KerasFaceHasher(hasher, embedder_name=embedder_name, embedder_fingerprint=fingerprint).save(folder)


def _calibrate(
    config: Stage2Config, material: Material, output: Path, report: Callable[[str], None]
) -> KerasFaceHasher:
    hasher = KerasFaceHasher.load(output)
    embeddings = material.held_out_embeddings
    if config.fine_tune:
        embedder = load_embedder(str(output / EMBEDDER_FILE), batch_size=config.embedder.batch_size)
        hasher.check_embedder(embedder)
        embeddings = embedder.embed_files(material.held_out_files)
    hasher.calibration = calibrate(
        material.pairs,
        embeddings,
        hasher.hash,
        alphabet_size=hasher.alphabet_size,
        config=config.calibration,
        seed=config.seed,
    )
    hasher.save(output)
    report(describe(hasher))
    return hasher
