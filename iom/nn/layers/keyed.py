"""Keyed layers: a secret permutation or rotation of the dimensions of an embedding."""

import keras
from keras import ops

from iom.nn.hash_numpy import rotate
from iom.nn.layers import SavedArguments


@keras.saving.register_keras_serializable(package="iom")
class KeyedPermutation(SavedArguments, keras.layers.Layer):
    """Permute the columns of each row by that row's order, and keep the first of them.

    The order is an input, never a weight: one graph serves all subjects, and no secret ends up in a saved model.
    `TransformKey.permutation` makes the order.

    Args:
        keep: Columns kept after the permutation; 0 keeps all. What is cut off is lost to whoever learns key and code
            later, at a price in accuracy.
        kind: The kind of key whose orders these are: `permutation`, or `subset` or `part`, which differ in nothing but
            the orders.
    """

    def __init__(self, keep=0, kind="permutation", **kwargs):
        super().__init__(**kwargs)
        self.keep = keep
        self.kind = kind

    def call(self, inputs):
        """`[rows (B, D), order (B, D) integers]` -> `(B, keep or D)`; column j is `order[:, j]`."""
        rows, order = inputs
        return ops.take_along_axis(rows, ops.cast(order[:, : self.keep or None], "int32"), axis=1)


@keras.saving.register_keras_serializable(package="iom")
class KeyedRotation(KeyedPermutation):
    """Turn each row by the orthogonal matrix S3 H S2 H S1 of that row's key, and keep the first `keep` columns.

    S1 to S3 are secret signed permutations (`TransformKey.signed_orders`), H is the fixed normalised Walsh-Hadamard
    transform. Products of this form stand for a random rotation at O(D log D) instead of O(D^2) (Ailon and Chazelle,
    2009; Andoni et al., NeurIPS 2015). Where D is no power of two, H acts on blocks, the powers of two that D is the
    sum of, largest first, and the permutations between carry values from block to block. `keep` 0 keeps all columns.

    The order is an input, never a weight. Its derivation is integer arithmetic; what follows are additions in a fixed
    order and one multiplication, so that IEEE machines agree to the last bit.
    """

    def __init__(self, keep=0, kind="orthogonal", **kwargs):
        super().__init__(keep, kind, **kwargs)

    def call(self, inputs):
        """`[rows (B, D), order (B, 3 D) signed integers]` -> `(B, keep or D)`."""
        rows, order = inputs
        return rotate(ops, rows, ops.cast(order, "int32"), keep=self.keep)

    def get_config(self):
        # The fingerprint of a hasher is taken over this: it must stay as it was before there was `kind`.
        config = super().get_config()
        return {name: value for name, value in config.items() if (name, value) != ("kind", "orthogonal")}
