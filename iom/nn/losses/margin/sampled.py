"""Margin losses on the output of `SampledCosineLogits`, and over classes split among devices."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="iom")
class SampledLoss(keras.losses.Loss):
    """Any loss on cosines `(B, S)` and sparse labels `(B,)`, over the classes that a step has drawn.

    The truth is ignored: the output itself carries the place of the true class, as the number of a class among all need
    not survive float32, in which 2^24 and 2^24 + 1 are one number.
    """

    def __init__(self, loss, name=None, reduction="sum_over_batch_size", **kwargs):
        super().__init__(name=name or f"sampled_{loss.name}", reduction=reduction, **kwargs)
        self.loss = loss

    @property
    def state(self):
        return getattr(self.loss, "state", [])

    def call(self, y_true, y_pred):
        return self.loss.call(y_pred[:, -1], y_pred[:, :-1])

    def get_config(self):
        return {**super().get_config(), "loss": keras.saving.serialize_keras_object(self.loss)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


def sharded_cross_entropy(labels, shards):
    """Softmax cross-entropy `(B,)` over classes that lie on several devices, never in one place.

    log sum_c exp(l_c) is the logsumexp of the shards' logsumexps; one shard holds the target. Only `(B,)` numbers leave
    a device for each shard. `labels` count all classes, by shard; `shards` are logits `(B, C_k)` with the margin.
    """
    labels = ops.cast(ops.reshape(labels, (-1,)), "int32")
    sums, targets, first = [], [], 0
    for logits in shards:
        logits = ops.cast(logits, "float32")
        chosen = ops.one_hot(labels - first, logits.shape[1], dtype="float32")  # zero elsewhere
        sums.append(ops.logsumexp(logits, axis=1))
        targets.append(ops.sum(chosen * logits, axis=1))
        first += logits.shape[1]
    return ops.logsumexp(ops.stack(sums), axis=0) - ops.sum(ops.stack(targets), axis=0)
