"""Refined codes: correct a row until its code, read back, points where the row points.

The vector that a plain Index-of-Max code stands for, the sum of its chosen projection vectors, is not parallel to the
row it came from: each position rounds for itself, and the roundings add up to a remainder in some random direction.
When two codes are compared, the remainder of each meets the row of the other, and that is most of what their distance
scatters by. Here the roundings are chosen together so that the remainder vanishes. Anti-sparse coding does so for signs
(Jegou, Furon and Fuchs, ICASSP 2012), noise shaping for a stream.

The refined code is again an Index-of-Max code, of a corrected row v that solves min_v sum_i max_j <w_ij, v> - <target,
v>, a convex problem whose gradient is what the code holds too much.
"""

from typing import NamedTuple

from keras import ops

RATE = 1.0
"""Length of the first correction, in units of the remainder."""
DECAY = 0.5
"""Correction k is shorter by 1 + DECAY k, so that the steps settle."""
FLOOR = 1e-12


class Refinement(NamedTuple):
    """How codes are refined.

    Attributes:
        steps: Corrections; 10 reach nearly all there is.
        gain: How much more of the row the refined code is asked to hold than the plain one, in units of tan^2 of the
            angle between the plain code, read back, and the row. Asking for more decides positions for the row that are
            nearly ties. With the angle the demand follows the shape of the code: a short code has less to give. 4 is
            near the best for every shape from 64x8 to 1536x2.
    """

    steps: int
    gain: float


def refine(rows, kernel, alphabet_size, refinement):
    """Rows whose plain codes are the refined codes of `rows`, `(B, K)`, not of unit length.

    The correction is a constant to the gradient, which passes straight through to the rows. `kernel` are the projection
    vectors `(K, M * Q)`, those of a position side by side.
    """
    vectors = ops.stop_gradient(_centred(kernel, alphabet_size))
    columns = ops.transpose(vectors)
    target = ops.stop_gradient(rows)
    held = _read_back(target, vectors, columns, alphabet_size)
    along = ops.maximum(ops.sum(held * target, axis=-1, keepdims=True), FLOOR)
    across = ops.sum(held * held, axis=-1, keepdims=True) - along * along
    scale = along + refinement.gain * ops.maximum(across, 0.0) / along
    corrected = target
    for step in range(refinement.steps):
        remainder = target - held / scale
        corrected = corrected + RATE / (1.0 + DECAY * step) * remainder
        if step + 1 < refinement.steps:
            held = _read_back(corrected, vectors, columns, alphabet_size)
    return rows + ops.stop_gradient(corrected - target)


def _read_back(rows, vectors, columns, alphabet_size):
    """Sum of the vectors that the codes of `rows` choose, `(B, K)` -> `(B, K)`; of exactly equal responses, of all."""
    width = vectors.shape[1]
    responses = ops.reshape(ops.matmul(rows, vectors), (-1, width // alphabet_size, alphabet_size))
    chosen = ops.equal(responses, ops.max(responses, axis=-1, keepdims=True))
    return ops.matmul(ops.reshape(ops.cast(chosen, vectors.dtype), (-1, width)), columns)


def _centred(kernel, alphabet_size):
    """Take the mean off the vectors of each position: no argmax sees it, and no code holds it."""
    vectors = ops.reshape(kernel, (kernel.shape[0], -1, alphabet_size))
    return ops.reshape(vectors - ops.mean(vectors, axis=2, keepdims=True), kernel.shape)
