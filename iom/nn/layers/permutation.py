"""The keyed step: put the dimensions of an embedding in a secret order."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="iom")
class KeyedPermutation(keras.layers.Layer):
    """Permute the columns of each row by that row's order, and keep the first of them.

    The order is an input, never a weight: one graph serves all subjects, and no secret ends up in
    a saved model. `TransformKey.permutation` makes the order.

    Args:
        keep: Columns kept after the permutation; 0 keeps all. What is cut off is lost to whoever
            learns key and code later, at a price in accuracy.
        kind: The kind of key whose orders these are: `permutation`, or `subset` or `part`, which
            differ in nothing but the orders.
    """

    def __init__(self, keep=0, kind="permutation", **kwargs):
        super().__init__(**kwargs)
        self.keep = keep
        self.kind = kind

    def call(self, inputs):
        """`[rows (B, D), order (B, D) integers]` -> `(B, keep or D)`; column j is `order[:, j]`."""
        rows, order = inputs
        if self.keep:
            order = order[:, : self.keep]
        return ops.take_along_axis(rows, ops.cast(order, "int32"), axis=1)

    def compute_output_shape(self, input_shape):
        """Shape of the result."""
        batch, size = input_shape[0]
        return (batch, self.keep or size)

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "keep": self.keep, "kind": self.kind}
