"""CurricularFace: hard non-mated classes count more as training goes on."""

import keras
from keras import ops

from iom.nn.losses.margin.base import NonNegative, Positive, Rate, SoftmaxCrossEntropy, add_angle, gather, replace


@keras.saving.register_keras_serializable(package="iom")
class CurricularFaceLoss(SoftmaxCrossEntropy):
    """Curricular margin softmax (Huang et al., CVPR 2020, eqs. 5 to 7).

    A class j whose cosine exceeds the target's with its margin is hard, and its cosine becomes cos_j (t + cos_j). t
    follows the mean target cosine of the batches: t <- a mean + (1 - a) t.

    Args:
        margin: Angle m of the target, in radians.
        scale: s.
        rate: a, by which t follows a batch.
        label_smoothing: Share of the target spread over all classes.
    """

    def __init__(
        self,
        margin: NonNegative = 0.5,
        scale: Positive = 64.0,
        rate: Rate = 0.01,
        label_smoothing=0.0,
        name="curricularface",
        **kwargs,
    ):
        super().__init__(label_smoothing, name=name, **kwargs)
        self.margin = margin
        self.scale = scale
        self.rate = rate
        self.level = keras.Variable(0.0, dtype="float32", trainable=False, aggregation="mean", name="curricularface_t")

    @property
    def state(self):
        return [self.level]

    def logits(self, labels, outputs):
        """Cosines `(B, C)` -> scaled cosines, hard classes weighted; moves t."""
        target = gather(outputs, labels)
        mean = ops.mean(ops.stop_gradient(target))
        level = self.rate * mean + (1.0 - self.rate) * ops.convert_to_tensor(self.level)
        self.level.assign(level)
        moved = add_angle(target, self.margin)
        weighted = ops.where(outputs > moved, outputs * (level + outputs), outputs)
        return self.scale * replace(weighted, labels, moved)

    def get_config(self):
        return {**super().get_config(), "margin": self.margin, "scale": self.scale, "rate": self.rate}
