"""Losses on class labels with a margin, each named after its paper: the base, the losses, and the one table of them.

Labels stay exact, everything is float32, and the loss is the softmax cross-entropy of moved cosines.
"""

import abc
import dataclasses
import math
import typing
from typing import Annotated, Any, ClassVar

import keras
from keras import ops
from pydantic import Field, ValidationError, create_model

from iom._registry import lookup
from iom.config import MarginConfig, Section, explain
from iom.errors import ConfigError

LIMB = 1 << 16
"""Labels pass through Keras' cast to float32 in two limbs: exact up to 2^31, not only to 2^24."""

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]


@typing.dataclass_transform(kw_only_default=True)
def class_loss(kind):
    """Decorator of a `ClassLoss`: a dataclass of its settings, which Keras saves and finds again by its name."""
    settings = dataclasses.dataclass(kw_only=True, eq=False, repr=False)
    return keras.saving.register_keras_serializable(package="iom")(settings(kind))


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class ClassLoss(keras.losses.Loss, abc.ABC):
    """A loss whose truth is a dense class index, `(B,)` or `(B, 1)` integers.

    A subclass is a `class_loss`, and writes `row_losses(labels, outputs)`; both are safe to compute with: labels are
    int32, outputs float32, whatever precision the model has. Settings, `name` and `reduction` are given by keyword.
    """

    name: str
    reduction: str | None = "sum_over_batch_size"

    def __post_init__(self):
        # Half precision would round the labels' limbs, and exp() of scaled cosines overflows in it.
        super().__init__(name=self.name, reduction=self.reduction, dtype="float32")

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Loss of a batch, reduced; the labels stay exact on the way."""
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        limbs = ops.stack([labels // LIMB, labels % LIMB], axis=-1)
        return super().__call__(limbs, y_pred, sample_weight)

    def call(self, y_true, y_pred):
        """Labels `(B,)`, or their limbs `(B, 2)`, and outputs -> loss of each row, or a scalar."""
        labels = ops.cast(y_true, "int32")
        if len(labels.shape) == 2:
            labels = labels[:, 0] * LIMB + labels[:, 1]
        return self.row_losses(labels, ops.cast(y_pred, "float32"))

    @abc.abstractmethod
    def row_losses(self, labels, outputs):
        """Labels `(B,)` int32 and outputs float32 -> loss of each row `(B,)`, or a scalar."""

    def get_config(self):
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class SoftmaxCrossEntropy(ClassLoss):
    """Cross-entropy of the softmax of logits, with label smoothing (Szegedy et al., CVPR 2016).

    `label_smoothing` is the share of the target that is spread evenly over all classes.
    """

    needs_norm: ClassVar[bool] = False
    """Whether the last column of the output is the norm of the embedding."""
    needs_cosines: ClassVar[bool] = True
    """Whether the outputs are cosines; otherwise logits of an ordinary linear layer."""
    label_smoothing: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        self.state = []
        """Variables that the loss changes itself: part of an exact checkpoint."""
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing: expected 0 <= share < 1, received {self.label_smoothing}")

    def row_losses(self, labels, outputs):
        return self.cross_entropy(labels, self.logits(labels, outputs))

    @abc.abstractmethod
    def logits(self, labels, outputs):
        """Outputs `(B, C)` -> logits of the softmax `(B, C)`."""

    def cross_entropy(self, labels, logits):
        """`-(1 - e) log p_label - e mean_j log p_j` of each row, `(B,)`."""
        likelihoods = ops.log_softmax(logits, axis=-1)
        loss = -gather(likelihoods, labels)[:, 0]
        if not self.label_smoothing:
            return loss
        spread = -ops.mean(likelihoods, axis=-1)
        return (1.0 - self.label_smoothing) * loss + self.label_smoothing * spread


def gather(rows, labels):
    """Entry `labels[i]` of each row: `(B, C)` and `(B,)` -> `(B, 1)`."""
    return ops.take_along_axis(rows, ops.expand_dims(labels, 1), axis=1)


def replace(rows, labels, values):
    """Rows `(B, C)` with entry `labels[i]` of each replaced by `values` `(B, 1)`."""
    columns = ops.arange(ops.shape(rows)[1], dtype="int32")
    return ops.where(ops.equal(columns[None, :], labels[:, None]), values, rows)


COSINE_LIMIT = 1.0 - 1e-6
"""Beyond it the slopes of arccos and of sqrt(1 - cos^2), infinite at +-1, are held."""
STEEPEST = -1.0 / math.sqrt(1.0 - COSINE_LIMIT**2)


def angles(cosines):
    """Arc cosine in radians; a straight line beyond +-`COSINE_LIMIT`, within 7e-4 of the angle."""
    inside = ops.clip(cosines, -COSINE_LIMIT, COSINE_LIMIT)
    return ops.arccos(inside) + STEEPEST * (cosines - inside)


def add_angle(cosines, margin):
    """`cos(theta + m)`, and `cos(theta) - m sin(m)` where theta + m > pi: it falls everywhere.

    `margin` m is in radians, a number or a tensor of the shape of `cosines`.
    """
    if isinstance(margin, int | float):
        cosine, sine, limit = math.cos(margin), math.sin(margin), math.cos(math.pi - margin)
    else:
        cosine, sine, limit = ops.cos(margin), ops.sin(margin), ops.cos(math.pi - margin)
    height = ops.sqrt(ops.maximum(1.0 - ops.square(cosines), 1.0 - COSINE_LIMIT**2))
    moved = cosines * cosine - height * sine
    return ops.where(cosines > limit, moved, cosines - margin * sine)


def falling_cosine(angle):
    """`(-1)^k cos(a) - 2k`, k = floor(a / pi): falls for all a (Liu et al., CVPR 2017, eq. 7)."""
    turns = ops.stop_gradient(ops.floor(angle / math.pi))
    sign = 1.0 - 2.0 * ops.mod(turns, 2.0)
    return sign * ops.cos(angle) - 2.0 * turns


@class_loss
class SoftmaxLoss(SoftmaxCrossEntropy):
    """Plain softmax on the logits of an ordinary linear layer, no cosines and no margin."""

    name: str = "softmax"
    needs_cosines = False

    def logits(self, labels, outputs):
        return outputs


@class_loss
class NormalisedSoftmaxLoss(SoftmaxCrossEntropy):
    """Softmax on scaled cosines without a margin (Wang et al., ACM MM 2017, eq. 10).

    Args:
        scale: s, the inverse temperature of the softmax.
    """

    name: str = "normalised_softmax"
    scale: Positive = 64.0

    def logits(self, labels, outputs):
        """`s cos_j`, with the target's cosine moved by the margin, if there is one."""
        return self.scale * replace(outputs, labels, self.moved(gather(outputs, labels)))

    def moved(self, target):
        """The target's cosine `(B, 1)` with the margin."""
        return target


