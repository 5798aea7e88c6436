"""Index-of-Max (Jin et al., IEEE TIFS 2018): projection, refinement, and the readings of responses.

Refinement corrects a row until its code, read back, points where the row points.

The vector that a plain Index-of-Max code stands for, the sum of its chosen projection vectors, is not parallel to the
row it came from: each position rounds for itself, and the roundings add up to a remainder in some random direction.
When two codes are compared, the remainder of each meets the row of the other, and that is most of what their distance
scatters by. Here the roundings are chosen together so that the remainder vanishes. Anti-sparse coding does so for signs
(Jegou, Furon and Fuchs, ICASSP 2012), noise shaping for a stream.

The refined code is again an Index-of-Max code, of a corrected row v that solves min_v sum_i max_j <w_ij, v> - <target,
v>, a convex problem whose gradient is what the code holds too much.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from iom._registry import lookup
from iom.nn.frames import FRAMES, draw_frame
from iom.nn.hash_numpy import DECAY, FLOOR, RATE, centred, corrected, read_back
from iom.nn.layers import SavedArguments


@keras.saving.register_keras_serializable(package="iom")
class CentredPositions(SavedArguments, keras.constraints.Constraint):
    """Take the mean off the vectors of each position (Q of them), and scale them to a root mean square of one.

    No code changes by either, since an argmax sees neither. Training does: an optimizer that scales every weight on its
    own, such as Adam, moves all vectors of a position a little the same way at each step. That common part is invisible
    to the loss, grows without bound, and at constant length leaves ever less of what tells the symbols apart; within
    some 1,000 steps a code is noise. The scale keeps the meaning of the inverse temperature.
    """

    def __init__(self, alphabet_size):
        self.alphabet_size = alphabet_size

    def __call__(self, w):
        """Vectors `(K, M * Q)`, those of a position side by side."""
        vectors = ops.reshape(centred(ops, w, self.alphabet_size), (w.shape[0], -1, self.alphabet_size))
        squares = ops.sum(ops.square(vectors), axis=(0, 2), keepdims=True) / self.alphabet_size
        vectors = vectors * ops.rsqrt(ops.maximum(squares, FLOOR))
        return ops.reshape(vectors, w.shape)


@keras.saving.register_keras_serializable(package="iom")
class IoMProjection(SavedArguments, keras.layers.Layer):
    """Project each row on `code_length` groups of `alphabet_size` vectors, without a bias.

    A bias would break scale invariance. The initial vectors are drawn with NumPy from `seed`. Learned vectors are kept
    centred and at length one (`CentredPositions`). A file holds the vectors in half precision: frozen ones are rounded
    from the start and so stay the same, learned ones when saved. Enrol and calibrate with the loaded ones.

    Args:
        code_length: M, positions of the code.
        alphabet_size: Q, values of a symbol.
        initial: A key of `iom.nn.frames.FRAMES`.
        seed: Of the initial vectors.
        refinement_steps: Corrections before the responses are taken; 0 is plain Index-of-Max, 10 reach nearly all there
            is.
        refinement_gain: How much more of the row the refined code is asked to hold than the plain one, in units of
            tan^2 of the angle between the plain code, read back, and the row. Asking for more decides positions for the
            row that are nearly ties. With the angle the demand follows the shape of the code: a short code has less to
            give. 4 is near the best for every shape from 64x8 to 1536x2.
        trainable: Whether the vectors are learned.
    """

    def __init__(
        self,
        code_length,
        alphabet_size,
        initial="gaussian",
        seed=0,
        refinement_steps=0,
        refinement_gain=4.0,
        trainable=True,
        **kwargs,
    ):
        super().__init__(trainable=trainable, **kwargs)
        self.code_length = code_length
        self.alphabet_size = alphabet_size
        self.initial = initial
        self.seed = seed
        self.refinement_steps = refinement_steps
        self.refinement_gain = refinement_gain
        lookup(FRAMES, initial, "initial projection")
        self._frozen = not trainable

    def build(self, input_shape):
        """Draw the vectors, `(K, M * Q)`."""
        values = draw_frame(self.initial, input_shape[-1], self.code_length, self.alphabet_size, seed=self.seed)
        if self._frozen:
            values = values.astype(np.float16).astype(np.float32)
        self.kernel = self.add_weight(
            name="kernel",
            shape=values.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(values, dtype),
            constraint=None if self._frozen else CentredPositions(self.alphabet_size),
        )

    def call(self, inputs):
        """`(B, K)` of unit length -> responses `(B, M, Q)`."""
        if self.refinement_steps:
            inputs = refine(
                inputs, self.kernel, self.alphabet_size, steps=self.refinement_steps, gain=self.refinement_gain
            )
        responses = ops.matmul(inputs, self.kernel)
        return ops.reshape(responses, (-1, self.code_length, self.alphabet_size))

    def read_back(self, relaxed):
        """Vectors that relaxed codes stand for, `(B, M, Q)` -> `(B, K)`: those of each position less their mean."""
        vectors = centred(ops, self.kernel, self.alphabet_size)
        flat = ops.reshape(relaxed, (-1, self.code_length * self.alphabet_size))
        return ops.matmul(flat, ops.transpose(vectors))

    def save_own_variables(self, store):
        """Store the vectors in half precision."""
        store["kernel"] = ops.convert_to_numpy(self.kernel).astype(np.float16)

    def load_own_variables(self, store):
        self.kernel.assign(np.asarray(store["kernel"], np.float32))


def refine(rows, kernel, alphabet_size, *, steps, gain):
    """Rows whose plain codes are the refined codes of `rows`, `(B, K)`, not of unit length.

    The correction is a constant to the gradient, which passes straight through to the rows. `kernel` are the projection
    vectors `(K, M * Q)`, those of a position side by side.
    """
    vectors = ops.stop_gradient(centred(ops, kernel, alphabet_size))
    target = ops.stop_gradient(rows)

    def held_by(values):
        return read_back(ops, values, vectors, alphabet_size)

    refined = corrected(ops, target, held_by, steps=steps, gain=gain, rate=RATE, decay=DECAY)
    return rows + ops.stop_gradient(refined - target)


def hard_index(responses):
    """The code: index of the largest response, the first of equals. `(B, M, Q)` -> `(B, M)`."""
    return ops.argmax(responses, axis=-1)


def relaxed_codes(responses, inverse_temperature, *, straight_through=False):
    """Codes with a gradient: a softmax over the symbols of each position, `(B, M, Q)`.

    A large `inverse_temperature` T comes near to one-hot. With `straight_through` the value is the exact one-hot code,
    the gradient that of the softmax (Bengio et al., 2013).
    """
    soft = ops.softmax(inverse_temperature * responses, axis=-1)
    if not straight_through:
        return soft
    hard = ops.one_hot(hard_index(responses), responses.shape[-1], dtype=soft.dtype)
    return soft + ops.stop_gradient(hard - soft)


@keras.saving.register_keras_serializable(package="iom")
class Symbols(keras.layers.Layer):
    """Index of the largest response, the first of equals: `(B, M, Q)` -> `(B, M)` int32.

    Not by `keras.ops.argmax`, which is built from bit operations on TensorFlow that no converter knows, and ranks -0.0
    below 0.0.
    """

    def call(self, responses):
        return tf.argmax(responses, axis=-1, output_type=tf.int32)

    def compute_output_spec(self, responses):
        return keras.KerasTensor(responses.shape[:-1], dtype="int32")
