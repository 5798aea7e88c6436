"""Margin softmax losses on cosines `(B, C)` and sparse labels `(B,)`."""

import math
from collections.abc import Callable

import keras
from keras import ops

COSINE_LIMIT = 1.0 - 1e-6
"""Cosines are kept off +-1: the slope of sqrt(1 - cos^2) is infinite there."""


@keras.saving.register_keras_serializable(package="iom")
class ArcFaceLoss(keras.losses.Loss):
    """Additive angular margin (Deng et al., CVPR 2019, eq. 3).

    The target logit is s cos(theta + m) while theta + m <= pi, and s (cos(theta) - m sin(m))
    beyond, so that it falls with theta everywhere (the reference code's continuation).

    Args:
        margin: Angle m in radians.
        scale: s, the inverse temperature of the softmax.
    """

    def __init__(
        self, margin=0.5, scale=64.0, name="arcface", reduction="sum_over_batch_size", **kwargs
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.margin = margin
        self.scale = scale

    def call(self, y_true, y_pred):
        """Cross-entropy of each row, `(B,)`."""
        cosines = ops.clip(ops.cast(y_pred, "float32"), -COSINE_LIMIT, COSINE_LIMIT)
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        target = ops.take_along_axis(cosines, ops.expand_dims(labels, 1), axis=1)
        sine = ops.sqrt(1.0 - ops.square(target))
        moved = target * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = target - self.margin * math.sin(self.margin)
        moved = ops.where(target > math.cos(math.pi - self.margin), moved, beyond)
        chosen = ops.one_hot(labels, cosines.shape[1], dtype="float32")
        logits = self.scale * (cosines + chosen * (moved - target))
        return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "margin": self.margin, "scale": self.scale}


@keras.saving.register_keras_serializable(package="iom")
class NormalisedSoftmaxLoss(ArcFaceLoss):
    """Softmax on scaled cosines without a margin (Wang et al., ACM MM 2017)."""

    def __init__(self, margin=0.0, scale=64.0, name="normalised_softmax", **kwargs):
        super().__init__(margin=margin, scale=scale, name=name, **kwargs)


MARGIN_LOSSES: dict[str, Callable[..., keras.losses.Loss]] = {
    "arcface": ArcFaceLoss,
    "normalised_softmax": NormalisedSoftmaxLoss,
}
