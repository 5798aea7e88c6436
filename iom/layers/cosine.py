"""Cosines between embeddings and subject centres."""

import keras
from keras import ops

NORM_FLOOR = 1e-12


@keras.saving.register_keras_serializable(package="iom")
class UnitLength(keras.layers.Layer):
    """Scale each row to Euclidean length one; a zero row stays zero. Always in float32."""

    def __init__(self, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)

    def call(self, inputs):
        """`(B, D)` -> `(B, D)` of unit length."""
        square = ops.sum(ops.square(inputs), axis=-1, keepdims=True)
        return inputs * ops.rsqrt(ops.maximum(square, NORM_FLOOR))


@keras.saving.register_keras_serializable(package="iom")
class ClassCentres(keras.layers.Layer):
    """One learned row for each class; what it is called on gives the width alone.

    Args:
        classes: Number of subjects in training.
    """

    def __init__(self, classes, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.classes = classes

    def build(self, input_shape):
        """Create the centres, `(classes, D)`."""
        self.centres = self.add_weight(
            name="centres", shape=(self.classes, input_shape[-1]), initializer="glorot_normal"
        )

    def call(self, inputs):
        """`(B, D)` -> `(classes, D)`."""
        return ops.convert_to_tensor(self.centres)

    def compute_output_shape(self, input_shape):
        """`(classes, D)`."""
        return (self.classes, input_shape[-1])

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "classes": self.classes}


@keras.saving.register_keras_serializable(package="iom")
class CosineLogits(keras.layers.Layer):
    """Cosine of each embedding to each class centre; margin and scale belong to the loss.

    Args:
        classes: Number of subjects in training.
    """

    def __init__(self, classes, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.classes = classes

    def build(self, input_shape):
        """Create the centres, `(D, classes)`."""
        self.centres = self.add_weight(
            name="centres", shape=(input_shape[-1], self.classes), initializer="glorot_normal"
        )

    def call(self, inputs):
        """`(B, D)` -> `(B, classes)` in [-1, 1]."""
        rows = inputs * ops.rsqrt(
            ops.maximum(ops.sum(ops.square(inputs), axis=-1, keepdims=True), NORM_FLOOR)
        )
        columns = self.centres * ops.rsqrt(
            ops.maximum(ops.sum(ops.square(self.centres), axis=0, keepdims=True), NORM_FLOOR)
        )
        return ops.matmul(rows, columns)

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "classes": self.classes}
