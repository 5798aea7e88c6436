"""Losses on the responses and relaxed codes of one batch."""

import math

from keras import ops

from iom.losses.pairs import masked_mean

PROBABILITY_FLOOR = 1e-7


def one_max_quantization(soft):
    """Mean of 1 - max_j p_j: zero where every position is decided.

    Args:
        soft: Softmax of responses, `(B, M, Q)`.
    """
    return ops.mean(1.0 - ops.max(soft, axis=-1))


def entropy_quantization(soft):
    """Mean entropy of a position, in units of log Q: zero where every position is decided.

    Args:
        soft: Softmax of responses, `(B, M, Q)`.
    """
    return ops.mean(_entropy(soft)) / math.log(soft.shape[-1])


def symbol_imbalance(soft):
    """How far the symbols of each position are from being used equally, in [0, 1].

    1 - H(mean over the batch) / log Q, for each position on its own and then averaged: a position
    that never changes cannot hide among the others.

    Args:
        soft: Softmax of responses, `(B, M, Q)`.
    """
    return 1.0 - ops.mean(_entropy(ops.mean(soft, axis=0))) / math.log(soft.shape[-1])


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
    return error / ops.maximum(ops.sum(weights), PROBABILITY_FLOOR)


def collision_logistic(collisions, mated, non_mated, *, threshold, slope):
    """Logistic loss of deciding mated or not by collision probability.

    Mated and non-mated pairs weigh the same, however many there are of each.

    Args:
        collisions: Expected collision of all pairs, `(B, B)`.
        mated: Mask of mated pairs, `(B, B)`.
        non_mated: Mask of non-mated pairs, `(B, B)`.
        threshold: Collision probability at the decision.
        slope: Steepness of the logistic around it.
    """
    margins = slope * (collisions - threshold)
    accept = masked_mean(ops.softplus(-margins), mated)
    reject = masked_mean(ops.softplus(margins), non_mated)
    return 0.5 * (accept + reject)


def _entropy(probabilities):
    return -ops.sum(probabilities * ops.log(ops.maximum(probabilities, PROBABILITY_FLOOR)), axis=-1)
