"""Losses on embeddings: center loss, triplet loss and distillation from a teacher."""

import keras
from keras import ops

from iom._registry import lookup
from iom.nn.losses.code.pairs import TRIPLET_MININGS, cosine_distance, euclidean_distance
from iom.nn.losses.margin import ClassLoss, class_loss, gather


@class_loss
class CenterLoss(ClassLoss):
    """Half the squared distance to the centre of the own class (Wen et al., ECCV 2016, eq. 2), of `CentreDistances`.

    The centres are trained by gradient; the paper moves them by a rule of its own (eq. 4), a gradient step per class.
    """

    name: str = "center"

    def row_losses(self, labels, outputs):
        """Labels `(B,)` and squared distances `(B, C)` -> `(B,)`."""
        return 0.5 * gather(outputs, labels)[:, 0]


DISTANCES = {"cosine": cosine_distance, "euclidean": euclidean_distance}


@class_loss
class TripletLoss(ClassLoss):
    """Triplets within a batch of embeddings of unit length (`UnitLength`), as mined.

    Args:
        margin: By how much a non-mated distance should exceed a mated one.
        mining: `batch_hard`, `batch_all` or `semi_hard` (`iom/nn/losses/code/pairs.py`).
        distance: `cosine` or `euclidean`.
    """

    name: str = "triplet"
    margin: float = 0.3
    mining: str = "batch_hard"
    distance: str = "cosine"

    def __post_init__(self):
        super().__post_init__()
        self._mine = lookup(TRIPLET_MININGS, self.mining, "triplet mining")
        self._distances = lookup(DISTANCES, self.distance, "distance of embeddings")

    def row_losses(self, labels, outputs):
        """Labels `(B,)` and embeddings `(B, D)` -> scalar."""
        return self._mine(self._distances(outputs, outputs), labels, margin=self.margin)


@keras.saving.register_keras_serializable(package="iom")
class EmbeddingDistance(keras.losses.Loss):
    """1 - cosine between the teacher's and the student's embedding, both of unit length."""

    def __init__(self, name="embedding_distance", reduction="sum_over_batch_size", **kwargs):
        super().__init__(name=name, reduction=reduction, **kwargs)

    def call(self, y_true, y_pred):
        """`(B, D)` and `(B, D)` -> `(B,)` in [0, 2]."""
        return 1.0 - ops.sum(y_true * y_pred, axis=-1)
