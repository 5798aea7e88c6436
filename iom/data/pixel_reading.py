"""Decoded training images as a `tf.data.Dataset`, from files or from TFRecord shards."""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from iom.data.folders import FaceFolder
from iom.data.formats.shards import ShardStore

READ_TOGETHER = 256
"""Images of one visit to Python when shards are read by offset."""


def pixels_of(folder: FaceFolder, rows: NDArray[np.int64], *, side: int) -> tf.data.Dataset:
    """Images of `rows` in that order, each `(side, side, 3)` uint8."""

    def decode(data: tf.Tensor) -> tf.Tensor:
        # Pillow's inverse transform: an embedding must not depend on the reader.
        pixels = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
        return tf.ensure_shape(pixels, (side, side, 3))

    paths = [folder.paths[row] for row in rows]
    if folder.store is not None:
        return _records(folder.store, paths).map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    files = [str(folder.root / path) for path in paths]
    return tf.data.Dataset.from_tensor_slices(files).map(
        lambda path: decode(tf.io.read_file(path)), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


def _records(store: ShardStore, paths: list[str]) -> tf.data.Dataset:
    """Encoded images by offset, so that the order can be any."""

    def read(names: tf.Tensor) -> tf.Tensor:
        data = tf.numpy_function(store.read_many, [names], tf.string, stateful=False)
        return tf.ensure_shape(data, (None,))

    names = tf.data.Dataset.from_tensor_slices(paths).batch(READ_TOGETHER)
    return names.map(read, num_parallel_calls=2, deterministic=True).unbatch()
