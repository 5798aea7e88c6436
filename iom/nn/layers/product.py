"""Product quantisation (Jegou, Douze and Schmid, TPAMI 2011) as an Index-of-Max projection: a product frame."""

import keras
import numpy as np
from keras import ops

from iom._random import numpy_stream
from iom.nn.frames import block_size
from iom.nn.hash_numpy import centred, product_responses
from iom.nn.layers import SavedArguments
from iom.nn.layers.index_of_max import CentredPositions


@keras.saving.register_keras_serializable(package="iom")
class ProductProjection(SavedArguments, keras.layers.Layer):
    """Project block i of each row on the vectors of position i, which are the same at every position: a codebook.

    A new layer has random vectors; set them from `iom.nn.frames.drawn_codebook` or `fitted_codebook`. Rows are of unit
    length: the bias gives the vectors a meaning in their units. With a window of 2 the vector of position i reaches
    into block i + 1, and the responses are those of the best whole codes (`iom.nn.hash_numpy.joint_responses`).

    Args:
        code_length: M, positions of the code, a divisor of the size of the rows.
        alphabet_size: Q, values of a symbol.
        half_norm_bias: Less half the squared length of each vector, so that the largest response is that of the vector
            nearest to the block. Without it vectors are kept centred and at a root mean square of one
            (`CentredPositions`), as an argmax sees neither.
        window: Blocks that a position sees, 1 or 2.
        trainable: Whether the codebook is learned.
    """

    def __init__(self, code_length, alphabet_size, half_norm_bias=True, window=1, trainable=True, **kwargs):
        super().__init__(trainable=trainable, **kwargs)
        self.code_length = code_length
        self.alphabet_size = alphabet_size
        self.half_norm_bias = half_norm_bias
        self.window = window
        self._frozen = not trainable

    def build(self, input_shape):
        """Draw the codebook `(window K / M, Q)`, vectors as columns."""
        shape = self.window * block_size(input_shape[-1], self.code_length), self.alphabet_size
        values = numpy_stream(0, "product/codebook").standard_normal(shape) / np.sqrt(input_shape[-1])
        self.codebook = self.add_weight(
            name="codebook",
            shape=shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(values.astype(np.float32), dtype),
            constraint=None if self._frozen or self.half_norm_bias else CentredPositions(self.alphabet_size),
        )

    def call(self, inputs):
        """`(B, K)` of unit length -> responses `(B, M, Q)`."""
        bias, window = self.half_norm_bias, self.window
        return product_responses(ops, inputs, self.codebook, self.code_length, half_norm_bias=bias, window=window)

    def read_back(self, relaxed):
        """Vectors that relaxed codes stand for, `(B, M, Q)` -> `(B, K)`; without a bias less their mean."""
        vectors = self.codebook if self.half_norm_bias else centred(ops, self.codebook, self.alphabet_size)
        blocks = ops.matmul(relaxed, ops.transpose(vectors))
        if self.window == 2:
            size = self.codebook.shape[0] // 2
            reaching = blocks[:, :, size:]
            blocks = blocks[:, :, :size] + ops.concatenate([reaching[:, -1:], reaching[:, :-1]], axis=1)
        return ops.reshape(blocks, (-1, self.code_length * (self.codebook.shape[0] // self.window)))
