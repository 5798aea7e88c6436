"""Keyed layers: a secret permutation or rotation of the dimensions of an embedding."""

import math

import keras
from keras import ops

from iom.keys import ROTATION_ROUNDS
from iom.nn.hash_numpy import block_sizes
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
        if self.keep:
            order = order[:, : self.keep]
        return ops.take_along_axis(rows, ops.cast(order, "int32"), axis=1)


@keras.saving.register_keras_serializable(package="iom")
class KeyedRotation(SavedArguments, keras.layers.Layer):
    """Turn each row by the orthogonal matrix S3 H S2 H S1 of that row's key, and keep the first `keep` columns.

    S1 to S3 are secret signed permutations (`TransformKey.signed_orders`), H is the fixed normalised Walsh-Hadamard
    transform. Products of this form stand for a random rotation at O(D log D) instead of O(D^2) (Ailon and Chazelle,
    2009; Andoni et al., NeurIPS 2015). Where D is no power of two, H acts on blocks, the powers of two that D is the
    sum of, largest first, and the permutations between carry values from block to block. `keep` 0 keeps all columns.

    The order is an input, never a weight. Its derivation is integer arithmetic; what follows are additions in a fixed
    order and one multiplication, so that IEEE machines agree to the last bit.
    """

    def __init__(self, keep=0, kind="orthogonal", **kwargs):
        super().__init__(**kwargs)
        self.keep = keep
        self.kind = kind

    def call(self, inputs):
        """`[rows (B, D), order (B, 3 D) signed integers]` -> `(B, keep or D)`."""
        rows, order = inputs
        size = rows.shape[-1]
        for number in range(ROTATION_ROUNDS):
            part = ops.cast(order[:, number * size : (number + 1) * size], "int32")
            if self.keep and number + 1 == ROTATION_ROUNDS:
                part = part[:, : self.keep]
            rows = signed_permutation(rows, part)
            if number + 1 < ROTATION_ROUNDS:
                rows = hadamard(rows)
        return rows

    def get_config(self):
        # The fingerprint of a hasher is taken over this: it must stay as it was before there was `kind`.
        config = super().get_config()
        return {name: value for name, value in config.items() if (name, value) != ("kind", "orthogonal")}


def signed_permutation(rows, order):
    """Column j is column `order[:, j]`, or the negative of `-order[:, j] - 1` below zero."""
    negated = order < 0
    values = ops.take_along_axis(rows, ops.where(negated, -order - 1, order), axis=1)
    return ops.where(negated, -values, values)


def hadamard(rows):
    """Normalised Walsh-Hadamard transform of each block of columns, its own inverse, `(B, D)`."""
    blocks, start = [], 0
    for size in block_sizes(rows.shape[-1]):
        blocks.append(_transform(rows[:, start : start + size], size))
        start += size
    return ops.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]


def _transform(rows, size):
    """Fast transform: log2(size) rounds of sums and differences."""
    half = 1
    while half < size:
        pairs = ops.reshape(rows, (-1, size // (2 * half), 2 * half))
        first, second = pairs[:, :, :half], pairs[:, :, half:]
        rows = ops.concatenate([first + second, first - second], axis=2)
        half *= 2
    return ops.reshape(rows, (-1, size)) * (1.0 / math.sqrt(size))
