"""What each command reads: one frozen dataclass per command, made of sections."""

import dataclasses

from iom.config.checks import require
from iom.config.distribution import NONE, DistributionConfig
from iom.config.hashing import BatchConfig, CalibrationConfig, HasherConfig
from iom.config.heads import CenterConfig, MarginConfig, TripletConfig
from iom.config.loading import change_config
from iom.config.losses import CodeLossConfig
from iom.config.phases import PhaseConfig
from iom.config.sections import (
    AugmentationConfig,
    BackboneConfig,
    DistillationConfig,
    EmbedderConfig,
    FolderConfig,
    OptimizerConfig,
    TrainingConfig,
)
from iom.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Where the verification pairs come from."""

    name: str = "lfw"
    source: str = "pairs"
    """`pairs`: a list over a folder (LFW). `two_lines` (CALFW, CPLFW), `cfp`, `youtube_faces`,
    `ijb`: lists as those were published. `bin`: an InsightFace file. `carray`: a bcolz folder
    with its list. `folder`: all mated pairs of a folder of subjects and as many others; `path` may
    list its images. `synthetic`: faces of nobody. Identification has protocols of its own.
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
    pooling: str = "mean"
    """Identification, templates of several images: `mean` of embeddings, `vote` of symbols, or the
    `nearest` of all of them, which then stay references of their own.
    """
    gallery_images: int = 1
    """`folder` (identification): enrolment images of each subject."""
    subjects: int = 60
    """`synthetic`: how many subjects."""
    images: int = 4
    """`synthetic`: images of each."""


@dataclasses.dataclass(frozen=True)
class ScenarioConfig:
    """Which systems are compared, under how many keys, and how the intervals are found."""

    systems: tuple[str, ...] = ("float", "grp", "learned")
    scenarios: tuple[str, ...] = ("own_key", "stolen_key")
    """Of the systems that have a key."""
    keys: int = 5
    bootstrap: int = 200
    confidence: float = 0.95

    def __post_init__(self) -> None:
        require(
            "stolen_key" in self.scenarios and set(self.scenarios) <= {"own_key", "stolen_key"},
            "scenario.scenarios",
            "stolen_key, and own_key or not",
            self.scenarios,
        )
        require(self.keys >= 1, "scenario.keys", "at least 1", self.keys)
        require(self.bootstrap >= 0, "scenario.bootstrap", "at least 0", self.bootstrap)
        require(0 < self.confidence < 1, "scenario.confidence", "0 < confidence < 1", self.confidence)


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """What `iom evaluate --report` computes beside the pairs, and how much of it."""

    identification: bool = True
    """Closed-set and open-set search among the benchmark's images, in two galleries."""
    linkability: bool = True
    """D_sys between templates of different keys."""
    attacks: bool = True
    """Attacks with template, key and model disclosed."""
    keys: int = 3
    """Test keys of identification, and pairs of keys of linkability."""
    replicates: int = 100
    """Draws for the intervals of identification and linkability; 0 for none."""
    pairs: int = 20000
    """Largest number of comparisons of each kind for linkability."""
    attack_names: tuple[str, ...] = (
        "closed_form", "prior_regressor", "keyed_linker", "sorted_values", "one_guess"
    )  # fmt: skip
    """Of `iom.attacks.ATTACKS`; these take seconds, others up to minutes a system."""
    victims: int = 20
    old_keys: int = 2
    """Keys that leak with the templates; each repeats all attacks."""
    fresh_keys: int = 40
    """Keys that the victims are renewed under."""
    records: tuple[int, ...] = (2, 5)
    """Numbers of records for attacks that take several."""
    worst_pairs: int = 8
    """Pairs of each kind that are listed by file name."""

    def __post_init__(self) -> None:
        for field in ("keys", "old_keys", "worst_pairs"):
            require(getattr(self, field) >= 1, f"report.{field}", ">= 1", getattr(self, field))
        require(self.replicates >= 0, "report.replicates", "at least 0", self.replicates)
        require(self.pairs >= 100, "report.pairs", "at least 100", self.pairs)
        require(self.victims >= 2, "report.victims", "at least 2", self.victims)
        require(self.fresh_keys >= 40, "report.fresh_keys", "at least 40", self.fresh_keys)
        require(all(n >= 2 for n in self.records), "report.records", ">= 2 each", self.records)