@class_loss
class ArcFaceLoss(NormalisedSoftmaxLoss):
    """Additive angular margin (Deng et al., CVPR 2019, eq. 3).

    The target logit is s cos(theta + m) while theta + m <= pi, and s (cos(theta) - m sin(m)) beyond, so that it falls
    with theta everywhere (the reference code's continuation). With `CosineLogits(n, sub_centers=K)` it is sub-center
    ArcFace (Deng et al., ECCV 2020).

    Args:
        margin: Angle m in radians.
    """

    name: str = "arcface"
    margin: NonNegative = 0.5

    def moved(self, target):
        return add_angle(target, self.margin)


@class_loss
class CosFaceLoss(NormalisedSoftmaxLoss):
    """Additive cosine margin (Wang et al., CVPR 2018, eq. 4): target logit s (cos(theta) - m).

    Args:
        margin: m.
    """

    name: str = "cosface"
    margin: NonNegative = 0.35

    def moved(self, target):
        return target - self.margin


@class_loss
class CombinedMarginLoss(NormalisedSoftmaxLoss):
    """All three margins: cos(m1 theta + m2) - m3 (Deng et al., CVPR 2019, eq. 4).

    Past pi the cosine goes on falling as (-1)^k cos(a) - 2k, k = floor(a / pi), the continuation of Liu et al. (CVPR
    2017, eq. 7).

    Args:
        multiplier: m1, on the angle.
        margin: m2, added to the angle, in radians.
        cosine_margin: m3, taken off the cosine.
    """

    name: str = "combined"
    multiplier: Positive = 1.0
    margin: NonNegative = 0.3
    cosine_margin: NonNegative = 0.2

    def moved(self, target):
        return falling_cosine(self.multiplier * angles(target) + self.margin) - self.cosine_margin


