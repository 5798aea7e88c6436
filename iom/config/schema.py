"""Sections of the configurations, and the whole that each command reads.

The defaults are the recommended configuration: they equal `configs/*/base.yaml`.
"""

from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from iom._registry import COMPARISONS
from iom.config.base import Section, change_config, require
from iom.errors import ConfigError
from iom.keys import KEY_KINDS

Share = Annotated[float, Field(ge=0, lt=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Factor = Annotated[float, Field(gt=0, le=1)]
AtLeast2 = Annotated[int, Field(ge=2)]
Size = Annotated[int, Field(ge=0, le=16384)]
MaxTemperature = 1e4
Angle = Annotated[float, Field(ge=0, lt=1.5)]
"""Radians."""
Cosine = Annotated[float, Field(gt=-1, lt=1)]
UnitDistance = Annotated[float, Field(gt=0, lt=2)]
"""Distance of unit vectors."""
Mining = Literal["batch_hard", "batch_all", "semi_hard"]
T = TypeVar("T")
Many = Annotated[tuple[T, ...], Field(strict=False)]
"""A list, which is frozen."""
Settings = dict[str, Any]


class FolderConfig(Section):
    """A folder of subjects, `<root>/<subject>/<image>`."""

    root: str = ""
    """The folder, or one of TFRecord shards. Relative paths start at the working directory."""
    include: str = ""
    """Optional text file of relative image paths: only these are used."""
    same_subject: str = ""
    """Optional TSV of subject pairs that are one person (a third column is a similarity)."""
    same_subject_similarity: float = 0.6
    """Pairs of that file at or above this similarity are merged into one subject."""
    min_images: PositiveInt = 2
    """Subjects with fewer images are left out (and counted)."""
    holdout: Share = 0.1
    """Share of groups held out for verification and calibration."""
    holdout_seed: int = 1
    """Of the split; apart from the run's seed, so that both stages can hold out the same people."""
    group_separator: str = ""
    """Subjects whose name agrees up to this text are one group, held out together (families)."""


class AugmentationConfig(Section):
    """Random changes to a training image. Zero switches one off."""

    flip: bool = True
    crop: Share = 0.06
    """Largest shift and relative zoom, as a share of the image side."""
    brightness: Share = 0.15
    contrast: Share = 0.2
    saturation: Share = 0.2


class BackboneConfig(Section):
    """The network from image to embedding."""

    name: str = "iresnet_slim"
    embedding_size: PositiveInt = 128
    arguments: Settings = Field(default_factory=dict)
    """Arguments of the builder, such as `widths` and `depths` of `iresnet_slim`."""
    weights: str = ""
    """Optional start: a manifest name (`architecture.tag`) or a file."""


class MarginConfig(Section, extra="allow"):
    """Softmax over the training subjects, with or without a margin.

    Settings of the named loss (`margin`, `scale`, ...) stand in the section, too. They are the
    fields of its class in `iom.nn.losses.margin`, which checks them when it is built.
    """

    __pydantic_extra__: dict[str, float]

    name: str = "arcface"
    """An entry of `iom.nn.losses.margin.MARGIN_LOSSES`."""
    label_smoothing: Share = 0.0
    """Share of the target that is spread over all subjects."""
    sub_centers: PositiveInt = 1
    """Centres of each subject, the nearest counts; 3 with `arcface`: sub-center ArcFace."""
    sample: Factor = 1.0
    """Share of the subjects that a step compares with; below 1 for very many subjects."""
    weight: NonNegativeFloat = 1.0
    """Weight of this loss; 0 trains without it."""

    @model_validator(mode="after")
    def _check(self) -> "MarginConfig":
        require(self.sample == 1 or self.sub_centers == 1, "sample", "1 with several sub-centers", self.sample)
        return self


class CenterConfig(Section):
    """Center loss: each embedding is drawn to a learned centre of its subject."""

    weight: NonNegativeFloat = 0.0
    """0 trains without it; the paper's is 0.003."""


class TripletConfig(Section):
    """Triplet loss on the embeddings of a batch; set `training.images_per_subject` with it."""

    weight: NonNegativeFloat = 0.0
    """0 trains without it."""
    margin: NonNegativeFloat = 0.3
    mining: Mining = "batch_hard"
    distance: Literal["cosine", "euclidean"] = "cosine"


class DistillationConfig(Section):
    """Follow a teacher's embedding of the same image."""

    teacher: str = ""
    """Manifest name or file; empty switches distillation off."""
    weight: NonNegativeFloat = 1.0
    views: NonNegativeInt = 1
    """Augmented views of each image that the teacher embeds once, before training. 0: the teacher
    embeds the plain image only, and every augmentation is taught that embedding."""
    mix: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Half of the views blend in a second image, by up to this share: faces between the subjects,
    of which the teacher knows the embedding too (Beyer et al., CVPR 2022). Needs `views` and no
    margin loss, since a blend has no label."""

    @model_validator(mode="after")
    def _check(self) -> "DistillationConfig":
        require(self.mix == 0 or self.views > 0, "views", "1 or more with distillation.mix", self.views)
        return self


class OptimizerConfig(Section):
    """Optimizer and learning-rate schedule (in epochs, converted to steps when data are known)."""

    name: Literal["sgd", "nadam", "adam", "adamw"] = "sgd"
    learning_rate: PositiveFloat = 0.1
    momentum: float = 0.9
    """Of `sgd`."""
    nesterov: bool = False
    """Of `sgd`."""
    weight_decay: NonNegativeFloat = 5e-4
    """Decoupled; batch-norm parameters, biases and PReLU slopes are left out."""
    schedule: Literal["constant", "step", "cosine", "cosine_restarts", "exponential"] = "cosine"
    """`warmup_epochs` before."""
    warmup_epochs: NonNegativeFloat = 1.0
    milestones: Many[float] = ()
    """Epochs at which `schedule: step` multiplies the rate by `factor`."""
    factor: Factor = 0.1
    decay: Factor = 0.9
    """`exponential`: the rate is multiplied by this over each epoch, smoothly."""
    restart_epochs: PositiveFloat = 5.0
    """`cosine_restarts`: epochs of the first cycle."""
    t_mul: Annotated[float, Field(ge=1)] = 2.0
    """`cosine_restarts`: each cycle is this many times as long as the one before."""
    m_mul: Factor = 1.0
    """`cosine_restarts`: each cycle starts at this share of the start of the one before."""
    floor: Share = 0.0
    """`cosine`, `cosine_restarts`, `exponential`: the rate never falls below this share of it."""
    clip_norm: NonNegativeFloat = 0.0
    """Largest global gradient norm; 0 does not clip."""

    @model_validator(mode="after")
    def _check(self) -> "OptimizerConfig":
        require(not self.nesterov or self.name == "sgd", "nesterov", "false with an optimizer other than sgd", True)
        return self


class TrainingConfig(Section):
    """How long, in which batches, at which precision."""

    epochs: PositiveInt = 20
    """Of the whole training; with `phases` the sum of theirs counts instead."""
    batch_size: PositiveInt = 64
    images_per_subject: NonNegativeInt = 0
    """K: a batch has `batch_size / K` subjects with K images each, as triplets need. 0: every image
    once an epoch, in random order."""
    accumulate: PositiveInt = 1
    """Batches whose gradients are averaged into one update."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    checkpoint_steps: NonNegativeInt = 0
    """Also save the resumable state every so many steps; 0: at the end of each epoch only."""
    verify_steps: NonNegativeInt = 0
    """Also verify every so many steps; 0: at the end of each epoch only."""
    best: str = "held_out_eer"
    """What decides `best`: `held_out_eer`, or `NAME_eer` or `NAME_accuracy` of a `verify` entry."""
    tensorboard: bool = False
    """Also write the figures of each epoch for TensorBoard (needs the extra `tensorboard`)."""

    @model_validator(mode="after")
    def _check(self) -> "TrainingConfig":
        images = self.images_per_subject
        expected = f"0, or a divisor of the batch size {self.batch_size} from 2 on"
        require(images == 0 or (images >= 2 and self.batch_size % images == 0), "images_per_subject", expected, images)
        return self


class DistributionConfig(Section):
    """Data parallel: every device takes its share of each batch; the result is that of one."""

    kind: Literal["none", "mirrored", "multi_worker"] = "none"
    """`mirrored`: the devices of this machine; `multi_worker`: several machines."""
    devices: NonNegativeInt = 0
    """Of each machine. 0: all its accelerators, or one CPU. Without accelerators the CPU is split
    into so many devices (`mirrored`)."""
    workers: Many[str] = ()
    """`multi_worker`: `host:port` of every machine, the chief first, the same list on each. Empty:
    taken from the environment variable TF_CONFIG, as is the index."""
    index: int = -1
    """`multi_worker`: which of `workers` this machine is; `--set distribution.index=1`."""

    @model_validator(mode="after")
    def _check(self) -> "DistributionConfig":
        require(
            not self.workers or self.kind == "multi_worker", "workers", "none without kind: multi_worker", self.workers
        )
        for worker in self.workers:
            host, _, port = worker.rpartition(":")
            require(bool(host) and port.isdigit(), "workers", "host:port for each machine", worker)
        expected = f"0 to {len(self.workers) - 1}, the place of this machine among distribution.workers"
        require(not self.workers or -1 <= self.index < len(self.workers), "index", expected, self.index)
        return self


class EmbedderConfig(Section):
    """The model that turns images into embeddings."""

    weights: str = "dlib_resnet.bundled"
    """Manifest name (`architecture.tag`) or a model file."""
    second_weights: str = ""
    """Optional second backbone: both embeddings of unit length are put side by side (fusion)."""
    fusion_weight: OpenShare = 0.5
    """Share of the first one in the cosine of the fused embedding."""
    flip: bool = False
    """Average the embeddings of the image and its mirror image."""
    batch_size: PositiveInt = 64
    cache: str = ".cache/embeddings"
    """Folder of computed embeddings; empty switches the cache off."""


class CodeConfig(Section):
    """Shape of a code: `code_length` symbols over `alphabet_size` values."""

    code_length: Annotated[int, Field(ge=1, le=65536)] = 512
    alphabet_size: Annotated[int, Field(ge=2, le=256)] = 8
    keep: NonNegativeInt = 0
    """Dimensions kept after the key; 0 keeps all."""
    refinement_steps: Annotated[int, Field(ge=0, le=100)] = 10
    """Steps that correct a row until its code points back at it; 0 is plain Index-of-Max."""
    refinement_gain: Annotated[float, Field(ge=0, le=100)] = 4.0
    """How much more of the row a refined code is asked to hold: see `iom.nn.layers.index_of_max.IoMProjection`."""


class HasherConfig(CodeConfig):
    """The network from embedding and key to code."""

    key_kind: Literal[tuple(KEY_KINDS)] = "orthogonal"  # type: ignore[valid-type]
    """What a key does: `orthogonal`, a rotation; `permutation`, which leaves the sorted values of
    an embedding open to whoever has the code; `subset`, a choice of `keep`; `part`, one of few
    fixed windows of `keep`: a renewal that moves to another window survives the disclosure of
    model, key and template, once for each window that is left. `subset` and `part` move values
    without changing them, as `permutation` does."""
    learned_layer: bool = True
    """A learned, key-independent linear layer before the key."""
    train_learned_layer: bool = False
    """False leaves that layer at its start: the identity, or the whitening below."""
    whitening: Share = 0.2
    """Share of within-class whitening (WCCN) of the training embeddings in that layer's start."""
    equalisation: Share = 0.0
    """How far that start also evens out the directions by how far all embeddings spread: 0 not at all, 1 wholly."""
    hidden_layers: Annotated[int, Field(ge=0, le=3)] = 0
    """Residual PReLU layers behind the linear one; they start next to the identity."""
    hidden_size: Size = 0
    """Units of each; 0 is as many as the embedding has dimensions."""
    bottleneck: Size = 0
    """Dimensions of the vector that the key is applied to; 0 is as many as the embedding has."""
    comparison: Literal[COMPARISONS] = "symbols"  # type: ignore[valid-type]
    """How a code will be compared, and its threshold found: `symbols`, with the probe's code;
    `asymmetric`, with the probe's keyed row, which needs the key and the unmasked code. The codes
    are the same."""
    projection: str = "simplex"
    """Initial projection after the key: `gaussian`, `orthonormal`, `simplex`, `cross_polytope`, or
    `product`: each position sees a block of its own, and one codebook serves all blocks."""
    half_norm_bias: bool = True
    """Of a product frame: a position chooses the vector nearest to its block; false: the one of the largest product."""
    window: Annotated[int, Field(ge=1, le=2)] = 1
    """Of a product frame: blocks that a position reaches, its own, or the next one, too. The codebook starts with
    nothing in the next block: 2 gains once it is trained."""
    train_projection: bool = False
    inverse_temperature: Annotated[float, Field(gt=0, le=MaxTemperature)] = 20.0
    """T of the relaxed codes, at the start of the training."""
    inverse_temperature_end: Annotated[float, Field(ge=0, le=MaxTemperature)] = 0.0
    """T at its last step; 0 leaves it as it is."""
    annealing: Literal["exponential", "linear"] = "exponential"
    """How T gets there, step by step."""
    straight_through: bool = True
    """Hard codes in the forward pass, the gradient of the soft ones in the backward pass."""

    @model_validator(mode="after")
    def _check(self) -> "HasherConfig":
        require(self.whitening == 0 or self.learned_layer, "whitening", "0 without a learned layer", self.whitening)
        expected = "0 without a learned layer"
        require(self.equalisation == 0 or self.learned_layer, "equalisation", expected, self.equalisation)
        expected = f"at least 1 with key_kind '{self.key_kind}'"
        require(not KEY_KINDS[self.key_kind].chooses or self.keep > 0, "keep", expected, self.keep)
        product = self.projection == "product"
        expected = "0 with projection 'product', whose positions do not meet"
        require(not product or self.refinement_steps == 0, "refinement_steps", expected, self.refinement_steps)
        expected = f"true with projection '{self.projection}', which has no bias"
        require(product or self.half_norm_bias, "half_norm_bias", expected, self.half_norm_bias)
        expected = "1 but with projection 'product' and half_norm_bias"
        require(self.window == 1 or (product and self.half_norm_bias), "window", expected, self.window)
        require(self.bottleneck != 1, "bottleneck", "0 (as the embedding), or 2 to 16384", self.bottleneck)
        expected = f"at most hasher.bottleneck ({self.bottleneck})"
        require(self.bottleneck == 0 or self.keep <= self.bottleneck, "keep", expected, self.keep)
        return self


class BatchConfig(Section):
    """P subjects x K images."""

    subjects: AtLeast2 = 120
    images: AtLeast2 = 2
    keys: Annotated[int, Field(ge=1, le=64)] = 1
    """Keys under which each batch is hashed; pairs are compared under one key only."""
    steps_per_epoch: PositiveInt = 200


class CalibrationConfig(Section):
    """How the decision threshold is chosen on the held-out subjects."""

    fmr: OpenShare = 1e-3
    """False match rate of the decision threshold."""
    other_fmrs: Many[OpenShare] = ()
    """Those of further thresholds, which are stored beside it."""
    keys: PositiveInt = 5
    bootstrap: NonNegativeInt = 200
    """Draws of subjects and keys for the intervals; 0 leaves them out."""
    confidence: OpenShare = 0.95

    @property
    def fmrs(self) -> tuple[float, ...]:
        """Of all thresholds, that of the decision first."""
        return self.fmr, *(fmr for fmr in self.other_fmrs if fmr != self.fmr)


class BenchmarkConfig(Section):
    """Where the verification pairs come from."""

    name: str = "lfw"
    source: str = "pairs"
    """`pairs`: a list over a folder (LFW). `two_lines` (CALFW, CPLFW), `cfp`, `youtube_faces`,
    `ijb`: lists as those were published. `bin`: an InsightFace file. `carray`: a bcolz folder
    with its list. `folder`: all mated pairs of a folder of subjects and as many others; `path` may
    list its images. `synthetic`: synthetic faces. Identification has protocols of its own.
    """
    root: str = ""
    """Folder of aligned images, for every kind of list."""
    path: str = ""
    """Pair list or `.bin` file; the folder `Protocol/Split/FP` (`cfp`), or `meta` (`ijb`)."""
    align_into: str = ""
    """`ijb`: folder for faces aligned from the published loose crops; `root` is then that of the
    crops. Empty: `root` holds aligned faces.
    """
    distractors: str = ""
    """`megaface` (identification): the list of distractors; `path` is that of the probes."""
    distractor_root: str = ""
    """`megaface`: folder of the distractors."""
    pooling: Literal["mean", "vote", "nearest"] = "mean"
    """Identification, templates of several images: `mean` of embeddings, `vote` of symbols, or the
    `nearest` of all of them, which then stay references of their own.
    """
    gallery_images: int = 1
    """`folder` (identification): enrolment images of each subject."""
    subjects: int = 60
    """`synthetic`: how many subjects."""
    images: int = 4
    """`synthetic`: images of each."""


class ScenarioConfig(Section):
    """Which systems are compared, under how many keys, and how the intervals are found."""

    systems: Many[str] = ("float", "grp", "learned")
    scenarios: Many[Literal["own_key", "stolen_key"]] = ("own_key", "stolen_key")
    """Of the systems that have a key."""
    comparisons: Many[Literal[COMPARISONS]] = ()  # type: ignore[valid-type]
    """Of codes with probes, a row each: `symbols`; `asymmetric` of Index-of-Max by one projection.
    None: both of trained hashers, symbols of baselines."""
    keys: PositiveInt = 5
    bootstrap: NonNegativeInt = 200
    confidence: OpenShare = 0.95

    @model_validator(mode="after")
    def _check(self) -> "ScenarioConfig":
        distinct = len(set(self.comparisons)) == len(self.comparisons)
        require(distinct, "comparisons", "each comparison once", self.comparisons)
        require("stolen_key" in self.scenarios, "scenarios", "stolen_key, and own_key or not", self.scenarios)
        return self


class ReportConfig(Section):
    """What `iom evaluate --report` computes beside the pairs, and how much of it."""

    identification: bool = True
    """Closed-set and open-set search among the benchmark's images, in two galleries."""
    linkability: bool = True
    """D_sys between templates of different keys."""
    attacks: bool = True
    """Attacks, with template, key and model disclosed; false leaves out those on a stolen store, too."""
    keys: PositiveInt = 3
    """Test keys of identification, and pairs of keys of linkability."""
    replicates: NonNegativeInt = 100
    """Draws for the intervals of identification and linkability; 0 for none."""
    pairs: Annotated[int, Field(ge=100)] = 20000
    """Largest number of comparisons of each kind for linkability."""
    attack_names: Many[str] = ("closed_form", "prior_regressor", "keyed_linker", "sorted_values", "one_guess")
    """Of `iom.attacks.ATTACKS`; these take seconds, others up to minutes a system."""
    victims: AtLeast2 = 20
    old_keys: PositiveInt = 2
    """Keys that leak with the templates; each repeats all attacks."""
    fresh_keys: Annotated[int, Field(ge=40)] = 40
    """Keys that the victims are renewed under."""
    records: Many[AtLeast2] = (2, 5)
    """Numbers of records for attacks that take several."""
    stolen_store: bool = True
    """Attacks on a record store whose templates share one key, stolen without the key."""
    enrolled: Annotated[int, Field(ge=4)] = 1000
    """Subjects in that store at most; half of the benchmark's, the others are the attacker's population."""
    known_faces: Many[NonNegativeInt] = (0, 2, 10, 50)
    """Numbers of enrolled subjects that the attacker knows, by their enrolled and by another photograph."""
    worst_pairs: PositiveInt = 8
    """Pairs of each kind that are listed by file name."""


class PhaseConfig(Section):
    """One phase of a stage 1 training. Sections hold only what differs from the whole configuration.

    The weights go over from phase to phase; a head of another shape starts anew. Optimizer and
    schedule start anew with each phase, with the warm-up of its own optimizer section.
    """

    epochs: PositiveInt = 1
    train: Literal["all", "head"] = "all"
    """`head`: the backbone is frozen, its batch norms included."""
    margin: Settings = Field(default_factory=dict)
    """With another `name` than that of the whole configuration, nothing else of that is taken over:
    margin and scale of one loss mean something else to another."""
    center: Settings = Field(default_factory=dict)
    triplet: Settings = Field(default_factory=dict)
    distillation: Settings = Field(default_factory=dict)
    """`weight` only."""
    optimizer: Settings = Field(default_factory=dict)
    training: Settings = Field(default_factory=dict)
    """`batch_size`, `images_per_subject` and `accumulate` only."""

    @model_validator(mode="after")
    def _check(self) -> "PhaseConfig":
        for section, names in PHASE_SETTINGS.items():
            other = sorted(set(getattr(self, section)) - names)
            expected = f"settings of {', '.join(sorted(names))}, which may differ between phases"
            require(not other, section, expected, other)
        return self


PHASE_SETTINGS = {"distillation": {"weight"}, "training": {"batch_size", "images_per_subject", "accumulate"}}
"""Of sections whose other settings belong to the whole run."""


class Stage1Config(Section):
    """Everything `iom train-stage1` reads."""

    seed: int = 1
    deterministic: bool = False
    data: FolderConfig = FolderConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    backbone: BackboneConfig = BackboneConfig()
    margin: MarginConfig = MarginConfig()
    center: CenterConfig = CenterConfig()
    triplet: TripletConfig = TripletConfig()
    distillation: DistillationConfig = DistillationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    distribution: DistributionConfig = DistributionConfig()
    phases: Many[PhaseConfig] = ()
    """Phases of the training, one after the other; without any, all epochs are one phase."""
    verify: Many[BenchmarkConfig] = ()
    """Benchmarks of pairs to verify on beside the held-out subjects, each with a name of its own;
    synthetic ones are drawn with the run's seed."""

    @staticmethod
    def modern(settings: Settings) -> Settings:
        margin = settings.get("margin")
        if not isinstance(margin, dict) or not isinstance(margin.get("arguments", {}), dict):
            return settings
        own = {name: value for name, value in margin.items() if name != "arguments" and value is not None}
        return {**settings, "margin": {**own, **margin.get("arguments", {})}}

    @model_validator(mode="after")
    def _check(self) -> "Stage1Config":
        names = [entry.name for entry in self.verify]
        distinct = len(set(names)) == len(names) and "held_out" not in names and all(names)
        require(distinct, "verify", "benchmarks with different names, none of them 'held_out' or empty", names)
        figures = [f"{name}_{figure}" for name in names for figure in ("eer", "accuracy")]
        held_out = self.data.holdout > 0
        figures = ["held_out_eer", *figures] if held_out else figures
        expected = f"one of {', '.join(figures) or 'none: add a verify entry'}"
        expected += "" if held_out else " (data.holdout is 0)"
        require(self.training.best in figures, "training.best", expected, self.training.best)
        for phase in self.by_phase():
            phase._check_batches()
        labelled = [name for name in ("margin", "center", "triplet") if getattr(self, name).weight > 0]
        if labelled and self.distillation.mix > 0:
            raise ConfigError(f"distillation.mix: a blend has no label; set {labelled[0]}.weight to 0")
        if not (labelled or self.distillation.teacher):
            raise ConfigError("nothing to learn: margin, center and triplet have weight 0 and there is no teacher")
        return self

    def _check_batches(self) -> None:
        """Refuse what cannot be accumulated, and what needs the whole batch, or state of its own, on each device."""
        accumulate, samples = self.training.accumulate, self.margin.weight > 0 and self.margin.sample < 1
        expected = "1 with margin.sample below 1, where each batch has classes of its own"
        require(accumulate == 1 or not samples, "training.accumulate", expected, accumulate)
        alone = {
            "margin.sample below 1": self.margin.sample < 1,
            "triplet.weight": self.triplet.weight > 0,
            "training.accumulate": accumulate > 1,
            "training.precision mixed_float16": self.training.precision == "mixed_float16",
        }
        used = ", ".join(name for name, present in alone.items() if present)
        kind = self.distribution.kind
        require(kind == "none" or not used, "distribution.kind", f"none with {used}", kind)

    def by_phase(self) -> "tuple[Stage1Config, ...]":
        """The configuration of each phase, with its own `training.epochs`; itself without phases.

        Raises:
            ConfigError: A phase has a setting that is unknown or out of range.
        """
        if not self.phases:
            return (self,)
        phases = []
        for number, phase in enumerate(self.phases):
            keeps_margin = phase.margin.get("name", self.margin.name) == self.margin.name
            whole = self.replace(phases=(), margin=self.margin if keeps_margin else MarginConfig())
            changes = phase.model_dump(exclude={"epochs", "train"})
            changes["training"]["epochs"] = phase.epochs
            phases.append(change_config(whole, changes, source=f"phases[{number}]"))
        return tuple(phases)


class CodeLossConfig(Section):
    """What every loss on codes has beside its own settings."""

    name: str
    weight: NonNegativeFloat = 1.0
    """0 switches the loss off."""

    @property
    def settings(self) -> dict[str, Any]:
        """The loss's own settings."""
        return self.model_dump(exclude={"name", "weight"})


class CodeTripletConfig(CodeLossConfig):
    """Triplet loss (Hermans et al., 2017; `semi_hard`: Schroff et al., CVPR 2015)."""

    name: Literal["triplet"] = "triplet"
    margin: NonNegativeFloat = 0.1
    mining: Mining = "batch_hard"
    distance: Literal["comparison", "collision", "asymmetric", "euclidean", "cosine"] = "comparison"
    """`collision`: expected share of differing positions. `asymmetric`: 1 - cosine of a code, read back, and a keyed
    row. `comparison`: that of the two which `hasher.comparison` names. `euclidean`, `cosine`: of the codes."""


class ArcTripletConfig(CodeLossConfig):
    """Deep rank hashing (Dong et al., Pattern Recognition 2022)."""

    name: Literal["arc_triplet"] = "arc_triplet"
    margin: Angle = 0.1
    mining: Literal["batch_hard", "batch_all"] = "batch_hard"


class WeightedMarginConfig(CodeLossConfig):
    """Margin loss with distance-weighted non-mated pairs (Wu et al., ICCV 2017)."""

    name: Literal["weighted_margin"] = "weighted_margin"
    boundary: UnitDistance = 1.25
    """beta: distance of unit codes between mated and non-mated; 1.41 for unrelated ones."""
    width: NonNegativeFloat = 0.1
    """alpha: how far from the boundary a pair should be."""
    cutoff: UnitDistance = 0.5
    """Nearer pairs weigh no more than one at this distance."""
    dimension: Annotated[int, Field(ge=3)] = 64
    """Effective dimension of the embeddings: sets how the density falls with distance."""


class MultiSimilarityConfig(CodeLossConfig):
    """Multi-similarity loss (Wang et al., CVPR 2019)."""

    name: Literal["multi_similarity"] = "multi_similarity"
    mated_slope: PositiveFloat = 2.0
    non_mated_slope: PositiveFloat = 40.0
    boundary: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """lambda: similarity around which pairs count; 0 for unrelated codes, 1 for equal ones."""
    mining_margin: NonNegativeFloat = 0.1
    """epsilon: pairs that are right by more than this are left out."""


class QuantizationConfig(CodeLossConfig):
    """Distance of the softmax of a position from a decision for one symbol, or of a row from its code."""

    name: Literal["quantization"] = "quantization"
    form: Literal["one_max", "entropy", "rounding", "reconstruction", "anisotropic"] = "one_max"
    """`rounding`: of the soft index, as in deep rank hashing. `reconstruction`: squared length of the
    keyed row less its code, read back; `anisotropic`: the same, the part along the row weighing more."""
    parallel_weight: Annotated[float, Field(ge=1)] = 4.0
    """How much more, with `anisotropic`."""


class BalanceConfig(CodeLossConfig):
    """Unequal use of the symbols at a position."""

    name: Literal["balance"] = "balance"


class DecorrelationConfig(CodeLossConfig):
    """Correlation of two positions."""

    name: Literal["decorrelation"] = "decorrelation"


class BinarizationConfig(CodeLossConfig):
    """Distance of softened binary words from bits."""

    name: Literal["binarization"] = "binarization"
    words: Literal["binary", "one_hot", "simplex"] = "binary"
    """`binary`: the symbol's digits. `one_hot`. `simplex`: all at one distance, half the length."""
    form: Literal["tanh", "sigmoid"] = "tanh"
    """`tanh`: towards -1 and 1. `sigmoid`: towards 0 and 1."""
    slope: PositiveFloat = 3.0


class CodeDistillationConfig(CodeLossConfig):
    """Deviation of collision probability, or asymmetric cosine, from what the cosine of the embeddings lets expect."""

    name: Literal["distillation"] = "distillation"
    centre: Cosine = 0.3
    """Cosine at which a pair counts most: where decisions are taken."""
    width: PositiveFloat = 0.15
    """Standard deviation of the weight around that cosine."""
    floor: NonNegativeFloat = 0.05
    """Weight of pairs far from it."""


class LogisticConfig(CodeLossConfig):
    """Logistic loss of the decision by collision probability, or by asymmetric cosine."""

    name: Literal["logistic"] = "logistic"
    centre: Cosine = 0.3
    """Threshold of the decision: an asymmetric cosine, or a cosine whose collision probability it is."""
    slope: NonNegativeFloat = 30.0
    """Steepness around it."""


class OperatingPointConfig(CodeLossConfig):
    """Mated pairs below the threshold that the non-mated pairs of the batch set; reads asymmetric cosines or codes."""

    name: Literal["operating_point"] = "operating_point"
    softness: PositiveFloat = 0.05
    """Of the maximum over non-mated pairs that is the threshold: small values look at the closest pairs alone."""
    slope: PositiveFloat = 10.0
    """Steepness of the loss around it."""


class LinkabilityConfig(CodeLossConfig):
    """Linkability term of the Secure Triplet Loss (Pinto et al., IEEE TBIOM 2021).

    Hashes each batch under a second key.
    """

    name: Literal["linkability"] = "linkability"
    form: Literal["divergence", "statistics"] = "divergence"
    """`divergence` of normal distributions, or `statistics`: differences of mean and deviation."""


class ClassificationConfig(CodeLossConfig):
    """Classification of the training subjects by a head on the relaxed codes, which is not kept."""

    name: Literal["classification"] = "classification"
    head: Literal["hashed", "weights"] = "hashed"
    """`hashed`: a subject's centre is an embedding, hashed under the key of the batch. `weights`:
    a centre in code space, which subjects have with `key: identity` only."""
    form: Literal["arcface", "normalised_softmax"] = "arcface"
    margin: Angle = 0.3
    scale: PositiveFloat = 32.0


AnyCodeLoss = Annotated[
    CodeTripletConfig
    | ArcTripletConfig
    | WeightedMarginConfig
    | MultiSimilarityConfig
    | QuantizationConfig
    | BalanceConfig
    | DecorrelationConfig
    | BinarizationConfig
    | CodeDistillationConfig
    | LogisticConfig
    | OperatingPointConfig
    | LinkabilityConfig
    | ClassificationConfig,
    Field(discriminator="name"),
]
"""A loss of the list, known by its name. To add one, add its model."""

CODE_LOSSES: dict[str, type[CodeLossConfig]] = {
    loss.model_fields["name"].default: loss for loss in get_args(get_args(AnyCodeLoss)[0])
}
"""Name of each loss to the model of its settings."""


def losses_from_flat(flat: dict[str, Any]) -> list[dict[str, Any]]:
    """The list of losses for a section of the old form, `{triplet: 1.0, triplet_margin: 0.1, ...}`.

    Losses of weight 0 are left out.
    """
    losses = []
    for name, loss in CODE_LOSSES.items():
        if not flat.get(name):
            continue
        settings = {field: flat[f"{name}_{field}"] for field in loss.model_fields if f"{name}_{field}" in flat}
        if name == "logistic" and "distillation_centre" in flat:
            settings["centre"] = flat["distillation_centre"]
        losses.append({"name": name, "weight": flat[name], **settings})
    return losses


SHORT_CODES: dict[str, Any] = {
    "projection": "product",
    "code_length": 64,
    "alphabet_size": 16,
    "comparison": "asymmetric",
    "window": 2,
    "refinement_steps": 0,
    "train_projection": True,
    "whitening": 0.0,
}
"""Settings of the hasher of stage 2, where a configuration names no projection."""


class Stage2Config(Section):
    """Everything `iom train-stage2` reads."""

    seed: int = 1
    deterministic: bool = False
    data: FolderConfig = FolderConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    hasher: HasherConfig = HasherConfig(**SHORT_CODES)
    """A section that names no projection is the product frame of short codes, with the changes it names."""
    losses: Many[AnyCodeLoss] = (QuantizationConfig(form="reconstruction"),)
    """Each with a name, a weight and settings of its own."""
    batches: BatchConfig = BatchConfig(subjects=300, steps_per_epoch=50)
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", learning_rate=4e-3, weight_decay=0.0, warmup_epochs=0.0)
    epochs: NonNegativeInt = 4
    """0 trains nothing by gradient: frame, whitening and refinement as they start."""
    checkpoint_steps: NonNegativeInt = 0
    """Also save the resumable state every so many steps; 0: at the end of each epoch only."""
    key: Literal["random", "identity"] = "random"
    """`random`: a fresh key for every batch. `identity`: none, as in deep rank hashing."""
    fine_tune: bool = False
    """Train the backbone too, from images; otherwise it is frozen and embeddings are cached."""
    fine_tune_from: str = ""
    """With `fine_tune`: name of the first layer of the backbone that trains, such as that of its last block; those
    before it stay as they are. Empty: all train."""
    xla: bool = False
    """Compile the step with XLA: some seconds more at the start, up to twice as fast afterwards."""
    calibration: CalibrationConfig = CalibrationConfig()

    @staticmethod
    def modern(settings: Settings) -> Settings:
        losses = settings.get("losses")
        return {**settings, "losses": losses_from_flat(losses)} if isinstance(losses, dict) else settings

    @field_validator("hasher", mode="before")
    @classmethod
    def _of_short_codes(cls, given: Any) -> Any:
        return {**SHORT_CODES, **given} if isinstance(given, dict) and "projection" not in given else given

    @model_validator(mode="after")
    def _check(self) -> "Stage2Config":
        expected = "false with fine_tune, whose convolutions XLA makes many times slower on a CPU"
        require(not (self.xla and self.fine_tune), "xla", expected, self.xla)
        second, flip = self.embedder.second_weights, self.embedder.flip
        expected = "empty without fine_tune"
        require(self.fine_tune or not self.fine_tune_from, "fine_tune_from", expected, self.fine_tune_from)
        require(not (self.fine_tune and second), "embedder.second_weights", "none with fine_tune", second)
        require(not (self.fine_tune and flip), "embedder.flip", "false with fine_tune, on plain images", flip)
        names = [loss.name for loss in self.losses]
        require(len(set(names)) == len(names), "losses", "each loss once", names)
        expected = f"at least one with a weight above 0, of {', '.join(CODE_LOSSES)}"
        require(any(loss.weight > 0 for loss in self.losses), "losses", expected, names)
        if self.key == "identity":
            require(self.batches.keys == 1, "batches.keys", "1 with key: identity", self.batches.keys)
            require(not self.links_keys, "losses.linkability.weight", "0 with key: identity", self.losses)
        return self

    @property
    def links_keys(self) -> bool:
        """Whether a loss compares codes of two keys."""
        return any(loss.name == "linkability" and loss.weight > 0 for loss in self.losses)


class EvaluateConfig(Section):
    """Everything `iom evaluate` reads."""

    seed: int = 1
    benchmark: BenchmarkConfig = BenchmarkConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    hasher: str = ""
    """Folder or name of a trained hasher, or an artefact of `iom deploy` that is the embedder, too;
    needed for `learned`."""
    hashers: dict[str, str] = Field(default_factory=dict)
    """More trained hashers: name of the system to folder, such as `{fixed_key: DIR}`."""
    code: CodeConfig = CodeConfig()
    """Shape of the baselines' codes."""
    scenario: ScenarioConfig = ScenarioConfig()
    report: ReportConfig = ReportConfig()

    @staticmethod
    def modern(settings: Settings) -> Settings:
        code = settings.get("code")
        if not isinstance(code, dict):
            return settings
        removed = set(HasherConfig.model_fields) - set(CodeConfig.model_fields)
        return {**settings, "code": {name: value for name, value in code.items() if name not in removed}}


class VariantConfig(Section):
    """One named way to make codes; a line of the picture."""

    name: str
    set: Settings = Field(default_factory=dict)
    """Settings of stage 2 by dotted name, such as `hasher.whitening: 0`."""
    train: bool = True
    """False takes the hasher as it starts: whitening, frame and refinement, but no training."""

    @model_validator(mode="after")
    def _check(self) -> "VariantConfig":
        require(bool(self.name.strip()), "name", "a name", self.name)
        return self


class SweepConfig(Section):
    """Everything `iom sweep` reads: a grid over stage 2 configurations.

    Every variant is measured at every point of the grid, each beside the baselines of its shape.
    """

    stage2: Annotated[str, Field(min_length=1)] = "stage2/base"
    """Stage 2 configuration that every row starts from."""
    set: Settings = Field(default_factory=dict)
    """Settings of stage 2 for all rows, by dotted name or in sections."""
    grid: Settings = Field(default_factory=dict)
    """Dotted setting -> list of values. Several settings, parted by commas, change together: then
    each value is a list with one entry for each of them."""
    variants: Many[VariantConfig] = ()
    """Without any there is one, `learned`."""
    baselines: Many[str] = ("grp",)
    """Data-agnostic protections, measured once for every code shape."""
    keys: PositiveInt = 10
    """Keys that the codes of the held-out subjects are compared under."""
    evaluate: str = ""
    """Optional evaluation configuration: its benchmark is measured too. Choose nothing by it."""
    keep_runs: bool = True
    """False removes the folder of a run once its row is measured."""

    @model_validator(mode="after")
    def _check(self) -> "SweepConfig":
        for name, values in self.grid.items():
            listed = isinstance(values, list | tuple) and len(values) > 0
            require(listed, f"grid.{name}", "a list of values", values)
            width = len(settings_of(name))
            for value in values if width > 1 else ():
                fits = isinstance(value, list | tuple) and len(value) == width
                require(fits, f"grid.{name}", f"lists of {width} values", value)
        names = [variant.name for variant in self.variants]
        require(len(set(names)) == len(names), "variants", "distinct names", names)
        return self


def settings_of(name: str) -> list[str]:
    """Dotted settings of one entry of the grid: `"a.b, a.c"` -> `["a.b", "a.c"]`."""
    return [part.strip() for part in name.split(",")]
