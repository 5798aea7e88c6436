"""Similarity distillation: the collision probability of codes follows the float cosine."""

import math

from keras import ops

from iom.nn.losses.code.collision_curve import BINS, collision_curve
from iom.nn.losses.code.pairs import cosine_distance

WEIGHT_FLOOR = 1e-7


class SimilarityDistillation:
    """Measure of embeddings `(B, D)` against collisions `(B, B)`.

    The target is the collision curve of GRP, which any projection follows on average; what is
    trained away is the scatter around it. Pairs near the decision count most:
    weight = floor + exp(-(cosine - centre)^2 / (2 width^2)).

    The value is the mean squared error over the variance that independent positions would have at
    the centre, p (1 - p) / M: about 1 is the scatter of a random projection.
    """

    def __init__(self, code_length, alphabet_size, *, centre, width, floor):
        self.centre = centre
        self.width = width
        self.floor = floor
        self.curve = collision_curve(alphabet_size)
        chance = collision_at(centre, alphabet_size)
        self.scatter = chance * (1.0 - chance) / code_length

    def __call__(self, embeddings, collisions):
        """Embeddings `(B, D)` and collisions `(B, B)` -> scalar."""
        cosines = 1.0 - cosine_distance(embeddings, embeddings)
        bins = ops.clip(ops.round((cosines + 1.0) * (BINS / 2)), 0, BINS)
        targets = ops.take(ops.convert_to_tensor(self.curve), ops.cast(bins, "int32"))
        offset = (cosines - self.centre) / self.width
        weights = self.floor + ops.exp(-0.5 * ops.square(offset))
        return similarity_distillation(collisions, targets, weights) / self.scatter


def similarity_distillation(collisions, targets, weights):
    """Weighted squared error between collision probability and its target, over row pairs.

    Args:
        collisions: Expected collision of all pairs of a batch, `(B, B)`.
        targets: What it should be, as a function of the float cosine, `(B, B)`.
        weights: Of each pair, `(B, B)`, not negative; the diagonal is left out.

    Returns:
        Scalar, the error per unit of weight.
    """
    rows = ops.arange(ops.shape(collisions)[0])
    others = ops.cast(ops.not_equal(rows[:, None], rows[None, :]), weights.dtype)
    weights = weights * others
    error = ops.sum(weights * ops.square(collisions - targets))
    return error / ops.maximum(ops.sum(weights), WEIGHT_FLOOR)


def collision_at(cosine: float, alphabet_size: int) -> float:
    """Collision probability of GRP codes at one cosine."""
    return float(collision_curve(alphabet_size)[math.floor((cosine + 1.0) * BINS / 2 + 0.5)])
