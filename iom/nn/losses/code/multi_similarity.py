"""Multi-similarity loss with its mining of pairs (Wang et al., CVPR 2019)."""

from keras import ops

from iom.nn.losses.code.pairs import mated_mask, non_mated_mask

LOG_FLOOR = -1e9


def informative_pairs(similarities, labels, *, margin):
    """Pairs that are not already right by more than `margin` (eqs. 11 and 12).

    A mated pair is kept if it is less alike than the row's most alike non-mated pair + margin, a
    non-mated one if it is more alike than the row's least alike mated pair - margin. A row that
    lacks either kind keeps none.

    Args:
        similarities: `(B, B)`.
        labels: Dense subject indices, `(B,)`.
        margin: epsilon.

    Returns:
        Masks of the mated and of the non-mated pairs kept, `(B, B)` each.
    """
    mated, non_mated = mated_mask(labels), non_mated_mask(labels)
    bound = ops.max(ops.abs(similarities)) + margin + 1.0
    most_alike = ops.max(ops.where(non_mated, similarities, -bound), axis=1, keepdims=True)
    least_alike = ops.min(ops.where(mated, similarities, bound), axis=1, keepdims=True)
    return (
        ops.logical_and(mated, similarities - margin < most_alike),
        ops.logical_and(non_mated, similarities + margin > least_alike),
    )


def multi_similarity_loss(similarities, labels, *, mated_slope, non_mated_slope, boundary, mining_margin):
    """Soft count of mated pairs below the boundary and of non-mated ones above it (eq. 15).

    Args:
        similarities: All pairs of a batch, `(B, B)`.
        labels: Dense subject indices, `(B,)`.
        mated_slope: alpha.
        non_mated_slope: beta.
        boundary: lambda.
        mining_margin: epsilon.

    Returns:
        Scalar: mean over the rows of the batch; 0 with a zero gradient where no pair is kept.
    """
    mated, non_mated = informative_pairs(similarities, labels, margin=mining_margin)
    offset = similarities - boundary
    below = _soft_count(-mated_slope * offset, mated) / mated_slope
    above = _soft_count(non_mated_slope * offset, non_mated) / non_mated_slope
    return ops.mean(below + above)


def _soft_count(exponents, mask):
    """log(1 + sum of exp) of each row over the mask."""
    return ops.softplus(ops.logsumexp(ops.where(mask, exponents, LOG_FLOOR), axis=1))
