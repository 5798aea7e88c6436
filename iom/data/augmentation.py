"""Random changes to training images: pure functions of image and draws, so that a run can resume.

A whole batch is changed at once: many small operations for each image cost more than its decoding.
"""

import math

import tensorflow as tf

from iom.config.sections import AugmentationConfig

DRAWS = 7
"""Uniform numbers in [0, 1) that one image needs: flip, move (2), zoom, brightness, contrast,
saturation."""


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

    Args:
        images: RGB `(B, S, S, 3)`, uint8 or float32, S static.
        draws: `(B, DRAWS)` float32 in [0, 1), one row for each image.
        config: Which changes, and how strong.

    Returns:
        RGB `(B, S, S, 3)` float32 in 0..255, not rounded.
    """
    result = images
    if config.flip:
        # Select by a vector copies whole images; `tf.where` would broadcast pixel by pixel.
        result = tf.raw_ops.Select(condition=draws[:, 0] < 0.5, x=_mirrored(result), y=result)
    if config.crop > 0:
        result = _crop(result, draws[:, 1:4], config.crop)
    result = tf.cast(result, tf.float32)
    if config.brightness == config.contrast == config.saturation == 0:
        return result
    return tf.clip_by_value(_recolour(result, draws, config), 0.0, 255.0)


def _recolour(images: tf.Tensor, draws: tf.Tensor, config: AugmentationConfig) -> tf.Tensor:
    """Brightness, then contrast about the mean, then saturation, as one affine change.

    With grey g of a pixel p, mean m of each channel over the image, shift b, contrast c and
    saturation s: `s c p + (1 - s) c g + b + (1 - c) (s m + (1 - s) mean(m))`.
    """
    shift = 255.0 * _span(_column(draws, 4), config.brightness)
    contrast = 1.0 + _span(_column(draws, 5), config.contrast)
    saturation = 1.0 + _span(_column(draws, 6), config.saturation)
    result = images
    if config.contrast > 0:
        mean = tf.reduce_mean(images, axis=(1, 2), keepdims=True)
        if config.saturation > 0:
            grey_mean = tf.reduce_mean(mean, axis=3, keepdims=True)
            mean = saturation * mean + (1.0 - saturation) * grey_mean
        shift += (1.0 - contrast) * mean
    if config.saturation > 0:
        grey = tf.add_n(tf.split(images, 3, axis=3)) / 3.0  # a mean over 3 channels is slow
        return saturation * contrast * result + ((1.0 - saturation) * contrast * grey + shift)
    return contrast * result + shift


def _column(draws: tf.Tensor, index: int) -> tf.Tensor:
    """One draw of each image, `(B, 1, 1, 1)`."""
    return draws[:, index, None, None, None]


def _span(uniform: tf.Tensor, half: float) -> tf.Tensor:
    """From [0, 1) to [-half, half)."""
    return (2.0 * uniform - 1.0) * half


def _crop(images: tf.Tensor, draws: tf.Tensor, share: float) -> tf.Tensor:
    """A square near the whole image, moved and zoomed by up to `share`; edges are mirrored."""
    side = images.shape[1]
    border = math.ceil(2 * share * side)
    padded = _padded(images, border)
    moved = _span(draws, share)
    half = 0.5 * side * (1.0 + moved[:, 2:3])
    centre = border + 0.5 * side + moved[:, :2] * side
    corners = tf.concat([centre - half, centre + half], axis=1) / (side + 2 * border - 1)
    count = tf.range(tf.shape(images)[0])
    return tf.image.crop_and_resize(padded, corners, count, (side, side))


def _mirrored(images: tf.Tensor) -> tf.Tensor:
    """Left and right exchanged. TensorFlow's reversal is fast for rank 3 with 3 channels only."""
    rows = tf.reshape(images, (-1, images.shape[2], 3))
    return tf.reshape(tf.reverse(rows, axis=[1]), tf.shape(images))


def _padded(images: tf.Tensor, border: int) -> tf.Tensor:
    """As `tf.pad` with REFLECT, several times as fast: `(B, S + 2 border, S + 2 border, 3)`."""
    side = images.shape[1]
    mirrored = tf.ensure_shape(_mirrored(images), images.shape)
    wide = tf.concat(
        [mirrored[:, :, side - 1 - border : side - 1], images, mirrored[:, :, 1 : border + 1]],
        axis=2,
    )
    above = list(range(border, 0, -1))
    below = list(range(side - 2, side - 2 - border, -1))
    return tf.gather(wide, [*above, *range(side), *below], axis=1)
