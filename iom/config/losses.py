"""Settings of the losses on codes, one model for each; `Stage2Config.losses` is a list of them."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, NonNegativeFloat, PositiveFloat

from iom.config.base import Section

Angle = Annotated[float, Field(ge=0, lt=1.5)]
"""Radians."""
UnitDistance = Annotated[float, Field(gt=0, lt=2)]
"""Distance of unit vectors."""
Mining = Literal["batch_hard", "batch_all", "semi_hard"]


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
    distance: Literal["collision", "euclidean", "cosine"] = "collision"
    """`collision`: expected share of differing positions. `euclidean`, `cosine`: of the codes."""


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
    """Distance of the softmax of a position from a decision for one symbol."""

    name: Literal["quantization"] = "quantization"
    form: Literal["one_max", "entropy", "rounding"] = "one_max"
    """`rounding`: of the soft index, as in deep rank hashing."""


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
    """Deviation of the collision probability from that of the cosine of the embeddings."""

    name: Literal["distillation"] = "distillation"
    centre: Annotated[float, Field(gt=-1, lt=1)] = 0.3
    """Cosine at which a pair counts most: where decisions are taken."""
    width: PositiveFloat = 0.15
    """Standard deviation of the weight around that cosine."""
    floor: NonNegativeFloat = 0.05
    """Weight of pairs far from it."""


class LogisticConfig(CodeLossConfig):
    """Logistic loss of the decision by collision probability."""

    name: Literal["logistic"] = "logistic"
    centre: Annotated[float, Field(gt=-1, lt=1)] = 0.3
    """Cosine whose collision probability is the threshold of the decision."""
    slope: NonNegativeFloat = 30.0
    """Steepness around it."""


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
