"""The last step of a deployed hasher: responses to symbols."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="iom")
class Symbols(keras.layers.Layer):
    """Index of the largest response, the first of equals: `(B, M, Q)` -> `(B, M)` int32.

    On TensorFlow not by `keras.ops.argmax`, which is built from bit operations there that no
    converter knows, and ranks -0.0 below 0.0.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def call(self, responses):
        """Symbols of responses."""
        if keras.backend.backend() != "tensorflow":
            return ops.cast(ops.argmax(responses, axis=-1), "int32")
        import tensorflow as tf

        return tf.argmax(responses, axis=-1, output_type=tf.int32)

    def compute_output_spec(self, responses):
        """`(B, M)` int32."""
        return keras.KerasTensor(responses.shape[:-1], dtype="int32")
