"""Base of the losses on codes: a measure of a whole batch, on one output of the training graph."""

import keras
from keras import ops

COLLISIONS = "collisions"
"""Collision probability of all row pairs, `(B, B)`."""
SOFT = "soft"
"""Softmax of the responses, `(B, M, Q)`."""
RELAXED = "relaxed"
"""Relaxed codes, `(B, M, Q)`: the hard ones with a gradient, or the soft ones."""
COLLISIONS_ACROSS = "collisions_across"
"""Collision probability of rows under one key (first axis) with rows under another, `(B, B)`."""
CLASS_COSINES = "class_cosines"
"""Cosine of each relaxed code to a centre of each training subject in code space, `(B, C)`."""
HASHED_CLASS_COSINES = "hashed_class_cosines"
"""Likeness of each relaxed code to the code of a centre of each subject, same key, `(B, C)`."""


class CodeLoss(keras.losses.Loss):
    """A loss that reads one output of the training graph, which has its name.

    Args:
        reads: Which part of the graph that output is.
        measure: `(truth, part) -> scalar`. The truth is the labels `(B,)` as float32, since Keras casts them: dense
            indices, exact up to 2^24.
        reads_embeddings: The truth is the embeddings `(B, D)` instead.
    """

    def __init__(self, name, reads, measure, *, reads_embeddings=False):
        super().__init__(name=name, reduction="sum_over_batch_size")
        self.reads = reads
        self.reads_embeddings = reads_embeddings
        self.measure = measure

    def call(self, y_true, y_pred):
        """Truth and part of the graph -> scalar."""
        return self.measure(y_true, y_pred)


class PerKeyLoss(keras.losses.Loss):
    """Mean, over G keys, of a loss of a whole batch on the outputs of each key.

    Two codes are comparable under one key only: nothing in the loss can compare rows across keys. The pairs stay as
    many as with one key, the gradient averages over keys, and a step costs G times more.
    """

    def __init__(self, loss, keys):
        super().__init__(name=loss.name, reduction="sum_over_batch_size")
        self.loss = loss
        self.keys = keys
        self.reads = loss.reads
        self.reads_embeddings = loss.reads_embeddings

    def call(self, y_true, y_pred):
        """Truth of the rows `(B, ...)` and outputs under each key `(B, G, ...)` -> scalar."""
        values = [self.loss.call(y_true, y_pred[:, key]) for key in range(self.keys)]
        return ops.mean(ops.stack(values))
