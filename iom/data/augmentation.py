"""Random changes to training images: pure functions of image and draws, so that a run can resume.

A whole batch is changed in one pass of compiled code (`augment_kernels.py`): many small operations
for each image cost more than its decoding.
"""

import numpy as np
import tensorflow as tf

from iom.config.sections import AugmentationConfig
from iom.data.augment_kernels import change_images

DRAWS = 7
"""Uniform numbers in [0, 1) that one image needs: flip, move (2), zoom, brightness, contrast,
saturation."""

VERSION = 2
"""Raised when the same draws change an image differently: part of the key of what is kept."""


def augment(image: tf.Tensor, seed: tf.Tensor, config: AugmentationConfig) -> tf.Tensor:
    """Flip, crop and recolour one image.

    Args:
        image: RGB `(S, S, 3)`, uint8, S static.
        seed: Two integers, `(2,)`; the same seed changes the same image in the same way.
        config: Which changes, and how strong.

    Returns:
        RGB `(S, S, 3)` float32 in 0..255, not rounded.
    """
    draws = tf.random.stateless_uniform((1, DRAWS), seed)
    return augment_batch(image[None], draws, config)[0]


def augment_batch(images: tf.Tensor, draws: tf.Tensor, config: AugmentationConfig) -> tf.Tensor:
    """Flip, crop and recolour a batch.

    The crop is a square near the whole image, moved and zoomed by up to its share; edges are
    mirrored. Then brightness, contrast about the mean and saturation, as one affine change: with
    grey g of a pixel p, mean m of each channel over the image, shift b, contrast c and
    saturation s: `s c p + (1 - s) c g + b + (1 - c) (s m + (1 - s) mean(m))`.

    Args:
        images: RGB `(B, S, S, 3)`, uint8 or float32, S static.
        draws: `(B, DRAWS)` float32 in [0, 1), one row for each image.
        config: Which changes, and how strong.

    Returns:
        RGB `(B, S, S, 3)` float32 in 0..255, not rounded.
    """
    strength = (config.crop, config.brightness, config.contrast, config.saturation)
    if not config.flip and not any(strength):
        return tf.cast(images, tf.float32)
    strengths = np.array(strength, np.float32)

    def change(pixels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return change_images(pixels, numbers, strengths, flip=config.flip)

    changed = tf.numpy_function(change, [images, draws], tf.float32, stateful=False)
    return tf.ensure_shape(changed, images.shape)
