"""Linkability: one subject's codes under two keys should look like two subjects' codes.

The second term of the Secure Triplet Loss (Pinto, Correia and Cardoso, IEEE TBIOM 3(2), 2021), in
both its forms. It measures what D_sys measures (Gomez-Barrero et al., 2018), as far as the mean and
the spread of distances go.
"""

from keras import ops

from iom.losses.pairs import masked_mean, mated_mask, non_mated_mask


def normal_divergence(distances, mated, non_mated, *, resolution):
    """Kullback-Leibler divergence of mated from non-mated distances, both taken as normal.

    Args:
        distances: Of rows under one key to rows under another, `(B, B)`.
        mated: Mask of pairs of one subject, `(B, B)`.
        non_mated: Mask of pairs of two subjects, `(B, B)`.
        resolution: Smallest step of a distance, which bounds the deviations from below.

    Returns:
        Scalar, 0 for equal distributions, or where there are no pairs of one kind.
    """
    mean, variance = _moments(distances, mated, resolution)
    other_mean, other_variance = _moments(distances, non_mated, resolution)
    ratio = variance / other_variance
    value = 0.5 * (ratio - 1.0 - ops.log(ratio) + ops.square(mean - other_mean) / other_variance)
    return value * _both_present(mated, non_mated, distances.dtype)


def statistics_gap(distances, mated, non_mated, *, resolution):
    """|difference of means| + |difference of deviations|, in units of the non-mated deviation.

    Args:
        distances: Of rows under one key to rows under another, `(B, B)`.
        mated: Mask of pairs of one subject, `(B, B)`.
        non_mated: Mask of pairs of two subjects, `(B, B)`.
        resolution: Smallest step of a distance, which bounds the deviations from below.

    Returns:
        Scalar, 0 for equal statistics, or where there are no pairs of one kind.
    """
    mean, variance = _moments(distances, mated, resolution)
    other_mean, other_variance = _moments(distances, non_mated, resolution)
    deviation, other_deviation = ops.sqrt(variance), ops.sqrt(other_variance)
    gap = ops.abs(mean - other_mean) + ops.abs(deviation - other_deviation)
    value = gap / ops.stop_gradient(other_deviation)
    return value * _both_present(mated, non_mated, distances.dtype)


def linkability_loss(distances, labels, *, form, resolution):
    """`form` of the distances between two keys; pairs of one image with itself are left out."""
    mated, non_mated = mated_mask(labels), non_mated_mask(labels)
    return LINKABILITIES[form](distances, mated, non_mated, resolution=resolution)


def _moments(distances, mask, resolution):
    mean = masked_mean(distances, mask)
    return mean, masked_mean(ops.square(distances - mean), mask) + resolution**2


def _both_present(mated, non_mated, dtype):
    return ops.cast(ops.logical_and(ops.any(mated), ops.any(non_mated)), dtype)


LINKABILITIES = {"divergence": normal_divergence, "statistics": statistics_gap}
