"""Sections about data, embedding and training: one frozen dataclass per YAML section."""

import dataclasses
from typing import Any

from iom.config.checks import require
from iom.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class FolderConfig:
    """A folder of subjects, `<root>/<subject>/<image>`."""

    root: str = ""
    """The folder, or one of TFRecord shards. Relative paths start at the working directory."""
    include: str = ""
    """Optional text file of relative image paths: only these are used."""
    same_subject: str = ""
    """Optional TSV of subject pairs that are one person (a third column is a similarity)."""
    same_subject_similarity: float = 0.6
    """Pairs of that file at or above this similarity are merged into one subject."""
    min_images: int = 2
    """Subjects with fewer images are left out (and counted)."""
    holdout: float = 0.1
    """Share of groups held out for verification and calibration."""
    holdout_seed: int = 1
    """Of the split; apart from the run's seed, so that both stages can hold out the same people."""
    group_separator: str = ""
    """Subjects whose name agrees up to this text are one group, held out together (families)."""

    def __post_init__(self) -> None:
        require(self.min_images >= 1, "data.min_images", "at least 1", self.min_images)
        require(0 <= self.holdout < 1, "data.holdout", "0 <= holdout < 1", self.holdout)


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """Random changes to a training image. Zero switches one off."""

    flip: bool = True
    crop: float = 0.06
    """Largest shift and relative zoom, as a share of the image side."""
    brightness: float = 0.15
    contrast: float = 0.2
    saturation: float = 0.2

    def __post_init__(self) -> None:
        for field in ("crop", "brightness", "contrast", "saturation"):
            value = getattr(self, field)
            require(0 <= value < 1, f"augmentation.{field}", "0 <= value < 1", value)


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """The network from image to embedding."""

    name: str = "iresnet_slim"
    embedding_size: int = 512
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the builder, such as `widths` and `depths` of `iresnet_slim`."""
    weights: str = ""
    """Optional start: a manifest name (`architecture.tag`) or a file."""

    def __post_init__(self) -> None:
        require(self.embedding_size >= 1, "backbone.embedding_size", ">= 1", self.embedding_size)


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
    """Follow a teacher's embedding of the same image."""

    teacher: str = ""
    """Manifest name or file; empty switches distillation off."""
    weight: float = 1.0
    views: int = 1
    """Augmented views of each image that the teacher embeds once, before training. 0: the teacher
    embeds the plain image only, and every augmentation is taught that embedding."""
    mix: float = 0.0
    """Half of the views blend in a second image, by up to this share: faces between the subjects,
    of which the teacher knows the embedding too (Beyer et al., CVPR 2022). Needs `views` and no
    margin loss, since a blend has no label."""

    def __post_init__(self) -> None:
        require(self.weight >= 0, "distillation.weight", "at least 0", self.weight)
        require(self.views >= 0, "distillation.views", "at least 0", self.views)
        require(0 <= self.mix <= 0.5, "distillation.mix", "0 to 0.5", self.mix)
        if self.mix and not self.views:
            raise ConfigError("distillation.mix: expected distillation.views of 1 or more with it")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule (in epochs, converted to steps when data are known)."""

    name: str = "sgd"
    """`sgd`, `nadam`, `adam` or `adamw`."""
    learning_rate: float = 0.1
    momentum: float = 0.9
    """Of `sgd`."""
    nesterov: bool = False
    """Of `sgd`."""
    weight_decay: float = 5e-4
    """Decoupled; batch-norm parameters, biases and PReLU slopes are left out."""
    schedule: str = "cosine"
    """`constant`, `step`, `cosine`, `cosine_restarts` or `exponential`; `warmup_epochs` before."""
    warmup_epochs: float = 1.0
    milestones: tuple[float, ...] = ()
    """Epochs at which `schedule: step` multiplies the rate by `factor`."""
    factor: float = 0.1
    decay: float = 0.9
    """`exponential`: the rate is multiplied by this over each epoch, smoothly."""
    restart_epochs: float = 5.0
    """`cosine_restarts`: epochs of the first cycle."""
    t_mul: float = 2.0
    """`cosine_restarts`: each cycle is this many times as long as the one before."""
    m_mul: float = 1.0
    """`cosine_restarts`: each cycle starts at this share of the start of the one before."""
    floor: float = 0.0
    """`cosine`, `cosine_restarts`, `exponential`: the rate never falls below this share of it."""
    clip_norm: float = 0.0
    """Largest global gradient norm; 0 does not clip."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "optimizer.learning_rate", "> 0", self.learning_rate)
        require(self.weight_decay >= 0, "optimizer.weight_decay", ">= 0", self.weight_decay)
        require(self.warmup_epochs >= 0, "optimizer.warmup_epochs", ">= 0", self.warmup_epochs)
        require(self.restart_epochs > 0, "optimizer.restart_epochs", "> 0", self.restart_epochs)
        require(self.t_mul >= 1, "optimizer.t_mul", "at least 1", self.t_mul)
        require(0 <= self.floor < 1, "optimizer.floor", "0 <= floor < 1", self.floor)
        for field in ("factor", "decay", "m_mul"):
            value = getattr(self, field)
            require(0 < value <= 1, f"optimizer.{field}", "0 < value <= 1", value)
        require(
            not self.nesterov or self.name == "sgd",
            "optimizer.nesterov",
            "false: only sgd has Nesterov's momentum as a choice (nadam always has it)",
            self.nesterov,
        )


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, in which batches, at which precision."""

    epochs: int = 20
    """Of the whole training; with `phases` the sum of theirs counts instead."""
    batch_size: int = 64
    images_per_subject: int = 0
    """K: a batch has `batch_size / K` subjects with K images each, as triplets need. 0: every image
    once an epoch, in random order."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one update."""
    precision: str = "float32"
    """`float32`, `mixed_bfloat16` or `mixed_float16`."""
    checkpoint_steps: int = 0
    """Also save the resumable state every so many steps; 0: at the end of each epoch only."""
    verify_steps: int = 0
    """Also verify every so many steps; 0: at the end of each epoch only."""
    best: str = "held_out_eer"
    """What decides `best`: `held_out_eer`, or `NAME_eer` or `NAME_accuracy` of a `verify` entry."""
    tensorboard: bool = False
    """Also write the figures of each epoch for TensorBoard (needs the extra `tensorboard`)."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "training.epochs", "at least 1", self.epochs)
        require(self.batch_size >= 1, "training.batch_size", "at least 1", self.batch_size)
        require(self.checkpoint_steps >= 0, "training.checkpoint_steps", ">= 0", self.checkpoint_steps)
        require(self.verify_steps >= 0, "training.verify_steps", ">= 0", self.verify_steps)
        require(self.accumulate >= 1, "training.accumulate", "at least 1", self.accumulate)
        images = self.images_per_subject
        require(
            images == 0 or (images >= 2 and self.batch_size % images == 0),
            "training.images_per_subject",
            f"0, or a divisor of the batch size {self.batch_size} from 2 on",
            images,
        )
        allowed = ("float32", "mixed_bfloat16", "mixed_float16")
        require(self.precision in allowed, "training.precision", f"one of {allowed}", self.precision)


@dataclasses.dataclass(frozen=True)
class EmbedderConfig:
    """The model that turns images into embeddings."""

    weights: str = "iresnet_slim.bundled"
    """Manifest name (`architecture.tag`) or a model file."""
    second_weights: str = ""
    """Optional second backbone: both embeddings of unit length are put side by side (fusion)."""
    fusion_weight: float = 0.5
    """Share of the first one in the cosine of the fused embedding."""
    flip: bool = False
    """Average the embeddings of the image and its mirror image."""
    batch_size: int = 64
    cache: str = ".cache/embeddings"
    """Folder of computed embeddings; empty switches the cache off."""

    def __post_init__(self) -> None:
        require(0 < self.fusion_weight < 1, "embedder.fusion_weight", "0 < share < 1", self.fusion_weight)
        require(self.batch_size >= 1, "embedder.batch_size", "at least 1", self.batch_size)
