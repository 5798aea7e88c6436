"""Sections about codes: their shape, their losses, their batches, their threshold."""

import dataclasses

from iom.config.checks import require


@dataclasses.dataclass(frozen=True)
class HasherConfig:
    """From embedding and key to a code of `code_length` symbols over `alphabet_size` values."""

    code_length: int = 512
    alphabet_size: int = 8
    keep: int = 0
    """Dimensions kept after the permutation; 0 keeps all."""
    learned_layer: bool = True
    """A learned, key-independent linear layer before the key."""
    train_learned_layer: bool = True
    """False leaves that layer at its start: the identity, or the whitening below."""
    whitening: float = 0.0
    """Share of within-class whitening (WCCN) of the training embeddings in that layer's start."""
    projection: str = "orthonormal"
    """Initial projection after the key: `gaussian`, `orthonormal`, `simplex`, `cross_polytope`."""
    train_projection: bool = False
    refinement_steps: int = 0
    """Steps that correct a row until its code points back at it; 0 is plain Index-of-Max."""
    refinement_gain: float = 1.25
    """How much of the row the refined code is to hold, in units of the plain code's part."""
    inverse_temperature: float = 16.0
    """T of the soft index and of the relaxed codes."""
    straight_through: bool = True
    """Hard codes in the forward pass, the gradient of the soft ones in the backward pass."""

    def __post_init__(self) -> None:
        require(
            1 <= self.code_length <= 65536, "hasher.code_length", "1 to 65536", self.code_length
        )
        require(
            2 <= self.alphabet_size <= 256, "hasher.alphabet_size", "2 to 256", self.alphabet_size
        )
        require(self.keep >= 0, "hasher.keep", "at least 0 (0 keeps all)", self.keep)
        require(
            self.inverse_temperature > 0,
            "hasher.inverse_temperature",
            "a positive number",
            self.inverse_temperature,
        )
        require(
            0 <= self.refinement_steps <= 100,
            "hasher.refinement_steps",
            "0 to 100",
            self.refinement_steps,
        )
        require(
            0 < self.refinement_gain <= 4,
            "hasher.refinement_gain",
            "0 < gain <= 4",
            self.refinement_gain,
        )
        require(0 <= self.whitening < 1, "hasher.whitening", "0 <= share < 1", self.whitening)
        require(
            self.whitening == 0 or self.learned_layer,
            "hasher.whitening",
            "0 without a learned layer",
            self.whitening,
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
    distillation_centre: float = 0.3
    """Cosine at which a pair counts most: where decisions are taken."""
    distillation_width: float = 0.15
    """Standard deviation of the weight around that cosine."""
    distillation_floor: float = 0.05
    """Weight of pairs far from it."""
    logistic: float = 0.0
    """Decide mated or not by the collision probability, with the labels as truth."""
    logistic_slope: float = 30.0
    """Steepness around the collision probability of `distillation_centre`."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(value >= 0, f"losses.{field.name}", "at least 0", value)
        require(
            self.distillation_width > 0,
            "losses.distillation_width",
            "a positive number",
            self.distillation_width,
        )
        require(
            -1 < self.distillation_centre < 1,
            "losses.distillation_centre",
            "a cosine between -1 and 1",
            self.distillation_centre,
        )
        parts = (
            self.triplet, self.quantization, self.balance, self.distillation, self.logistic
        )  # fmt: skip
        require(any(parts), "losses", "at least one weight above 0", parts)


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """P subjects x K images."""

    subjects: int = 60
    images: int = 4
    steps_per_epoch: int = 100

    def __post_init__(self) -> None:
        require(self.subjects >= 2, "batches.subjects", "at least 2", self.subjects)
        require(self.images >= 2, "batches.images", "at least 2", self.images)
        require(self.steps_per_epoch >= 1, "batches.steps_per_epoch", ">= 1", self.steps_per_epoch)


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """How the decision threshold is chosen on the held-out subjects."""

    fmr: float = 1e-3
    keys: int = 5

    def __post_init__(self) -> None:
        require(0 < self.fmr < 1, "calibration.fmr", "0 < fmr < 1", self.fmr)
        require(self.keys >= 1, "calibration.keys", "at least 1", self.keys)
