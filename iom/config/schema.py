"""Every setting: one frozen dataclass per YAML section, with the checks that need only it."""

import dataclasses
from typing import Any

from iom.errors import ConfigError


def _require(condition: bool, where: str, expected: str, received: object) -> None:
    if not condition:
        raise ConfigError(f"{where}: expected {expected}, received {received!r}")


@dataclasses.dataclass(frozen=True)
class FolderConfig:
    """A folder of subjects, `<root>/<subject>/<image>`."""

    root: str = ""
    """The folder. Relative paths start at the working directory."""
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
    group_separator: str = ""
    """Subjects whose name agrees up to this text are one group, held out together (families)."""

    def __post_init__(self) -> None:
        _require(self.min_images >= 1, "data.min_images", "at least 1", self.min_images)
        _require(0 <= self.holdout < 1, "data.holdout", "0 <= holdout < 1", self.holdout)


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
            _require(0 <= value < 1, f"augmentation.{field}", "0 <= value < 1", value)


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
        _require(self.embedding_size >= 1, "backbone.embedding_size", ">= 1", self.embedding_size)


@dataclasses.dataclass(frozen=True)
class MarginConfig:
    """Margin softmax on the cosines between embeddings and subject centres."""

    name: str = "arcface"
    margin: float = 0.5
    scale: float = 64.0
    weight: float = 1.0
    """Weight of this loss; 0 trains by distillation alone."""

    def __post_init__(self) -> None:
        _require(self.scale > 0, "margin.scale", "a positive number", self.scale)
        _require(self.weight >= 0, "margin.weight", "at least 0", self.weight)


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
        _require(self.weight >= 0, "distillation.weight", "at least 0", self.weight)
        _require(self.views >= 0, "distillation.views", "at least 0", self.views)
        _require(0 <= self.mix <= 0.5, "distillation.mix", "0 to 0.5", self.mix)
        if self.mix and not self.views:
            raise ConfigError("distillation.mix: expected distillation.views of 1 or more with it")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule (in epochs, converted to steps when data are known)."""

    name: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    """Decoupled; batch-norm parameters, biases and PReLU slopes are left out."""
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    milestones: tuple[float, ...] = ()
    """Epochs at which `schedule: step` divides the rate by ten."""
    clip_norm: float = 0.0
    """Largest global gradient norm; 0 does not clip."""

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, "optimizer.learning_rate", "> 0", self.learning_rate)
        _require(self.weight_decay >= 0, "optimizer.weight_decay", ">= 0", self.weight_decay)
        _require(self.warmup_epochs >= 0, "optimizer.warmup_epochs", ">= 0", self.warmup_epochs)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, in which batches, at which precision."""

    epochs: int = 20
    batch_size: int = 64
    precision: str = "float32"
    """`float32`, `mixed_bfloat16` or `mixed_float16`."""
    checkpoint_steps: int = 0
    """Also save the resumable state every so many steps; 0: at the end of each epoch only."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "training.epochs", "at least 1", self.epochs)
        _require(self.batch_size >= 1, "training.batch_size", "at least 1", self.batch_size)
        _require(
            self.checkpoint_steps >= 0, "training.checkpoint_steps", ">= 0", self.checkpoint_steps
        )
        allowed = ("float32", "mixed_bfloat16", "mixed_float16")
        _require(
            self.precision in allowed, "training.precision", f"one of {allowed}", self.precision
        )


@dataclasses.dataclass(frozen=True)
class EmbedderConfig:
    """The model that turns images into embeddings."""

    weights: str = "iresnet_slim.bundled"
    """Manifest name (`architecture.tag`) or a model file."""
    flip: bool = False
    """Average the embeddings of the image and its mirror image."""
    batch_size: int = 64
    cache: str = ".cache/embeddings"
    """Folder of computed embeddings; empty switches the cache off."""


@dataclasses.dataclass(frozen=True)
class HasherConfig:
    """From embedding and key to a code of `code_length` symbols over `alphabet_size` values."""

    code_length: int = 512
    alphabet_size: int = 8
    keep: int = 0
    """Dimensions kept after the permutation; 0 keeps all."""
    learned_layer: bool = True
    """A learned, key-independent linear layer before the key."""
    projection: str = "orthonormal"
    """Initial projection after the key: `gaussian` or `orthonormal`."""
    train_projection: bool = False
    inverse_temperature: float = 16.0
    """T of the soft index and of the relaxed codes."""
    straight_through: bool = True
    """Hard codes in the forward pass, the gradient of the soft ones in the backward pass."""

    def __post_init__(self) -> None:
        _require(
            1 <= self.code_length <= 65536, "hasher.code_length", "1 to 65536", self.code_length
        )
        _require(
            2 <= self.alphabet_size <= 256, "hasher.alphabet_size", "2 to 256", self.alphabet_size
        )
        _require(self.keep >= 0, "hasher.keep", "at least 0 (0 keeps all)", self.keep)
        _require(
            self.inverse_temperature > 0,
            "hasher.inverse_temperature",
            "a positive number",
            self.inverse_temperature,
        )


@dataclasses.dataclass(frozen=True)
class CodeLossConfig:
    """Weights of the losses on responses; 0 switches one off."""

    triplet: float = 1.0
    triplet_margin: float = 0.1
    quantization: float = 0.01
    balance: float = 0.1
    distillation: float = 10.0
    """Collision probability follows the float cosine (similarity distillation)."""


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """P subjects x K images."""

    subjects: int = 60
    images: int = 4
    steps_per_epoch: int = 100

    def __post_init__(self) -> None:
        _require(self.subjects >= 2, "batches.subjects", "at least 2", self.subjects)
        _require(self.images >= 2, "batches.images", "at least 2", self.images)
        _require(self.steps_per_epoch >= 1, "batches.steps_per_epoch", ">= 1", self.steps_per_epoch)


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """How the decision threshold is chosen on the held-out subjects."""

    fmr: float = 1e-3
    keys: int = 5

    def __post_init__(self) -> None:
        _require(0 < self.fmr < 1, "calibration.fmr", "0 < fmr < 1", self.fmr)
        _require(self.keys >= 1, "calibration.keys", "at least 1", self.keys)


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Where the verification pairs come from."""

    name: str = "lfw"
    source: str = "pairs"
    """`pairs`: a list over a folder. `bin`: an InsightFace file. `synthetic`: faces of nobody."""
    root: str = ""
    """Folder of images (`pairs`)."""
    path: str = ""
    """Pair list or `.bin` file."""
    subjects: int = 60
    """`synthetic`: how many subjects."""
    images: int = 4
    """`synthetic`: images of each."""


