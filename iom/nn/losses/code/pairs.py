"""Pairs of a batch: distances of embeddings and codes, masks of mated and non-mated pairs, and losses on all pairs.

The losses: triplet, angular triplet, distance-weighted margin, multi-similarity, logistic, linkability. They take a
value of all pairs of a batch `(B, B)` and its dense subject indices, `labels` `(B,)`. Triplets take the margin by which
a non-mated distance should exceed a mated one; rows count that have both a mated and a non-mated partner, and without
one, or where no triplet violates the margin, the value is 0, with a zero gradient.
"""

import math

from keras import ops

from iom.nn.layers import unit_length

DISTANCE_FLOOR = 1e-12
"""A square root has an infinite slope at zero; squared distances are kept above this."""
DISTANCE_SQUARE_LIMITS = 1e-6, 4.0 - 1e-3
"""Of unit rows: a finite slope at both ends."""
LOG_FLOOR = -1e9
COSINE_LIMIT = 1.0 - 1e-6
"""The slope of arccos is infinite at +-1."""
RIGHT_ANGLE = math.pi / 2
"""The largest angle between codes: they have no negative part."""


def expected_collision(a, b):
    """Probability `(A, B)` that relaxed codes, `(A, M, Q)` and `(B, M, Q)`, agree at a position; 1/Q if unrelated."""
    return ops.matmul(flat_codes(a), ops.transpose(flat_codes(b))) / a.shape[1]


def flat_codes(relaxed):
    """Relaxed codes as rows, `(B, M, Q)` -> `(B, M Q)`."""
    return ops.reshape(relaxed, (-1, relaxed.shape[1] * relaxed.shape[2]))


def cosine_distance(a, b):
    """1 - cosine of every row pair, `(A, D)`, `(B, D)` -> `(A, B)`; a zero row has cosine 0."""
    return 1.0 - ops.matmul(unit_length(a), ops.transpose(unit_length(b)))


def euclidean_distance(a, b):
    """Euclidean distance of every row pair, `(A, D)`, `(B, D)` -> `(A, B)`; finite slope at 0."""
    squares = (
        ops.sum(ops.square(a), axis=1)[:, None]
        + ops.sum(ops.square(b), axis=1)[None, :]
        - 2.0 * ops.matmul(a, ops.transpose(b))
    )
    return ops.sqrt(ops.maximum(squares, DISTANCE_FLOOR))


def pair_masks(labels):
    """Masks `(B, B)` of mated pairs, different rows of one subject, and of non-mated ones; labels `(B,)`."""
    labels = ops.reshape(labels, (-1,))
    same = ops.equal(labels[:, None], labels[None, :])
    rows = ops.arange(ops.shape(labels)[0])
    return ops.logical_and(same, ops.not_equal(rows[:, None], rows[None, :])), ops.logical_not(same)


def masked_mean(values, mask):
    """Mean of `values` where `mask` is true; zero, with a zero gradient, where it never is."""
    weights = ops.cast(mask, values.dtype)
    return ops.sum(values * weights) / ops.maximum(ops.sum(weights), 1.0)


def euclidean_code_distance(relaxed):
    """Euclidean distance, 1 for hard codes that differ everywhere; `(B, M, Q)` -> `(B, B)`."""
    rows = flat_codes(relaxed)
    return euclidean_distance(rows, rows) / math.sqrt(2.0 * relaxed.shape[1])


def cosine_code_distance(relaxed):
    """1 - cosine, 1 for hard codes that differ everywhere; `(B, M, Q)` -> `(B, B)`."""
    rows = flat_codes(relaxed)
    return cosine_distance(rows, rows)


def code_angles(relaxed):
    """Angle between all codes of a batch, `(B, M, Q)` -> `(B, B)` in radians."""
    cosines = 1.0 - cosine_code_distance(relaxed)
    return ops.arccos(ops.clip(cosines, -COSINE_LIMIT, COSINE_LIMIT))


def code_cosine(collisions, alphabet_size):
    """Cosine of two codes less the code that has every symbol in equal parts, from their collision probability.

    0 for unrelated and 1 for equal codes, whatever Q is; unrelated ones scatter as unit vectors of M (Q - 1)
    dimensions.
    """
    chance = 1.0 / alphabet_size
    return (collisions - chance) / (1.0 - chance)


def batch_hard_triplet(distances, labels, *, margin):
    """Hardest mated against hardest non-mated pair of each row (Hermans et al., 2017, eq. 5), a mean over the rows."""
    farthest, nearest, usable = hardest_pairs(distances, labels)
    return masked_mean(ops.relu(farthest - nearest + margin), usable)