@dataclasses.dataclass(frozen=True)
class Stage1Config:
    """Everything `iom train-stage1` reads."""

    seed: int = 1
    deterministic: bool = False
    data: FolderConfig = dataclasses.field(default_factory=FolderConfig)
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    backbone: BackboneConfig = dataclasses.field(default_factory=BackboneConfig)
    margin: MarginConfig = dataclasses.field(default_factory=MarginConfig)
    center: CenterConfig = dataclasses.field(default_factory=CenterConfig)
    triplet: TripletConfig = dataclasses.field(default_factory=TripletConfig)
    distillation: DistillationConfig = dataclasses.field(default_factory=DistillationConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    distribution: DistributionConfig = dataclasses.field(default_factory=DistributionConfig)
    phases: tuple[PhaseConfig, ...] = ()
    """Phases of the training, one after the other; without any, all epochs are one phase."""
    verify: tuple[BenchmarkConfig, ...] = ()
    """Benchmarks of pairs to verify on beside the held-out subjects, each with a name of its own;
    synthetic ones are drawn with the run's seed."""

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.verify]
        require(
            len(set(names)) == len(names) and "held_out" not in names and all(names),
            "verify",
            "benchmarks with different names, none of them 'held_out' or empty",
            names,
        )
        figures = [f"{name}_{figure}" for name in names for figure in ("eer", "accuracy")]
        if self.data.holdout > 0:
            figures.insert(0, "held_out_eer")
        require(
            self.training.best in figures,
            "training.best",
            f"one of {', '.join(figures) or 'none: add a verify entry'}"
            + ("" if self.data.holdout > 0 else " (data.holdout is 0)"),
            self.training.best,
        )
        for phase in self.by_phase():
            phase._check_distribution()
        labelled = [name for name in ("margin", "center", "triplet") if getattr(self, name).weight > 0]
        if labelled and self.distillation.mix > 0:
            raise ConfigError(f"distillation.mix: a blend has no label; set {labelled[0]}.weight to 0")
        if not (labelled or self.distillation.teacher):
            raise ConfigError("nothing to learn: margin, center and triplet have weight 0 and there is no teacher")

    def _check_distribution(self) -> None:
        """Refuse what needs the whole batch, or state of its own, on each device."""
        alone = {
            "margin.sample below 1": self.margin.sample < 1,
            "triplet.weight": self.triplet.weight > 0,
            "training.accumulate": self.training.accumulate > 1,
            "training.precision mixed_float16": self.training.precision == "mixed_float16",
        }
        used = [name for name, present in alone.items() if present]
        require(
            self.distribution.kind == NONE or not used,
            "distribution.kind",
            f"{NONE} with {', '.join(used)}",
            self.distribution.kind,
        )

    def by_phase(self) -> "tuple[Stage1Config, ...]":
        """The configuration of each phase, with its own `training.epochs`; itself without phases.

        Raises:
            ConfigError: A phase has a setting that is unknown or out of range.
        """
        if not self.phases:
            return (self,)
        whole = dataclasses.replace(self, phases=())
        fresh = dataclasses.replace(whole, margin=MarginConfig())
        return tuple(
            change_config(
                whole if phase.margin.get("name", self.margin.name) == self.margin.name else fresh,
                phase.changes,
                source=f"phases[{number}]",
            )
            for number, phase in enumerate(self.phases)
        )


@dataclasses.dataclass(frozen=True)
class Stage2Config:
    """Everything `iom train-stage2` reads."""

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
    """0 trains nothing by gradient: frame, whitening and refinement as they start."""
    checkpoint_steps: int = 0
    """Also save the resumable state every so many steps; 0: at the end of each epoch only."""
    key: str = "random"
    """`random`: a fresh key for every batch. `identity`: none, as the ancestor trains."""
    fine_tune: bool = False
    """Train the backbone too, from images; otherwise it is frozen and embeddings are cached."""
    xla: bool = False
    """Compile the step with XLA: some seconds more at the start, up to twice as fast afterwards."""
    calibration: CalibrationConfig = dataclasses.field(default_factory=CalibrationConfig)

    def __post_init__(self) -> None:
        require(self.epochs >= 0, "epochs", "at least 0", self.epochs)
        require(
            not (self.xla and self.fine_tune),
            "xla",
            "false with fine_tune, whose convolutions XLA makes many times slower on a CPU",
            self.xla,
        )
        require(self.checkpoint_steps >= 0, "checkpoint_steps", ">= 0", self.checkpoint_steps)
        require(self.key in ("random", "identity"), "key", "'random' or 'identity'", self.key)
        if self.fine_tune and self.embedder.second_weights:
            raise ConfigError("fine_tune trains one backbone: set embedder.second_weights to ''")
        require(
            self.batches.keys == 1 or self.key == "random",
            "batches.keys",
            "1 with `key: identity`, which is one key for all",
            self.batches.keys,
        )
        require(
            self.losses.linkability == 0 or self.key == "random",
            "losses.linkability",
            "0 with `key: identity`, which is one key for all",
            self.losses.linkability,
        )


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Everything `iom evaluate` reads."""

    seed: int = 1
    benchmark: BenchmarkConfig = dataclasses.field(default_factory=BenchmarkConfig)
    embedder: EmbedderConfig = dataclasses.field(default_factory=EmbedderConfig)
    hasher: str = ""
    """Folder or name of a trained hasher, or an artefact of `iom deploy` that is the embedder, too;
    needed for `learned`."""
    hashers: dict[str, str] = dataclasses.field(default_factory=dict)
    """More trained hashers: name of the system to folder, such as `{ancestor: DIR}`."""
    code: HasherConfig = dataclasses.field(
        default_factory=lambda: HasherConfig(learned_layer=False, projection="gaussian")
    )
    """Shape of the data-agnostic baselines' codes."""
    scenario: ScenarioConfig = dataclasses.field(default_factory=ScenarioConfig)
    report: ReportConfig = dataclasses.field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        require(
            self.code.key_kind == HasherConfig.key_kind,
            "code.key_kind",
            "it left out, as each baseline has a key of its own kind",
            self.code.key_kind,
        )
