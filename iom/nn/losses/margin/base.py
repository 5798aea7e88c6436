"""Base of the losses on class labels: exact labels, float32, softmax cross-entropy, angles of cosines."""

import abc
import dataclasses
import math
import typing
from typing import Annotated, ClassVar

import keras
from keras import ops
from pydantic import Field

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
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing: expected 0 <= share < 1, received {self.label_smoothing}")

    @property
    def state(self):
        """Variables that the loss changes itself: part of an exact checkpoint."""
        return []

    def row_losses(self, labels, outputs):
        """Cross-entropy of each row, `(B,)`."""
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