@dataclasses.dataclass(frozen=True)
class ScenarioConfig:
    """Which systems are compared, under how many keys, and how the intervals are found."""

    systems: tuple[str, ...] = ("float", "grp", "learned")
    keys: int = 5
    bootstrap: int = 200
    confidence: float = 0.95

    def __post_init__(self) -> None:
        _require(self.keys >= 1, "scenario.keys", "at least 1", self.keys)
        _require(self.bootstrap >= 0, "scenario.bootstrap", "at least 0", self.bootstrap)
        _require(
            0 < self.confidence < 1, "scenario.confidence", "0 < confidence < 1", self.confidence
        )


@dataclasses.dataclass(frozen=True)
class Stage1Config:
    """Everything `train_stage1.py` reads."""

    seed: int = 1
    deterministic: bool = False
    data: FolderConfig = dataclasses.field(default_factory=FolderConfig)
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    backbone: BackboneConfig = dataclasses.field(default_factory=BackboneConfig)
    margin: MarginConfig = dataclasses.field(default_factory=MarginConfig)
    distillation: DistillationConfig = dataclasses.field(default_factory=DistillationConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.margin.weight > 0 and self.distillation.mix > 0:
            raise ConfigError("distillation.mix: a blend has no label; set margin.weight to 0")
        if not (self.margin.weight > 0 or self.distillation.teacher):
            raise ConfigError("nothing to learn: margin.weight is 0 and there is no teacher")


@dataclasses.dataclass(frozen=True)
class Stage2Config:
    """Everything `train_stage2.py` reads."""

    seed: int = 1
    deterministic: bool = False
    data: FolderConfig = dataclasses.field(default_factory=FolderConfig)
    embedder: EmbedderConfig = dataclasses.field(default_factory=EmbedderConfig)
    hasher: HasherConfig = dataclasses.field(default_factory=HasherConfig)
    losses: CodeLossConfig = dataclasses.field(default_factory=CodeLossConfig)
    batches: BatchConfig = dataclasses.field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(name="adam", learning_rate=1e-3, weight_decay=0.0)
    )
    epochs: int = 10
    key: str = "random"
    """`random`: a fresh key for every batch. `identity`: none, as the ancestor trains."""
    fine_tune: bool = False
    """Train the backbone too, from images; otherwise it is frozen and embeddings are cached."""
    calibration: CalibrationConfig = dataclasses.field(default_factory=CalibrationConfig)

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        _require(self.key in ("random", "identity"), "key", "'random' or 'identity'", self.key)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Everything `evaluate.py` reads."""

    seed: int = 1
    benchmark: BenchmarkConfig = dataclasses.field(default_factory=BenchmarkConfig)
    embedder: EmbedderConfig = dataclasses.field(default_factory=EmbedderConfig)
    hasher: str = ""
    """Folder of a trained hasher (a stage 2 run, or one in pre_models); needed for `learned`."""
    code: HasherConfig = dataclasses.field(
        default_factory=lambda: HasherConfig(learned_layer=False, projection="gaussian")
    )
    """Shape of the data-agnostic baselines' codes."""
    scenario: ScenarioConfig = dataclasses.field(default_factory=ScenarioConfig)
