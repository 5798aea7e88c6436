"""Losses that adapt: MagFace and AdaFace to the norm of the embedding, CurricularFace to the progress of training."""

import math

import keras
from keras import ops

from iom.nn.losses.margin.base import (
    NonNegative,
    Positive,
    Rate,
    SoftmaxCrossEntropy,
    add_angle,
    angles,
    class_loss,
    gather,
    replace,
)

ANGLE_MARGIN = 1e-3
"""Angles are kept this far from 0 and pi (as in AdaFace's own code)."""


@class_loss
class NormMarginLoss(SoftmaxCrossEntropy):
    """Margin by the norm, which stands for image quality, of the output of `CosineLogits(classes, with_norm=True)`."""

    needs_norm = True
    classes: int

    def split(self, outputs):
        """Outputs `(B, C + 1)` -> cosines `(B, C)` and norms `(B, 1)`; another width lacks the norm and is refused."""
        if outputs.shape[1] != self.classes + 1:
            raise ValueError(
                f"{self.name}: expected {self.classes} cosines and the norm of the embedding, "
                f"received {outputs.shape[1]} columns; use CosineLogits({self.classes}, "
                "with_norm=True)"
            )
        return outputs[:, :-1], outputs[:, -1:]


@class_loss
class MagFaceLoss(NormMarginLoss):
    """Margin that grows with the norm a, and a pull towards large norms (Meng et al., CVPR 2021).

    ArcFace with m(a) = l_m + (u_m - l_m) (a - l_a) / (u_a - l_a), plus lambda_g (1/a + a/u_a^2); eqs. 3 and 4, a
    clipped to [l_a, u_a].

    Args:
        scale: s.
        lowest_norm: l_a.
        highest_norm: u_a.
        lowest_margin: l_m, at the lowest norm, in radians.
        highest_margin: u_m, at the highest.
        norm_weight: lambda_g.
    """

    name: str = "magface"
    scale: Positive = 64.0
    lowest_norm: Positive = 10.0
    highest_norm: Positive = 110.0
    lowest_margin: NonNegative = 0.45
    highest_margin: NonNegative = 0.8
    norm_weight: NonNegative = 35.0

    def row_losses(self, labels, outputs):
        """Cross-entropy with the norm's margin, plus the norm's own term, `(B,)`."""
        _, norms = self._clipped(outputs)
        pull = 1.0 / norms + norms / self.highest_norm**2
        return super().row_losses(labels, outputs) + self.norm_weight * pull[:, 0]

    def logits(self, labels, outputs):
        """Scaled cosines, the target's moved by the margin of its norm."""
        cosines, norms = self._clipped(outputs)
        share = (norms - self.lowest_norm) / (self.highest_norm - self.lowest_norm)
        margins = self.lowest_margin + (self.highest_margin - self.lowest_margin) * share
        return self.scale * replace(cosines, labels, add_angle(gather(cosines, labels), margins))

    def _clipped(self, outputs):
        cosines, norms = self.split(outputs)
        return cosines, ops.clip(norms, self.lowest_norm, self.highest_norm)


@class_loss
class AdaFaceLoss(NormMarginLoss):
    """Margin adapted to image quality, read from the norm (Kim et al., CVPR 2022, eqs. 14 to 17).

    z = clip((norm - mean) h / std, -1, 1), without a gradient; mean and std follow the batches.
    The target logit is s (cos(theta - m z) - m z - m).

    Args:
        margin: m.
        scale: s.
        concentration: h.
        rate: By which mean and standard deviation of the norms follow a batch.
    """

    name: str = "adaface"
    margin: NonNegative = 0.4
    scale: Positive = 64.0
    concentration: NonNegative = 0.333
    rate: Rate = 0.01

    def __post_init__(self):
        super().__post_init__()
        settings = {"dtype": "float32", "trainable": False, "aggregation": "mean"}
        # Mean and standard deviation start at 20 and 100, as in the authors' code.
        self.mean = keras.Variable(20.0, name="adaface_mean", **settings)
        self.deviation = keras.Variable(100.0, name="adaface_deviation", **settings)

    @property
    def state(self):
        """Mean and standard deviation of the norms."""
        return [self.mean, self.deviation]

    def logits(self, labels, outputs):
        """Cosines and norms -> scaled cosines, the target's moved; follows the norms."""
        cosines, norms = self.split(outputs)
        quality = self._quality(ops.stop_gradient(ops.clip(norms, 1e-3, 100.0)))
        angle = angles(gather(cosines, labels)) - self.margin * quality
        angle = ops.clip(angle, ANGLE_MARGIN, math.pi - ANGLE_MARGIN)
        moved = ops.cos(angle) - self.margin * quality - self.margin
        return self.scale * replace(cosines, labels, moved)

    def _quality(self, norms):
        rows = ops.cast(ops.shape(norms)[0], "float32")
        mean = ops.mean(norms)
        # The sample's own deviation, n - 1; a batch of one has none.
        spread = ops.sum(ops.square(norms - mean)) / ops.maximum(rows - 1.0, 1.0)
        self.mean.assign(self.rate * mean + (1.0 - self.rate) * self.mean)
        self.deviation.assign(self.rate * ops.sqrt(spread) + (1.0 - self.rate) * self.deviation)
        scaled = (norms - self.mean) / (self.deviation + ANGLE_MARGIN)
        return ops.clip(scaled * self.concentration, -1.0, 1.0)


@class_loss
class CurricularFaceLoss(SoftmaxCrossEntropy):
    """Curricular margin softmax (Huang et al., CVPR 2020, eqs. 5 to 7).

    A class j whose cosine exceeds the target's with its margin is hard, and its cosine becomes cos_j (t + cos_j). t
    follows the mean target cosine of the batches: t <- a mean + (1 - a) t.

    Args:
        margin: Angle m of the target, in radians.
        scale: s.
        rate: a, by which t follows a batch.
    """

    name: str = "curricularface"
    margin: NonNegative = 0.5
    scale: Positive = 64.0
    rate: Rate = 0.01

    def __post_init__(self):
        super().__post_init__()
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
