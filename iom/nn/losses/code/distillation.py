"""Following a teacher's embeddings."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="iom")
class EmbeddingDistance(keras.losses.Loss):
    """1 - cosine between the teacher's and the student's embedding, both of unit length."""

    def __init__(self, name="embedding_distance", reduction="sum_over_batch_size", **kwargs):
        super().__init__(name=name, reduction=reduction, **kwargs)

    def call(self, y_true, y_pred):
        """`(B, D)` and `(B, D)` -> `(B,)` in [0, 2]."""
        return 1.0 - ops.sum(y_true * y_pred, axis=-1)
