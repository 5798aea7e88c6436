"""Triplet losses on a matrix of distances, and the angular triplets of deep rank hashing.

They take the distances or angles of all pairs of a batch `(B, B)`, its dense subject indices `(B,)`, and the margin by
which a non-mated distance should exceed a mated one. Rows count that have both a mated and a non-mated partner; without
one, and where no triplet violates the margin, the value is 0, with a zero gradient.
"""

import math

from keras import ops

from iom.nn.losses.code.pairs import cosine_code_distance, masked_mean, mated_mask, non_mated_mask


def batch_hard_triplet(distances, labels, *, margin):
    """Hardest mated against hardest non-mated pair of each row (Hermans et al., 2017, eq. 5), a mean over the rows."""
    farthest, nearest, usable = hardest_pairs(distances, labels)
    return masked_mean(ops.relu(farthest - nearest + margin), usable)


def hardest_pairs(distances, labels):
    """Farthest mated and nearest non-mated distance of each row (else a finite stand-in), and which rows have both."""
    mated, non_mated = mated_mask(labels), non_mated_mask(labels)
    bound = _bound(distances)
    farthest = ops.max(ops.where(mated, distances, -bound), axis=1)
    nearest = ops.min(ops.where(non_mated, distances, bound), axis=1)
    return farthest, nearest, ops.logical_and(ops.any(mated, axis=1), ops.any(non_mated, axis=1))


def batch_all_triplet(distances, labels, *, margin):
    """All triplets of the batch that violate the margin (Hermans et al., 2017, eq. 6); memory is `(B, B, B)`.

    The mean leaves out triplets without a loss: they soon are nearly all, and would drown the rest.
    """
    mated, non_mated = mated_mask(labels), non_mated_mask(labels)
    losses = ops.relu(distances[:, :, None] - distances[:, None, :] + margin)
    triplets = ops.logical_and(mated[:, :, None], non_mated[:, None, :])
    return masked_mean(losses, ops.logical_and(triplets, losses > 0))


def semi_hard_triplet(distances, labels, *, margin):
    """Each mated pair against the nearest non-mated one that is farther (Schroff et al., 2015), or else the farthest.

    The mean is over mated pairs of rows with a non-mated partner. Memory: `(B, B, B)`.
    """
    mated, non_mated = mated_mask(labels), non_mated_mask(labels)
    bound = _bound(distances)
    others = distances[:, None, :]
    farther = ops.logical_and(non_mated[:, None, :], others > distances[:, :, None])
    next_one = ops.min(ops.where(farther, others, bound), axis=2)
    last = ops.max(ops.where(non_mated, distances, -bound), axis=1, keepdims=True)
    chosen = ops.where(ops.any(farther, axis=2), next_one, last)
    usable = ops.logical_and(mated, ops.any(non_mated, axis=1, keepdims=True))
    return masked_mean(ops.relu(distances - chosen + margin), usable)


def _bound(distances):
    return ops.stop_gradient(ops.max(ops.abs(distances))) + 1.0


TRIPLET_MININGS = {"batch_hard": batch_hard_triplet, "batch_all": batch_all_triplet, "semi_hard": semi_hard_triplet}


COSINE_LIMIT = 1.0 - 1e-6
"""The slope of arccos is infinite at +-1."""
RIGHT_ANGLE = math.pi / 2
"""The largest angle between codes: they have no negative part."""


def code_angles(relaxed):
    """Angle between all codes of a batch, `(B, M, Q)` -> `(B, B)` in radians."""
    cosines = 1.0 - cosine_code_distance(relaxed)
    return ops.arccos(ops.clip(cosines, -COSINE_LIMIT, COSINE_LIMIT))


def batch_hard_arc_triplet(angles, labels, *, margin):
    """Deep rank hashing (Dong et al., Pattern Recognition 2022, 108886) of the hardest angles of each row.

    With unit rows, a mean over the batch, and the margin on the side where it raises the loss: radians that a mated
    angle counts more and a non-mated one less. Angles are radians from 0 to pi / 2.
    """
    farthest, nearest, usable = hardest_pairs(angles, labels)
    farthest = ops.where(usable, farthest, 0.0)
    nearest = ops.where(usable, nearest, 0.0)
    return masked_mean(_mated(farthest, margin) + _non_mated(nearest, margin), usable)


def batch_all_arc_triplet(angles, labels, *, margin):
    """Mean over all triplets of angles, as of `batch_hard_arc_triplet`; as a sum of two parts it needs `(B, B)`."""
    mated = ops.cast(mated_mask(labels), angles.dtype)
    non_mated = ops.cast(non_mated_mask(labels), angles.dtype)
    mates = ops.sum(mated, axis=1)
    others = ops.sum(non_mated, axis=1)
    total = others * ops.sum(mated * _mated(angles, margin), axis=1)
    total = total + mates * ops.sum(non_mated * _non_mated(angles, margin), axis=1)
    return ops.sum(total) / ops.maximum(ops.sum(mates * others), 1.0)


def _mated(angles, margin):
    """e^sin(t+m) / (e^sin(t+m) + e^cos(t)): rises with the angle and with the margin."""
    return ops.sigmoid(ops.sin(ops.minimum(angles + margin, RIGHT_ANGLE)) - ops.cos(angles))


def _non_mated(angles, margin):
    """e^cos(t-m) / (e^cos(t-m) + e^sin(t)): falls with the angle, rises with the margin."""
    return ops.sigmoid(ops.cos(ops.maximum(angles - margin, 0.0)) - ops.sin(angles))


ARC_TRIPLET_MININGS = {"batch_hard": batch_hard_arc_triplet, "batch_all": batch_all_arc_triplet}
