"""Logistic loss of the decision."""

from keras import ops

from iom.nn.losses.code.pairs import masked_mean, mated_mask, non_mated_mask


def collision_logistic(collisions, labels, *, threshold, slope):
    """Logistic loss of deciding mated or not by collision probability.

    Mated and non-mated pairs weigh the same, however many there are of each.

    Args:
        collisions: Expected collision of all pairs, `(B, B)`.
        labels: Dense subject indices, `(B,)`.
        threshold: Collision probability at the decision.
        slope: Steepness of the logistic around it.

    Returns:
        Scalar; a kind of pair that is absent counts as without loss.
    """
    margins = slope * (collisions - threshold)
    accept = masked_mean(ops.softplus(-margins), mated_mask(labels))
    reject = masked_mean(ops.softplus(margins), non_mated_mask(labels))
    return 0.5 * (accept + reject)
