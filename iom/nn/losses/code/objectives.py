"""The losses of stage 2, each made from its settings; the one table of them."""

from collections.abc import Callable, Iterable
from typing import Any

from keras import ops

from iom.config import CodeLossConfig, HasherConfig
from iom.nn.losses.code.base import (
    CLASS_COSINES,
    COLLISIONS,
    COLLISIONS_ACROSS,
    HASHED_CLASS_COSINES,
    RELAXED,
    SOFT,
    CodeLoss,
)
from iom.nn.losses.code.pair_losses import (
    collision_logistic,
    linkability_loss,
    multi_similarity_loss,
    unit_code_distance,
    weighted_margin_loss,
)
from iom.nn.losses.code.pairs import CODE_DISTANCES, code_cosine
from iom.nn.losses.code.similarity import SimilarityDistillation, collision_at
from iom.nn.losses.code.symbols import (
    BINARIZATIONS,
    QUANTIZATIONS,
    WORDS,
    position_correlation,
    softened_words,
    symbol_imbalance,
)
from iom.nn.losses.code.triplet import ARC_TRIPLET_MININGS, TRIPLET_MININGS, code_angles
from iom.nn.losses.margin.fixed_margin import ArcFaceLoss, NormalisedSoftmaxLoss


def build_objectives(losses: Iterable[CodeLossConfig], hasher: HasherConfig) -> dict[str, CodeLoss]:
    """The losses whose weight is not zero, by name."""
    return {loss.name: OBJECTIVES[loss.name](loss, hasher) for loss in losses if loss.weight > 0}


def _triplet(loss: Any, hasher: HasherConfig) -> CodeLoss:
    mine = TRIPLET_MININGS[loss.mining]
    reads, distance = CODE_DISTANCES[loss.distance]
    return CodeLoss("triplet", reads, lambda labels, part: mine(distance(part), labels, margin=loss.margin))


def _arc_triplet(loss: Any, hasher: HasherConfig) -> CodeLoss:
    mine = ARC_TRIPLET_MININGS[loss.mining]
    return CodeLoss("arc_triplet", RELAXED, lambda labels, codes: mine(code_angles(codes), labels, margin=loss.margin))


def _weighted_margin(loss: Any, hasher: HasherConfig) -> CodeLoss:
    def measure(labels, collisions):
        distances = unit_code_distance(code_cosine(collisions, hasher.alphabet_size))
        return weighted_margin_loss(distances, labels, **loss.settings)

    return CodeLoss("weighted_margin", COLLISIONS, measure)


def _multi_similarity(loss: Any, hasher: HasherConfig) -> CodeLoss:
    def measure(labels, collisions):
        return multi_similarity_loss(code_cosine(collisions, hasher.alphabet_size), labels, **loss.settings)

    return CodeLoss("multi_similarity", COLLISIONS, measure)


def _quantization(loss: Any, hasher: HasherConfig) -> CodeLoss:
    measure = QUANTIZATIONS[loss.form]
    return CodeLoss("quantization", SOFT, lambda _, soft: measure(soft))


def _balance(loss: Any, hasher: HasherConfig) -> CodeLoss:
    return CodeLoss("balance", RELAXED, lambda _, codes: symbol_imbalance(codes))


def _decorrelation(loss: Any, hasher: HasherConfig) -> CodeLoss:
    return CodeLoss("decorrelation", RELAXED, lambda _, codes: position_correlation(codes))


def _binarization(loss: Any, hasher: HasherConfig) -> CodeLoss:
    words = WORDS[loss.words](hasher.alphabet_size)
    measure = BINARIZATIONS[loss.form]
    return CodeLoss("binarization", SOFT, lambda _, soft: measure(softened_words(soft, words), slope=loss.slope))


def _distillation(loss: Any, hasher: HasherConfig) -> CodeLoss:
    measure = SimilarityDistillation(hasher.code_length, hasher.alphabet_size, **loss.settings)
    return CodeLoss("distillation", COLLISIONS, measure, reads_embeddings=True)


def _logistic(loss: Any, hasher: HasherConfig) -> CodeLoss:
    threshold = collision_at(loss.centre, hasher.alphabet_size)

    def measure(labels, collisions):
        return collision_logistic(collisions, labels, threshold=threshold, slope=loss.slope)

    return CodeLoss("logistic", COLLISIONS, measure)


def _linkability(loss: Any, hasher: HasherConfig) -> CodeLoss:
    def measure(labels, collisions):
        return linkability_loss(1.0 - collisions, labels, form=loss.form, resolution=1.0 / hasher.code_length)

    return CodeLoss("linkability", COLLISIONS_ACROSS, measure)


def _classification(loss: Any, hasher: HasherConfig) -> CodeLoss:
    arcface = loss.form == "arcface"
    rows = ArcFaceLoss(loss.margin, loss.scale) if arcface else NormalisedSoftmaxLoss(loss.scale)
    reads = HASHED_CLASS_COSINES if loss.head == "hashed" else CLASS_COSINES
    return CodeLoss("classification", reads, lambda labels, cosines: ops.mean(rows.call(labels, cosines)))


OBJECTIVES: dict[str, Callable[[Any, HasherConfig], CodeLoss]] = {
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
"""Name of a loss to its maker, which takes the settings and the shape of the code."""
