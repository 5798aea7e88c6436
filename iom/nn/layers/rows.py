"""Reading and writing some rows of a large variable without touching the others.

`keras.ops` copies the whole variable for either: 2 GB a step for a million subjects.
"""

import keras
from keras import ops


def take_rows(variable, index):
    """Rows of a Keras variable `(N, D)` at `(S,)` -> `(S, D)`."""
    if keras.backend.backend() != "tensorflow":
        return ops.take(variable, index, axis=0)
    import tensorflow as tf

    return tf.gather(variable.value, index)


def put_rows(variable, index, rows):
    """Overwrite the rows of a Keras variable `(N, D)` at `(S,)`, which must be distinct."""
    if keras.backend.backend() != "tensorflow":
        variable.assign(ops.scatter_update(variable, ops.expand_dims(index, 1), rows))
        return
    import tensorflow as tf

    variable.value.scatter_update(tf.IndexedSlices(rows, index))