@class_loss
class SphereFaceLoss(NormalisedSoftmaxLoss):
    """Multiplicative angular margin (Liu et al., CVPR 2017, eq. 7), on scaled cosines.

    The target logit is s (lambda cos(theta) + psi(theta)) / (1 + lambda), psi(theta) = (-1)^k cos(m theta) - 2k. The
    paper multiplies by the embedding's norm where s stands here, and lets lambda fall to 5 in training: a full margin
    of 4 does not converge from the start.

    Args:
        margin: m, by which the angle is multiplied.
        easing: lambda; 0 is the full margin.
    """

    name: str = "sphereface"
    margin: Positive = 4.0
    easing: NonNegative = 5.0

    def moved(self, target):
        psi = falling_cosine(self.margin * angles(target))
        return (self.easing * target + psi) / (1.0 + self.easing)


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
        self.state = [self.mean, self.deviation]

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
        self.state = [self.level]

    def logits(self, labels, outputs):
        """Cosines `(B, C)` -> scaled cosines, hard classes weighted; moves t."""
        target = gather(outputs, labels)
        mean = ops.mean(ops.stop_gradient(target))
        level = self.rate * mean + (1.0 - self.rate) * ops.convert_to_tensor(self.level)
        self.level.assign(level)
        moved = add_angle(target, self.margin)
        weighted = ops.where(outputs > moved, outputs * (level + outputs), outputs)
        return self.scale * replace(weighted, labels, moved)


MARGIN_LOSSES: dict[str, type[SoftmaxCrossEntropy]] = {
    "softmax": SoftmaxLoss,
    "normalised_softmax": NormalisedSoftmaxLoss,
    "arcface": ArcFaceLoss,
    "cosface": CosFaceLoss,
    "sphereface": SphereFaceLoss,
    "combined": CombinedMarginLoss,
    "curricularface": CurricularFaceLoss,
    "magface": MagFaceLoss,
    "adaface": AdaFaceLoss,
}
"""Name to loss. Its settings are the fields of its class, with their ranges and defaults."""
_SHARED = {field.name for field in dataclasses.fields(SoftmaxCrossEntropy)} | {"classes"}


def build_margin_loss(config: MarginConfig, *, classes: int) -> SoftmaxCrossEntropy:
    """The loss of a configuration, with its settings."""
    kind = lookup(MARGIN_LOSSES, config.name, "margin loss")
    fields = {field.name: (field.type, field.default) for field in dataclasses.fields(kind)}
    own: dict[str, Any] = {name: field for name, field in fields.items() if name not in _SHARED}
    model = create_model(f"{kind.__name__}Settings", __base__=Section, **own)
    try:
        settings = model.model_validate(config.model_extra)
    except ValidationError as error:
        problem = explain(error, section="margin")[1]
        hint = "`null` takes a setting of a base configuration back"
        raise ConfigError(f"{problem}; the loss is {config.name} ({hint})") from error
    sizes: dict[str, Any] = {"classes": classes} if "classes" in fields else {}
    return kind(label_smoothing=config.label_smoothing, **sizes, **settings.model_dump())


@keras.saving.register_keras_serializable(package="iom")
class SampledLoss(keras.losses.Loss):
    """Any loss on cosines `(B, S)` and sparse labels `(B,)`, over the classes that a step has drawn.

    The truth is ignored: the output itself carries the place of the true class, as the number of a class among all need
    not survive float32, in which 2^24 and 2^24 + 1 are one number.
    """

    def __init__(self, loss, name=None, reduction="sum_over_batch_size", **kwargs):
        super().__init__(name=name or f"sampled_{loss.name}", reduction=reduction, **kwargs)
        self.loss = loss
        self.state = getattr(loss, "state", [])

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
