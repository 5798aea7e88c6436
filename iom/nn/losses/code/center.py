"""Center loss."""

import keras

from iom.nn.losses.margin.class_loss import ClassLoss, gather


@keras.saving.register_keras_serializable(package="iom")
class CenterLoss(ClassLoss):
    """Half the squared distance to the centre of the own class (Wen et al., ECCV 2016, eq. 2).

    On the output of `CentreDistances`. The centres are trained with everything else, by gradient;
    the paper moves them by a rule of its own (eq. 4), which is a gradient step per class.
    """

    def __init__(self, name="center", **kwargs):
        super().__init__(name=name, **kwargs)

    def row_losses(self, labels, outputs):
        """Labels `(B,)` and squared distances `(B, C)` -> `(B,)`."""
        return 0.5 * gather(outputs, labels)[:, 0]
