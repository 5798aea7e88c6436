"""Triplet losses on a matrix of distances."""

from keras import ops

from iom.losses.pairs import masked_mean, mated_mask, non_mated_mask


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
    mated, non_mated = mated_mask(labels), non_mated_mask(labels)
    bound = ops.stop_gradient(ops.max(ops.abs(distances))) + 1.0
    farthest = ops.max(ops.where(mated, distances, -bound), axis=1)
    nearest = ops.min(ops.where(non_mated, distances, bound), axis=1)
    usable = ops.logical_and(ops.any(mated, axis=1), ops.any(non_mated, axis=1))
    return masked_mean(ops.relu(farthest - nearest + margin), usable)
