"""Triplet loss on embeddings."""

import keras

from iom._registry import lookup
from iom.nn.losses.code.pairs import cosine_distance, euclidean_distance
from iom.nn.losses.code.triplet import TRIPLET_MININGS
from iom.nn.losses.margin.class_loss import ClassLoss

DISTANCES = {"cosine": cosine_distance, "euclidean": euclidean_distance}


@keras.saving.register_keras_serializable(package="iom")
class TripletLoss(ClassLoss):
    """Triplets within a batch of embeddings of unit length (`UnitLength`), as mined.

    Args:
        margin: By how much a non-mated distance should exceed a mated one.
        mining: `batch_hard`, `batch_all` or `semi_hard` (`iom/nn/losses/code/triplet.py`).
        distance: `cosine` or `euclidean`.
        name: Name of the loss.
        **kwargs: `reduction` and `dtype` of the loss.
    """

    def __init__(self, margin=0.3, mining="batch_hard", distance="cosine", name="triplet", **kwargs):
        super().__init__(name=name, **kwargs)
        self.margin = margin
        self.mining = mining
        self.distance = distance
        self._mine = lookup(TRIPLET_MININGS, mining, "triplet mining")
        self._distances = lookup(DISTANCES, distance, "distance of embeddings")

    def row_losses(self, labels, outputs):
        """Labels `(B,)` and embeddings `(B, D)` -> scalar."""
        return self._mine(self._distances(outputs, outputs), labels, margin=self.margin)

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "margin": self.margin, "mining": self.mining, "distance": self.distance}
