"""Triplet losses on a matrix of distances."""

from keras import ops

from iom.nn.losses.code.pairs import masked_mean, mated_mask, non_mated_mask


def batch_hard_triplet(distances, labels, *, margin):
    """Hardest mated against hardest non-mated pair of each row (Hermans et al., 2017, eq. 5).

    Args:
        distances: All pairs of a batch, `(B, B)`.
        labels: Dense subject indices, `(B,)`.
        margin: By how much a non-mated distance should exceed a mated one.

    Returns:
        Scalar: mean over the rows that have both a mated and a non-mated partner; 0 with a zero
        gradient where no row has both.
    """
    farthest, nearest, usable = hardest_pairs(distances, labels)
    return masked_mean(ops.relu(farthest - nearest + margin), usable)


def hardest_pairs(distances, labels):
    """Farthest mated and nearest non-mated distance of each row, and which rows have both.

    Args:
        distances: `(B, B)`.
        labels: `(B,)`.

    Returns:
        Three of `(B,)`; a row without a partner holds a finite stand-in.
    """
    mated, non_mated = mated_mask(labels), non_mated_mask(labels)
    bound = _bound(distances)
    farthest = ops.max(ops.where(mated, distances, -bound), axis=1)
    nearest = ops.min(ops.where(non_mated, distances, bound), axis=1)
    return farthest, nearest, ops.logical_and(ops.any(mated, axis=1), ops.any(non_mated, axis=1))


def batch_all_triplet(distances, labels, *, margin):
    """All triplets of the batch that violate the margin (Hermans et al., 2017, eq. 6).

    The mean leaves out triplets without a loss: they soon are nearly all, and would drown the rest.

    Args:
        distances: All pairs of a batch, `(B, B)`.
        labels: Dense subject indices, `(B,)`.
        margin: By how much a non-mated distance should exceed a mated one.

    Returns:
        Scalar; 0 with a zero gradient where no triplet violates the margin. Memory is `(B, B, B)`.
    """
    mated, non_mated = mated_mask(labels), non_mated_mask(labels)
    losses = ops.relu(distances[:, :, None] - distances[:, None, :] + margin)
    triplets = ops.logical_and(mated[:, :, None], non_mated[:, None, :])
    return masked_mean(losses, ops.logical_and(triplets, losses > 0))


def semi_hard_triplet(distances, labels, *, margin):
    """Each mated pair against the nearest non-mated one that is farther (Schroff et al., 2015).

    Where none is farther, the farthest there is stands in.

    Args:
        distances: All pairs of a batch, `(B, B)`.
        labels: Dense subject indices, `(B,)`.
        margin: By how much a non-mated distance should exceed a mated one.

    Returns:
        Scalar: mean over the mated pairs of rows that have a non-mated partner; 0 with a zero
        gradient where there is none. Memory is `(B, B, B)`.
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
