"""Sections about codes: their shape, their batches, their threshold."""

import dataclasses

from iom.config.checks import require

KEY_KIND_NAMES = ("permutation", "subset", "orthogonal", "part")
"""Keys of `iom.keys.KEY_KINDS`, which is not imported here: reading a file needs no NumPy."""
LARGEST_TEMPERATURE = 1e4


@dataclasses.dataclass(frozen=True)
class HasherConfig:
    """From embedding and key to a code of `code_length` symbols over `alphabet_size` values."""

    code_length: int = 512
    alphabet_size: int = 8
    key_kind: str = "orthogonal"
    """What a key does: `orthogonal`, a rotation; `permutation`, which leaves the sorted values of
    an embedding open to whoever has the code; `subset`, a choice of `keep`; `part`, one of few
    fixed windows of `keep`: a renewal that moves to another window survives the disclosure of
    model, key and template, once for each window that is left. `subset` and `part` move values
    without changing them, as `permutation` does."""
    keep: int = 0
    """Dimensions kept after the key; 0 keeps all."""
    learned_layer: bool = True
    """A learned, key-independent linear layer before the key."""
    train_learned_layer: bool = True
    """False leaves that layer at its start: the identity, or the whitening below."""
    whitening: float = 0.0
    """Share of within-class whitening (WCCN) of the training embeddings in that layer's start."""
    hidden_layers: int = 0
    """Residual PReLU layers behind the linear one, 0 to 3; they start next to the identity."""
    hidden_size: int = 0
    """Units of each; 0 is as many as the embedding has dimensions."""
    bottleneck: int = 0
    """Dimensions of the vector that the key is applied to; 0 is as many as the embedding has."""
    projection: str = "orthonormal"
    """Initial projection after the key: `gaussian`, `orthonormal`, `simplex`, `cross_polytope`."""
    train_projection: bool = False
    refinement_steps: int = 0
    """Steps that correct a row until its code points back at it; 0 is plain Index-of-Max."""
    refinement_gain: float = 4.0
    """How much more of the row a refined code is asked to hold: see `iom.nn.layers.refinement`."""
    inverse_temperature: float = 16.0
    """T of the soft index and of the relaxed codes, at the start of the training."""
    inverse_temperature_end: float = 0.0
    """T at its last step; 0 leaves it as it is."""
    annealing: str = "exponential"
    """How T gets there, step by step: `exponential` or `linear`."""
    straight_through: bool = True
    """Hard codes in the forward pass, the gradient of the soft ones in the backward pass."""

    def __post_init__(self) -> None:
        require(1 <= self.code_length <= 65536, "hasher.code_length", "1 to 65536", self.code_length)
        require(2 <= self.alphabet_size <= 256, "hasher.alphabet_size", "2 to 256", self.alphabet_size)
        require(self.keep >= 0, "hasher.keep", "at least 0 (0 keeps all)", self.keep)
        self._check_key_and_layers()
        self._check_temperature()
        require(0 <= self.refinement_steps <= 100, "hasher.refinement_steps", "0 to 100", self.refinement_steps)
        require(0 <= self.refinement_gain <= 100, "hasher.refinement_gain", "0 <= gain <= 100", self.refinement_gain)
        require(0 <= self.whitening < 1, "hasher.whitening", "0 <= share < 1", self.whitening)
        require(
            self.whitening == 0 or self.learned_layer, "hasher.whitening", "0 without a learned layer", self.whitening
        )

    def _check_key_and_layers(self) -> None:
        require(
            self.key_kind in KEY_KIND_NAMES, "hasher.key_kind", f"one of {', '.join(KEY_KIND_NAMES)}", self.key_kind
        )
        require(
            self.key_kind not in ("subset", "part") or self.keep > 0,
            "hasher.keep",
            f"at least 1 with key_kind '{self.key_kind}'",
            self.keep,
        )
        require(0 <= self.hidden_layers <= 3, "hasher.hidden_layers", "0 to 3", self.hidden_layers)
        require(0 <= self.hidden_size <= 16384, "hasher.hidden_size", "0 (as the embedding) to 16384", self.hidden_size)
        require(
            self.bottleneck == 0 or 2 <= self.bottleneck <= 16384,
            "hasher.bottleneck",
            "0 (as the embedding), or 2 to 16384",
            self.bottleneck,
        )
        require(
            self.bottleneck == 0 or self.keep <= self.bottleneck,
            "hasher.keep",
            f"at most hasher.bottleneck ({self.bottleneck})",
            self.keep,
        )

    def _check_temperature(self) -> None:
        require(
            0 < self.inverse_temperature <= LARGEST_TEMPERATURE,
            "hasher.inverse_temperature",
            f"a positive number up to {LARGEST_TEMPERATURE:g}",
            self.inverse_temperature,
        )
        require(
            0 <= self.inverse_temperature_end <= LARGEST_TEMPERATURE,
            "hasher.inverse_temperature_end",
            f"0 (not annealed) to {LARGEST_TEMPERATURE:g}",
            self.inverse_temperature_end,
        )
        require(
            self.annealing in ("exponential", "linear"), "hasher.annealing", "'exponential' or 'linear'", self.annealing
        )


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """P subjects x K images."""

    subjects: int = 60
    images: int = 4
    keys: int = 1
    """Keys under which each batch is hashed; pairs are compared under one key only."""
    steps_per_epoch: int = 100

    def __post_init__(self) -> None:
        require(self.subjects >= 2, "batches.subjects", "at least 2", self.subjects)
        require(self.images >= 2, "batches.images", "at least 2", self.images)
        require(1 <= self.keys <= 64, "batches.keys", "1 to 64", self.keys)
        require(self.steps_per_epoch >= 1, "batches.steps_per_epoch", ">= 1", self.steps_per_epoch)


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """How the decision threshold is chosen on the held-out subjects."""

    fmr: float = 1e-3
    keys: int = 5
    bootstrap: int = 200
    """Draws of subjects and keys for the intervals; 0 leaves them out."""
    confidence: float = 0.95

    def __post_init__(self) -> None:
        require(0 < self.fmr < 1, "calibration.fmr", "0 < fmr < 1", self.fmr)
        require(self.keys >= 1, "calibration.keys", "at least 1", self.keys)
        require(self.bootstrap >= 0, "calibration.bootstrap", "at least 0", self.bootstrap)
        require(0 < self.confidence < 1, "calibration.confidence", "0 < confidence < 1", self.confidence)
