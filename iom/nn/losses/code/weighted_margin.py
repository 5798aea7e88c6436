"""Margin loss with distance-weighted non-mated pairs (Wu et al., ICCV 2017)."""

from keras import ops

from iom.nn.losses.code.pairs import masked_mean, mated_mask, non_mated_mask

DISTANCE_SQUARE_LIMITS = 1e-6, 4.0 - 1e-3
LOG_FLOOR = -1e9


def unit_code_distance(similarities):
    """Euclidean distance of unit codes from their cosines, finite slope at 0; in [0, 2]."""
    return ops.sqrt(ops.clip(2.0 - 2.0 * similarities, *DISTANCE_SQUARE_LIMITS))


def distance_weights(distances, non_mated, *, reach, cutoff, dimension):
    """Chance of each non-mated pair of a row to be drawn (Wu et al., eqs. 4 and 5).

    Inverse to the density of distances on a sphere, q(d) ~ d^(n-2) (1 - d^2/4)^((n-3)/2), so that
    pairs of all distances count alike, and not the crowd at a right angle alone.

    Args:
        distances: `(B, B)`.
        non_mated: Mask, `(B, B)`.
        reach: Pairs farther away have no loss and are not drawn.
        cutoff: Nearer pairs weigh as one at this distance does.
        dimension: n.

    Returns:
        `(B, B)`, without a gradient; rows sum to one, or to zero where no pair is within reach.
    """
    drawn = ops.logical_and(non_mated, distances < reach)
    d = ops.clip(distances, cutoff, DISTANCE_SQUARE_LIMITS[1] ** 0.5)
    density = (dimension - 2.0) * ops.log(d)
    density = density + 0.5 * (dimension - 3.0) * ops.log(1.0 - 0.25 * ops.square(d))
    logits = ops.where(drawn, -density, LOG_FLOOR)
    return ops.stop_gradient(ops.softmax(logits, axis=1) * ops.cast(drawn, distances.dtype))


def weighted_margin_loss(distances, labels, *, boundary, width, cutoff, dimension):
    """Mated pairs within boundary - width, non-mated ones beyond boundary + width (eq. 6).

    For each mated pair the paper draws one non-mated pair of the same row. Here its expectation
    over that draw is taken instead: the same loss on average, with less scatter, and a step is a
    function of its batch alone, so that an interrupted run resumes exactly. The boundary is fixed.

    Args:
        distances: All pairs of a batch, of unit codes, `(B, B)`.
        labels: Dense subject indices, `(B,)`.
        boundary: beta.
        width: alpha.
        cutoff: See `distance_weights`.
        dimension: See `distance_weights`.

    Returns:
        Scalar: mean over the mated pairs; 0 with a zero gradient where there is none.
    """
    mated, non_mated = mated_mask(labels), non_mated_mask(labels)
    weights = distance_weights(distances, non_mated, reach=boundary + width, cutoff=cutoff, dimension=dimension)
    near = ops.relu(width + distances - boundary)
    far = ops.sum(weights * ops.relu(width + boundary - distances), axis=1, keepdims=True)
    return masked_mean(near + far, mated)
