"""The losses of stage 2, each made from its settings; the one table of them."""

from collections.abc import Callable

from keras import ops

from iom.config.hashing import HasherConfig
from iom.config.losses import CodeLossConfig
from iom.nn.losses.code.arc_triplet import ARC_TRIPLET_MININGS, code_angles
from iom.nn.losses.code.balance import position_correlation, symbol_imbalance
from iom.nn.losses.code.binarization import BINARIZATIONS, WORDS, softened_words
from iom.nn.losses.code.code_distances import CODE_DISTANCES, code_cosine
from iom.nn.losses.code.code_loss import (
    CLASS_COSINES,
    COLLISIONS,
    COLLISIONS_ACROSS,
    HASHED_CLASS_COSINES,
    RELAXED,
    SOFT,
    CodeLoss,
)
from iom.nn.losses.code.linkability import linkability_loss
from iom.nn.losses.code.logistic import collision_logistic
from iom.nn.losses.code.multi_similarity import multi_similarity_loss
from iom.nn.losses.code.quantization import QUANTIZATIONS
from iom.nn.losses.code.similarity import SimilarityDistillation, collision_at
from iom.nn.losses.code.triplet import TRIPLET_MININGS
from iom.nn.losses.code.weighted_margin import unit_code_distance, weighted_margin_loss
from iom.nn.losses.margin.margin import ArcFaceLoss, NormalisedSoftmaxLoss


def build_objectives(losses: CodeLossConfig, hasher: HasherConfig) -> dict[str, CodeLoss]:
    """The losses whose weight is not zero, by name."""
    return {name: make(losses, hasher) for name, make in OBJECTIVES.items() if getattr(losses, name) > 0}


def _triplet(losses: CodeLossConfig, hasher: HasherConfig) -> CodeLoss:
    mine = TRIPLET_MININGS[losses.triplet_mining]
    reads, distance = CODE_DISTANCES[losses.triplet_distance]
    return CodeLoss("triplet", reads, lambda labels, part: mine(distance(part), labels, margin=losses.triplet_margin))


def _arc_triplet(losses: CodeLossConfig, hasher: HasherConfig) -> CodeLoss:
    mine = ARC_TRIPLET_MININGS[losses.arc_triplet_mining]
    return CodeLoss(
        "arc_triplet", RELAXED, lambda labels, codes: mine(code_angles(codes), labels, margin=losses.arc_triplet_margin)
    )


def _weighted_margin(losses: CodeLossConfig, hasher: HasherConfig) -> CodeLoss:
    return CodeLoss(
        "weighted_margin",
        COLLISIONS,
        lambda labels, collisions: weighted_margin_loss(
            unit_code_distance(code_cosine(collisions, hasher.alphabet_size)),
            labels,
            boundary=losses.weighted_margin_boundary,
            width=losses.weighted_margin_width,
            cutoff=losses.weighted_margin_cutoff,
            dimension=losses.weighted_margin_dimension,
        ),
    )


def _multi_similarity(losses: CodeLossConfig, hasher: HasherConfig) -> CodeLoss:
    return CodeLoss(
        "multi_similarity",
        COLLISIONS,
        lambda labels, collisions: multi_similarity_loss(
            code_cosine(collisions, hasher.alphabet_size),
            labels,
            mated_slope=losses.multi_similarity_mated_slope,
            non_mated_slope=losses.multi_similarity_non_mated_slope,
            boundary=losses.multi_similarity_boundary,
            mining_margin=losses.multi_similarity_mining_margin,
        ),
    )


def _quantization(losses: CodeLossConfig, hasher: HasherConfig) -> CodeLoss:
    measure = QUANTIZATIONS[losses.quantization_form]
    return CodeLoss("quantization", SOFT, lambda _, soft: measure(soft))


def _balance(losses: CodeLossConfig, hasher: HasherConfig) -> CodeLoss:
    return CodeLoss("balance", RELAXED, lambda _, codes: symbol_imbalance(codes))


def _decorrelation(losses: CodeLossConfig, hasher: HasherConfig) -> CodeLoss:
    return CodeLoss("decorrelation", RELAXED, lambda _, codes: position_correlation(codes))


def _binarization(losses: CodeLossConfig, hasher: HasherConfig) -> CodeLoss:
    words = WORDS[losses.binarization_words](hasher.alphabet_size)
    measure = BINARIZATIONS[losses.binarization_form]
    return CodeLoss(
        "binarization", SOFT, lambda _, soft: measure(softened_words(soft, words), slope=losses.binarization_slope)
    )


def _distillation(losses: CodeLossConfig, hasher: HasherConfig) -> CodeLoss:
    measure = SimilarityDistillation(
        hasher.code_length,
        hasher.alphabet_size,
        centre=losses.distillation_centre,
        width=losses.distillation_width,
        floor=losses.distillation_floor,
    )
    return CodeLoss("distillation", COLLISIONS, measure)


def _logistic(losses: CodeLossConfig, hasher: HasherConfig) -> CodeLoss:
    threshold = collision_at(losses.distillation_centre, hasher.alphabet_size)
    return CodeLoss(
        "logistic",
        COLLISIONS,
        lambda labels, collisions: collision_logistic(
            collisions, labels, threshold=threshold, slope=losses.logistic_slope
        ),
    )


def _linkability(losses: CodeLossConfig, hasher: HasherConfig) -> CodeLoss:
    return CodeLoss(
        "linkability",
        COLLISIONS_ACROSS,
        lambda labels, collisions: linkability_loss(
            1.0 - collisions, labels, form=losses.linkability_form, resolution=1.0 / hasher.code_length
        ),
    )


def _classification(losses: CodeLossConfig, hasher: HasherConfig) -> CodeLoss:
    rows = CLASSIFICATION_FORMS[losses.classification_form](losses)
    return CodeLoss(
        "classification",
        CLASS_HEADS[losses.classification_head],
        lambda labels, cosines: ops.mean(rows.call(labels, cosines)),
    )


CLASSIFICATION_FORMS = {
    "arcface": lambda losses: ArcFaceLoss(losses.classification_margin, losses.classification_scale),
    "normalised_softmax": lambda losses: NormalisedSoftmaxLoss(losses.classification_scale),
}

CLASS_HEADS = {"hashed": HASHED_CLASS_COSINES, "weights": CLASS_COSINES}
"""Choice of head -> what the loss then reads."""

OBJECTIVES: dict[str, Callable[[CodeLossConfig, HasherConfig], CodeLoss]] = {
    "triplet": _triplet,
    "arc_triplet": _arc_triplet,
    "weighted_margin": _weighted_margin,
    "multi_similarity": _multi_similarity,
    "quantization": _quantization,
    "balance": _balance,
    "decorrelation": _decorrelation,
    "binarization": _binarization,
    "distillation": _distillation,
    "logistic": _logistic,
    "linkability": _linkability,
    "classification": _classification,
}
"""Field of `CodeLossConfig` with the weight -> maker of the loss."""

READS_EMBEDDINGS = frozenset({"distillation"})
"""Losses whose truth is the embeddings, not the labels."""
