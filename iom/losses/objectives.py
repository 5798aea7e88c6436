"""The losses of stage 2 as Keras losses, each on one output of the training graph.

A loss here names the output it reads (`reads`): the collision probability of all row pairs, or
the soft or relaxed codes. Labels arrive as float32, since Keras casts them: they are dense indices,
exact up to 2^24.
"""

import math
from collections.abc import Callable

import keras
from keras import ops

from iom.config.hashing import CodeLossConfig, HasherConfig
from iom.losses import codes
from iom.losses.collision_curve import BINS, collision_curve
from iom.losses.pairs import cosine_distance, mated_mask, non_mated_mask
from iom.losses.triplet import batch_hard_triplet

COLLISIONS, SOFT, RELAXED = "collisions", "soft", "relaxed"


class _CodeLoss(keras.losses.Loss):
    """A loss of a whole batch: `call` returns a scalar."""

    reads = COLLISIONS

    def __init__(self, name):
        super().__init__(name=name, reduction="sum_over_batch_size")


class TripletLoss(_CodeLoss):
    """Batch-hard triplet on the collision distance; truth: labels `(B,)`."""

    def __init__(self, margin):
        super().__init__("triplet")
        self.margin = margin

    def call(self, y_true, y_pred):
        """Labels and collisions `(B, B)` -> scalar."""
        return batch_hard_triplet(1.0 - y_pred, y_true, margin=self.margin)


class LogisticLoss(_CodeLoss):
    """Mated or not by collision probability; truth: labels `(B,)`."""

    def __init__(self, threshold, slope):
        super().__init__("logistic")
        self.threshold = threshold
        self.slope = slope

    def call(self, y_true, y_pred):
        """Labels and collisions `(B, B)` -> scalar."""
        return codes.collision_logistic(
            y_pred,
            mated_mask(y_true),
            non_mated_mask(y_true),
            threshold=self.threshold,
            slope=self.slope,
        )


class SimilarityDistillation(_CodeLoss):
    """Collision probability follows the float cosine; truth: embeddings `(B, D)`.

    The target is the collision curve of GRP, which any projection follows on average; what is
    trained away is the scatter around it. Pairs near the decision count most:
    weight = floor + exp(-(cosine - centre)^2 / (2 width^2)).

    The value is the mean squared error over the variance that independent positions would have at
    the centre, p (1 - p) / M: about 1 is the scatter of a random projection.
    """

    def __init__(self, code_length, alphabet_size, *, centre, width, floor):
        super().__init__("distillation")
        self.centre = centre
        self.width = width
        self.floor = floor
        self.curve = collision_curve(alphabet_size)
        chance = _at(self.curve, centre)
        self.scatter = chance * (1.0 - chance) / code_length

    def call(self, y_true, y_pred):
        """Embeddings `(B, D)` and collisions `(B, B)` -> scalar."""
        cosines = 1.0 - cosine_distance(y_true, y_true)
        bins = ops.clip(ops.round((cosines + 1.0) * (BINS / 2)), 0, BINS)
        targets = ops.take(ops.convert_to_tensor(self.curve), ops.cast(bins, "int32"))
        offset = (cosines - self.centre) / self.width
        weights = self.floor + ops.exp(-0.5 * ops.square(offset))
        return codes.similarity_distillation(y_pred, targets, weights) / self.scatter


class QuantizationLoss(_CodeLoss):
    """Every position decided: mean of 1 - max_j p_j; the truth is not read."""

    reads = SOFT

    def __init__(self):
        super().__init__("quantization")

    def call(self, y_true, y_pred):
        """Anything and soft codes `(B, M, Q)` -> scalar."""
        return codes.one_max_quantization(y_pred)


class BalanceLoss(_CodeLoss):
    """Every symbol used equally at every position; the truth is not read."""

    reads = RELAXED

    def __init__(self):
        super().__init__("balance")

    def call(self, y_true, y_pred):
        """Anything and relaxed codes `(B, M, Q)` -> scalar."""
        return codes.symbol_imbalance(y_pred)


def _triplet(weights: CodeLossConfig, hasher: HasherConfig) -> _CodeLoss:
    return TripletLoss(weights.triplet_margin)


def _quantization(weights: CodeLossConfig, hasher: HasherConfig) -> _CodeLoss:
    return QuantizationLoss()


def _balance(weights: CodeLossConfig, hasher: HasherConfig) -> _CodeLoss:
    return BalanceLoss()


def _distillation(weights: CodeLossConfig, hasher: HasherConfig) -> _CodeLoss:
    return SimilarityDistillation(
        hasher.code_length,
        hasher.alphabet_size,
        centre=weights.distillation_centre,
        width=weights.distillation_width,
        floor=weights.distillation_floor,
    )


def _logistic(weights: CodeLossConfig, hasher: HasherConfig) -> _CodeLoss:
    threshold = _at(collision_curve(hasher.alphabet_size), weights.distillation_centre)
    return LogisticLoss(threshold, weights.logistic_slope)


OBJECTIVES: dict[str, Callable[[CodeLossConfig, HasherConfig], _CodeLoss]] = {
    "triplet": _triplet,
    "quantization": _quantization,
    "balance": _balance,
    "distillation": _distillation,
    "logistic": _logistic,
}
"""Field of `CodeLossConfig` with the weight -> maker of the loss."""

READS_EMBEDDINGS = frozenset({"distillation"})
"""Losses whose truth is the embeddings, not the labels."""


def build_objectives(weights: CodeLossConfig, hasher: HasherConfig) -> dict[str, _CodeLoss]:
    """The losses whose weight is not zero, by name."""
    return {
        name: make(weights, hasher)
        for name, make in OBJECTIVES.items()
        if getattr(weights, name) > 0
    }


def _at(curve, cosine: float) -> float:
    return float(curve[math.floor((cosine + 1.0) * BINS / 2 + 0.5)])
