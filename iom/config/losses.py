"""Section of the losses on codes: the weight of each, and its settings under its name."""

import dataclasses

from iom.config.checks import require


@dataclasses.dataclass(frozen=True)
class CodeLossConfig:
    """Weights of the losses, 0 switches one off; the fields after a weight set that loss."""

    triplet: float = 1.0
    triplet_margin: float = 0.1
    triplet_mining: str = "batch_hard"
    """`batch_hard`, `batch_all` or `semi_hard`."""
    triplet_distance: str = "collision"
    """`collision`: expected share of differing positions. `euclidean`, `cosine`: of the codes."""

    arc_triplet: float = 0.0
    arc_triplet_margin: float = 0.1
    """An angle, in radians."""
    arc_triplet_mining: str = "batch_hard"
    """`batch_hard` or `batch_all`."""

    weighted_margin: float = 0.0
    """Margin loss, its non-mated pairs weighted against the density of distances."""
    weighted_margin_boundary: float = 1.25
    """beta: distance of unit codes between mated and non-mated; 1.41 for unrelated ones."""
    weighted_margin_width: float = 0.1
    """alpha: how far from the boundary a pair should be."""
    weighted_margin_cutoff: float = 0.5
    """Nearer pairs weigh no more than one at this distance."""
    weighted_margin_dimension: int = 64
    """Dimensions that embeddings really fill: sets how the density falls with distance."""

    multi_similarity: float = 0.0
    multi_similarity_mated_slope: float = 2.0
    multi_similarity_non_mated_slope: float = 40.0
    multi_similarity_boundary: float = 0.15
    """lambda: similarity around which pairs count; 0 for unrelated codes, 1 for equal ones."""
    multi_similarity_mining_margin: float = 0.1
    """epsilon: pairs that are right by more than this are left out."""

    quantization: float = 0.01
    quantization_form: str = "one_max"
    """`one_max`, `entropy`, or `rounding` of the soft index (the ancestor's)."""

    balance: float = 0.1
    """Every symbol used equally at every position."""

    decorrelation: float = 0.0
    """No position follows from another."""

    binarization: float = 0.0
    """Words of a look-up table, softened, are pushed to bits."""
    binarization_words: str = "binary"
    """`binary`: the symbol's digits. `one_hot`. `simplex`: all at one distance, half the length."""
    binarization_form: str = "tanh"
    """`tanh`: towards -1 and 1. `sigmoid`: towards 0 and 1."""
    binarization_slope: float = 3.0

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

    linkability: float = 0.0
    """One subject under two keys looks like two subjects; hashes each batch under a second key."""
    linkability_form: str = "divergence"
    """`divergence` of normal distributions, or `statistics`: differences of mean and deviation."""

    classification: float = 0.0
    """Tell training subjects apart by a head on the relaxed codes, which is not kept."""
    classification_head: str = "hashed"
    """`hashed`: a subject's centre is an embedding, hashed under the key of the batch. `weights`:
    a centre in code space, which subjects have with `key: identity` only."""
    classification_form: str = "arcface"
    """`arcface` or `normalised_softmax`."""
    classification_margin: float = 0.3
    """An angle, in radians."""
    classification_scale: float = 32.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in CHOICES:
                choices = CHOICES[field.name]
                require(value in choices, f"losses.{field.name}", " or ".join(choices), value)
            else:
                require(value >= 0, f"losses.{field.name}", "at least 0", value)
        for name in POSITIVE:
            value = getattr(self, name)
            require(value > 0, f"losses.{name}", "a positive number", value)
        for name in ANGLES:
            value = getattr(self, name)
            require(value < 1.5, f"losses.{name}", "0 to 1.5 radians", value)
        self._check_points()
        parts = tuple(getattr(self, name) for name in WEIGHTS)
        require(any(parts), "losses", f"at least one weight above 0 ({', '.join(WEIGHTS)})", parts)

    def _check_points(self) -> None:
        """Refuse places on a scale that lie off it."""
        require(
            -1 < self.distillation_centre < 1,
            "losses.distillation_centre",
            "a cosine between -1 and 1",
            self.distillation_centre,
        )
        require(
            0 < self.weighted_margin_boundary < 2,
            "losses.weighted_margin_boundary",
            "a distance of unit vectors between 0 and 2",
            self.weighted_margin_boundary,
        )
        require(
            0 < self.weighted_margin_cutoff < 2,
            "losses.weighted_margin_cutoff",
            "a distance of unit vectors between 0 and 2",
            self.weighted_margin_cutoff,
        )
        require(
            self.weighted_margin_dimension >= 3,
            "losses.weighted_margin_dimension",
            "at least 3",
            self.weighted_margin_dimension,
        )
        require(
            self.multi_similarity_boundary < 1,
            "losses.multi_similarity_boundary",
            "a similarity from 0 to 1",
            self.multi_similarity_boundary,
        )


WEIGHTS = (
    "triplet", "arc_triplet", "weighted_margin", "multi_similarity", "quantization", "balance",
    "decorrelation", "binarization", "distillation", "logistic", "linkability", "classification",
)  # fmt: skip
"""The fields that are weights: one for each loss."""

CHOICES = {
    "triplet_mining": ("batch_hard", "batch_all", "semi_hard"),
    "triplet_distance": ("collision", "euclidean", "cosine"),
    "arc_triplet_mining": ("batch_hard", "batch_all"),
    "quantization_form": ("one_max", "entropy", "rounding"),
    "binarization_words": ("binary", "one_hot", "simplex"),
    "binarization_form": ("tanh", "sigmoid"),
    "linkability_form": ("divergence", "statistics"),
    "classification_head": ("hashed", "weights"),
    "classification_form": ("arcface", "normalised_softmax"),
}
"""The fields that name an entry of a table in `iom.nn.losses.code`, and its entries."""

POSITIVE = (
    "distillation_width",
    "multi_similarity_mated_slope",
    "multi_similarity_non_mated_slope",
    "binarization_slope",
    "classification_scale",
)
ANGLES = ("arc_triplet_margin", "classification_margin")