def hardest_pairs(distances, labels):
    """Farthest mated and nearest non-mated distance of each row (else a finite stand-in), and which rows have both."""
    mated, non_mated = pair_masks(labels)
    bound = _bound(distances)
    farthest = ops.max(ops.where(mated, distances, -bound), axis=1)
    nearest = ops.min(ops.where(non_mated, distances, bound), axis=1)
    return farthest, nearest, ops.logical_and(ops.any(mated, axis=1), ops.any(non_mated, axis=1))


def batch_all_triplet(distances, labels, *, margin):
    """All triplets of the batch that violate the margin (Hermans et al., 2017, eq. 6); memory is `(B, B, B)`.

    The mean leaves out triplets without a loss: they soon are nearly all, and would drown the rest.
    """
    mated, non_mated = pair_masks(labels)
    losses = ops.relu(distances[:, :, None] - distances[:, None, :] + margin)
    triplets = ops.logical_and(mated[:, :, None], non_mated[:, None, :])
    return masked_mean(losses, ops.logical_and(triplets, losses > 0))


def semi_hard_triplet(distances, labels, *, margin):
    """Each mated pair against the nearest non-mated one that is farther (Schroff et al., 2015), or else the farthest.

    The mean is over mated pairs of rows with a non-mated partner. Memory: `(B, B, B)`.
    """
    mated, non_mated = pair_masks(labels)
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
    mated, non_mated = (ops.cast(mask, angles.dtype) for mask in pair_masks(labels))
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


def distance_weights(distances, non_mated, *, reach, cutoff, dimension):
    """Chance `(B, B)` of each non-mated pair of a row to be drawn (Wu et al., eqs. 4 and 5), without a gradient.

    Inverse to the density of distances on a sphere, q(d) ~ d^(n-2) (1 - d^2/4)^((n-3)/2), so that pairs of all
    distances count alike. Rows sum to one, or to zero where no pair is within reach.

    Args:
        distances: `(B, B)`.
        non_mated: Mask, `(B, B)`.
        reach: Pairs farther away have no loss and are not drawn.
        cutoff: Nearer pairs weigh as one at this distance does.
        dimension: n.
    """
    drawn = ops.logical_and(non_mated, distances < reach)
    d = ops.clip(distances, cutoff, DISTANCE_SQUARE_LIMITS[1] ** 0.5)
    density = (dimension - 2.0) * ops.log(d)
    density = density + 0.5 * (dimension - 3.0) * ops.log(1.0 - 0.25 * ops.square(d))
    logits = ops.where(drawn, -density, LOG_FLOOR)
    return ops.stop_gradient(ops.softmax(logits, axis=1) * ops.cast(drawn, distances.dtype))


def weighted_margin_loss(similarities, labels, *, boundary, width, cutoff, dimension):
    """Mated pairs within boundary - width, non-mated ones beyond boundary + width (eq. 6); mean over mated pairs.

    For each mated pair the paper draws one non-mated pair of the same row. Here its expectation over that draw is taken
    instead: the same loss on average, with less scatter, and a step is a function of its batch alone. The boundary is
    fixed. Without a mated pair it is 0, with a zero gradient. `similarities` are cosines, of whose unit rows the
    Euclidean distances are taken, in [0, 2]; `boundary` is beta, `width` alpha; `cutoff` and `dimension` are those of
    `distance_weights`.
    """
    distances = ops.sqrt(ops.clip(2.0 - 2.0 * similarities, *DISTANCE_SQUARE_LIMITS))
    mated, non_mated = pair_masks(labels)
    weights = distance_weights(distances, non_mated, reach=boundary + width, cutoff=cutoff, dimension=dimension)
    near = ops.relu(width + distances - boundary)
    far = ops.sum(weights * ops.relu(width + boundary - distances), axis=1, keepdims=True)
    return masked_mean(near + far, mated)


def informative_pairs(similarities, labels, *, margin):
    """Masks `(B, B)` of the mated and non-mated pairs that are not already right by `margin` epsilon (eqs. 11 and 12).

    A mated pair is kept if it is less alike than the row's most alike non-mated pair + margin, a non-mated one if it is
    more alike than the row's least alike mated pair - margin. A row that lacks either kind keeps none.
    """
    mated, non_mated = pair_masks(labels)
    bound = ops.max(ops.abs(similarities)) + margin + 1.0
    most_alike = ops.max(ops.where(non_mated, similarities, -bound), axis=1, keepdims=True)
    least_alike = ops.min(ops.where(mated, similarities, bound), axis=1, keepdims=True)
    return (
        ops.logical_and(mated, similarities - margin < most_alike),
        ops.logical_and(non_mated, similarities + margin > least_alike),
    )


