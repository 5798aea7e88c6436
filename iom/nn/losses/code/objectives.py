"""The losses of stage 2, each made from its settings; the one table of them.

Each is a measure of a whole batch, on one output of the training graph.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops

from iom.config import CodeLossConfig, HasherConfig
from iom.nn.losses.code.pairs import (
    ARC_TRIPLET_MININGS,
    TRIPLET_MININGS,
    code_angles,
    code_cosine,
    cosine_code_distance,
    decision_logistic,
    euclidean_code_distance,
    linkability_loss,
    multi_similarity_loss,
    operating_point_loss,
    weighted_margin_loss,
)
from iom.nn.losses.code.similarity import collision_at, cosine_distillation, similarity_distillation
from iom.nn.losses.code.symbols import (
    BINARIZATIONS,
    QUANTIZATIONS,
    WORDS,
    position_correlation,
    reconstruction_error,
    softened_words,
    symbol_imbalance,
)
from iom.nn.losses.margin import ArcFaceLoss, NormalisedSoftmaxLoss

COLLISIONS = "collisions"
"""Collision probability of all row pairs, `(B, B)`."""
SOFT = "soft"
"""Softmax of the responses, `(B, M, Q)`."""
RELAXED = "relaxed"
"""Relaxed codes, `(B, M, Q)`: the hard ones with a gradient, or the soft ones."""
COLLISIONS_ACROSS = "collisions_across"
"""Collision probability of rows under one key (first axis) with rows under another, `(B, B)`."""
ASYMMETRIC = "asymmetric"
"""Cosines of all codes, read back, with all keyed rows under the same key, `(B, B)`: stored side, probe."""
CODE_AND_ROW = "code_and_row"
"""Each code, read back, and the keyed row that it is the code of, `(B, 2, K)`."""
CLASS_COSINES = "class_cosines"
"""Cosine of each relaxed code to a centre of each training subject in code space, `(B, C)`."""
HASHED_CLASS_COSINES = "hashed_class_cosines"
"""Likeness of each relaxed code to the code of a centre of each subject, same key, `(B, C)`."""


class CodeLoss(keras.losses.Loss):
    """A loss that reads one output of the training graph, which has its name.

    Args:
        reads: Which part of the graph that output is.
        measure: `(truth, part) -> scalar`. The truth is the labels `(B,)` as float32, since Keras casts them: dense
            indices, exact up to 2^24.
        reads_embeddings: The truth is the embeddings `(B, D)` instead.
    """

    def __init__(self, name, reads, measure, *, reads_embeddings=False):
        super().__init__(name=name, reduction="sum_over_batch_size")
        self.reads = reads
        self.reads_embeddings = reads_embeddings
        self.measure = measure

    def call(self, y_true, y_pred):
        """Truth and part of the graph -> scalar."""
        return self.measure(y_true, y_pred)


def per_key(loss: CodeLoss, keys: int) -> CodeLoss:
    """Mean, over G keys, of a loss of a whole batch on the outputs of each key, `(B, G, ...)`.

    Two codes are comparable under one key only: nothing in the loss can compare rows across keys. The pairs stay as
    many as with one key, the gradient averages over keys, and a step costs G times more.
    """

    def measure(truth, parts):
        return ops.mean(ops.stack([loss.measure(truth, parts[:, key]) for key in range(keys)]))

    return CodeLoss(loss.name, loss.reads, measure, reads_embeddings=loss.reads_embeddings)


CODE_DISTANCES = {
    "collision": (COLLISIONS, lambda collisions: 1.0 - collisions),
    ASYMMETRIC: (ASYMMETRIC, lambda cosines: 1.0 - cosines),
    "euclidean": (RELAXED, euclidean_code_distance),
    "cosine": (RELAXED, cosine_code_distance),
}
"""Name of a distance of codes to the part of the graph it reads, and its function."""


Measure = tuple[str, Callable[[Any, Any], Any]]
"""What a loss reads, and its measure: the first arguments of `CodeLoss` but the name."""


def build_objectives(losses: Iterable[CodeLossConfig], hasher: HasherConfig) -> dict[str, CodeLoss]:
    """The losses whose weight is not zero, by name."""
    chosen = [loss for loss in losses if loss.weight > 0]
    return {
        loss.name: CodeLoss(loss.name, *OBJECTIVES[loss.name](loss, hasher), reads_embeddings=loss.name == DISTILLATION)
        for loss in chosen
    }


def _is_asymmetric(hasher: HasherConfig) -> bool:
    return hasher.comparison == ASYMMETRIC


def _triplet(loss: Any, hasher: HasherConfig) -> Measure:
    mine = TRIPLET_MININGS[loss.mining]
    own = ASYMMETRIC if _is_asymmetric(hasher) else "collision"
    reads, distance = CODE_DISTANCES[own if loss.distance == "comparison" else loss.distance]
    return reads, lambda labels, part: mine(distance(part), labels, margin=loss.margin)


def _arc_triplet(loss: Any, hasher: HasherConfig) -> Measure:
    mine = ARC_TRIPLET_MININGS[loss.mining]
    return RELAXED, lambda labels, codes: mine(code_angles(codes), labels, margin=loss.margin)


def _of_code_cosines(function: Callable[..., Any], loss: Any, hasher: HasherConfig) -> Measure:
    def measure(labels, collisions):
        return function(code_cosine(collisions, hasher.alphabet_size), labels, **loss.settings)

    if _is_asymmetric(hasher):
        return ASYMMETRIC, lambda labels, cosines: function(cosines, labels, **loss.settings)
    return COLLISIONS, measure


def _binarization(loss: Any, hasher: HasherConfig) -> Measure:
    words, measure = WORDS[loss.words](hasher.alphabet_size), BINARIZATIONS[loss.form]
    return SOFT, lambda _, soft: measure(softened_words(soft, words), slope=loss.slope)


def _quantization(loss: Any, hasher: HasherConfig) -> Measure:
    if loss.form in QUANTIZATIONS:
        return SOFT, lambda _, soft: QUANTIZATIONS[loss.form](soft)
    parallel_weight = loss.parallel_weight if loss.form == "anisotropic" else 1.0
    return CODE_AND_ROW, lambda _, pair: reconstruction_error(pair[:, 0], pair[:, 1], parallel_weight=parallel_weight)


def _distillation(loss: Any, hasher: HasherConfig) -> Measure:
    if _is_asymmetric(hasher):
        return ASYMMETRIC, cosine_distillation(**loss.settings)
    return COLLISIONS, similarity_distillation(hasher.code_length, hasher.alphabet_size, **loss.settings)


def _logistic(loss: Any, hasher: HasherConfig) -> Measure:
    if _is_asymmetric(hasher):
        return ASYMMETRIC, lambda labels, cosines: decision_logistic(
            cosines, labels, threshold=loss.centre, slope=loss.slope
        )
    threshold = collision_at(loss.centre, hasher.alphabet_size)

    def measure(labels, collisions):
        return decision_logistic(collisions, labels, threshold=threshold, slope=loss.slope)

    return COLLISIONS, measure


def _linkability(loss: Any, hasher: HasherConfig) -> Measure:
    def measure(labels, collisions):
        return linkability_loss(1.0 - collisions, labels, form=loss.form, resolution=1.0 / hasher.code_length)

    return COLLISIONS_ACROSS, measure


def _classification(loss: Any, hasher: HasherConfig) -> Measure:
    scale = loss.scale
    rows = (
        ArcFaceLoss(margin=loss.margin, scale=scale) if loss.form == "arcface" else NormalisedSoftmaxLoss(scale=scale)
    )
    reads = HASHED_CLASS_COSINES if loss.head == "hashed" else CLASS_COSINES
    return reads, lambda labels, cosines: ops.mean(rows.call(labels, cosines))


DISTILLATION = "distillation"
OBJECTIVES: dict[str, Callable[[Any, HasherConfig], Measure]] = {
    "triplet": _triplet,
    "arc_triplet": _arc_triplet,
    "weighted_margin": functools.partial(_of_code_cosines, weighted_margin_loss),
    "multi_similarity": functools.partial(_of_code_cosines, multi_similarity_loss),
    "quantization": _quantization,
    "balance": lambda *_: (RELAXED, lambda _, codes: symbol_imbalance(codes)),
    "decorrelation": lambda *_: (RELAXED, lambda _, codes: position_correlation(codes)),
    "binarization": _binarization,
    DISTILLATION: _distillation,
    "logistic": _logistic,
    "operating_point": functools.partial(_of_code_cosines, operating_point_loss),
    "linkability": _linkability,
    "classification": _classification,
}
"""Name of a loss to its maker, which takes the settings and the shape of the code."""
