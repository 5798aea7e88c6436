"""Cosines between embeddings and subject centres."""

import keras
from keras import ops

from iom.nn.layers import Float32Layer, lengths, unit_length


@keras.saving.register_keras_serializable(package="iom")
class ClassCentres(Float32Layer):
    """One learned row for each of `classes` subjects; its input gives the width alone."""

    initializer = "glorot_normal"

    def __init__(self, classes, **kwargs):
        super().__init__(**kwargs)
        self.classes = classes

    def build(self, input_shape):
        """Create the centres, `(classes, D)`."""
        shape = (self.classes, input_shape[-1])
        self.centres = self.add_weight(name="centres", shape=shape, initializer=self.initializer)

    def call(self, inputs):
        """`(B, D)` -> `(classes, D)`."""
        return ops.convert_to_tensor(self.centres)


@keras.saving.register_keras_serializable(package="iom")
class CosineLogits(Float32Layer):
    """Cosine of each embedding to each class centre; margin and scale belong to the loss.

    Args:
        classes: Number of subjects in training.
        sub_centers: Centres of each class, of which the nearest counts (Deng et al., ECCV 2020, eq. 3): noisy labels
            gather around centres of their own.
        with_norm: Add the norm of the embedding as a last column, for losses that read it.
    """

    def __init__(self, classes, sub_centers=1, with_norm=False, **kwargs):
        super().__init__(**kwargs)
        if classes < 1 or sub_centers < 1:
            raise ValueError(f"expected at least one class and sub-center, received {classes} and {sub_centers}")
        self.classes = classes
        self.sub_centers = sub_centers
        self.with_norm = with_norm

    def build(self, input_shape):
        """Create the centres, `(D, sub_centers * classes)`: all first ones, all second ones ..."""
        self.centres = self.add_weight(
            name="centres", shape=(input_shape[-1], self.sub_centers * self.classes), initializer="glorot_normal"
        )

    def call(self, inputs):
        """`(B, D)` -> `(B, classes)` in [-1, 1], or `(B, classes + 1)` with the norm."""
        norms = lengths(inputs)
        cosines = ops.matmul(inputs / norms, unit_length(self.centres, axis=0))
        nearest = cosines[:, : self.classes]
        for center in range(1, self.sub_centers):
            first = center * self.classes
            nearest = ops.maximum(nearest, cosines[:, first : first + self.classes])
        return ops.concatenate([nearest, norms], axis=1) if self.with_norm else nearest


@keras.saving.register_keras_serializable(package="iom")
class CentreDistances(ClassCentres):
    """Squared Euclidean distance of each embedding to a learned centre of each class; memory is `(B, classes)`.

    The centres start at the origin.
    """

    initializer = "zeros"

    def call(self, inputs):
        """`(B, D)` -> `(B, classes)`, not negative."""
        squares = ops.sum(ops.square(inputs), axis=1, keepdims=True)
        centre_squares = ops.sum(ops.square(self.centres), axis=1)
        products = ops.matmul(inputs, ops.transpose(self.centres))
        return ops.relu(squares + centre_squares - 2.0 * products)