def multi_similarity_loss(similarities, labels, *, mated_slope, non_mated_slope, boundary, mining_margin):
    """Soft count of mated pairs below the boundary and of non-mated ones above it (eq. 15), a mean over the rows.

    `mated_slope` is alpha, `non_mated_slope` beta, `boundary` lambda, `mining_margin` epsilon.
    """
    mated, non_mated = informative_pairs(similarities, labels, margin=mining_margin)
    offset = similarities - boundary
    below = _soft_count(-mated_slope * offset, mated) / mated_slope
    above = _soft_count(non_mated_slope * offset, non_mated) / non_mated_slope
    return ops.mean(below + above)


def _soft_count(exponents, mask):
    """log(1 + sum of exp) of each row over the mask."""
    return ops.softplus(ops.logsumexp(ops.where(mask, exponents, LOG_FLOOR), axis=1))


def decision_logistic(similarities, labels, *, threshold, slope):
    """Logistic loss of deciding mated or not by similarities `(B, B)`; both kinds of pair weigh the same.

    Similarities are collision probabilities, or cosines; `threshold` is that of the decision, `slope` the steepness of
    the logistic around it. A kind of pair that is absent counts as without loss.
    """
    mated, non_mated = pair_masks(labels)
    margins = slope * (similarities - threshold)
    return 0.5 * (masked_mean(ops.softplus(-margins), mated) + masked_mean(ops.softplus(margins), non_mated))


def operating_point_loss(similarities, labels, *, softness, slope):
    """Softplus of how far mated similarities `(B, B)` lie below a threshold, a mean over mated pairs.

    The threshold is a soft maximum of the non-mated similarities, softness * log mean exp(s / softness): what a low
    false match rate demands. Without pairs of one kind the loss is 0, with a zero gradient.
    """
    mated, non_mated = pair_masks(labels)
    count = ops.maximum(ops.sum(ops.cast(non_mated, similarities.dtype)), 1.0)
    weighed = ops.where(non_mated, similarities / softness, LOG_FLOOR)
    threshold = softness * (ops.logsumexp(ops.reshape(weighed, (-1,))) - ops.log(count))
    value = masked_mean(ops.softplus(slope * (threshold - similarities)), mated)
    return value * ops.cast(ops.any(non_mated), similarities.dtype)


def normal_divergence(mated, non_mated):
    """Kullback-Leibler divergence of mated from non-mated distances, both taken as normal: (mean, variance) each."""
    (mean, variance), (other_mean, other_variance) = mated, non_mated
    ratio = variance / other_variance
    return 0.5 * (ratio - 1.0 - ops.log(ratio) + ops.square(mean - other_mean) / other_variance)


def statistics_gap(mated, non_mated):
    """Sum of the absolute differences of means and of deviations, in units of the non-mated deviation."""
    (mean, variance), (other_mean, other_variance) = mated, non_mated
    other_deviation = ops.sqrt(other_variance)
    gap = ops.abs(mean - other_mean) + ops.abs(ops.sqrt(variance) - other_deviation)
    return gap / ops.stop_gradient(other_deviation)


def linkability_loss(distances, labels, *, form, resolution):
    """How far the distances `(B, B)` of mated pairs under two keys are from those of non-mated pairs.

    The second term of the Secure Triplet Loss (Pinto, Correia and Cardoso, IEEE TBIOM 3(2), 2021), in both its forms, a
    key of `LINKABILITIES`. It measures what D_sys measures (Gomez-Barrero et al., 2018), as far as mean and spread of
    distances go. `resolution`, the smallest step of a distance, bounds the deviations from below. It is 0 for equal
    means and deviations, or without pairs of one kind. Pairs of one image with itself are left out.
    """
    mated, non_mated = pair_masks(labels)
    value = LINKABILITIES[form](_moments(distances, mated, resolution), _moments(distances, non_mated, resolution))
    both_present = ops.logical_and(ops.any(mated), ops.any(non_mated))
    return value * ops.cast(both_present, distances.dtype)


def _moments(distances, mask, resolution):
    mean = masked_mean(distances, mask)
    return mean, masked_mean(ops.square(distances - mean), mask) + resolution**2


LINKABILITIES = {"divergence": normal_divergence, "statistics": statistics_gap}
