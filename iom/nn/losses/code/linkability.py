"""Linkability: one subject's codes under two keys should look like two subjects' codes.

The second term of the Secure Triplet Loss (Pinto, Correia and Cardoso, IEEE TBIOM 3(2), 2021), in
both its forms. It measures what D_sys measures (Gomez-Barrero et al., 2018), as far as the mean and
the spread of distances go.
"""

import functools

from keras import ops

from iom.nn.losses.code.pairs import masked_mean, mated_mask, non_mated_mask


def linkability(distances, mated, non_mated, *, form, resolution):
    """How far the distances of mated pairs under two keys are from those of non-mated pairs.

    Args:
        distances: Of rows under one key to rows under another, `(B, B)`.
        mated: Mask of pairs of one subject, `(B, B)`.
        non_mated: Mask of pairs of two subjects, `(B, B)`.
        form: `normal_divergence` or `statistics_gap`.
        resolution: Smallest step of a distance, which bounds the deviations from below.

    Returns:
        Scalar, 0 for equal means and deviations, or where there are no pairs of one kind.
    """
    value = form(_moments(distances, mated, resolution), _moments(distances, non_mated, resolution))
    both_present = ops.logical_and(ops.any(mated), ops.any(non_mated))
    return value * ops.cast(both_present, distances.dtype)


def normal_divergence(mated, non_mated):
    """Kullback-Leibler divergence of mated from non-mated distances, both taken as normal.

    Each side is its mean and variance.
    """
    (mean, variance), (other_mean, other_variance) = mated, non_mated
    ratio = variance / other_variance
    return 0.5 * (ratio - 1.0 - ops.log(ratio) + ops.square(mean - other_mean) / other_variance)


def statistics_gap(mated, non_mated):
    """|difference of means| + |difference of deviations|, in units of the non-mated deviation.

    Each side is its mean and variance.
    """
    (mean, variance), (other_mean, other_variance) = mated, non_mated
    other_deviation = ops.sqrt(other_variance)
    gap = ops.abs(mean - other_mean) + ops.abs(ops.sqrt(variance) - other_deviation)
    return gap / ops.stop_gradient(other_deviation)


def linkability_loss(distances, labels, *, form, resolution):
    """`form` of the distances between two keys; pairs of one image with itself are left out."""
    mated, non_mated = mated_mask(labels), non_mated_mask(labels)
    return LINKABILITIES[form](distances, mated, non_mated, resolution=resolution)


def _moments(distances, mask, resolution):
    mean = masked_mean(distances, mask)
    return mean, masked_mean(ops.square(distances - mean), mask) + resolution**2


LINKABILITIES = {
    "divergence": functools.partial(linkability, form=normal_divergence),
    "statistics": functools.partial(linkability, form=statistics_gap),
}
