"""Losses of a batch that is hashed under several keys."""

import keras
from keras import ops


class PerKeyLoss(keras.losses.Loss):
    """Mean over the keys of a loss on what each key gives.

    Two codes mean something to each other under one key only. So the whole batch is hashed under
    every key, and the loss sees the outputs of one key at a time: nothing in it can compare rows
    across keys. The pairs stay as many as with one key, the gradient averages over keys, and a step
    costs as many times more.

    Args:
        loss: A loss of a whole batch.
        keys: G.
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
