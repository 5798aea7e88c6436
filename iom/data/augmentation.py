"""Random changes to training images: pure functions of image and seed, so that a run can resume."""

import math

import tensorflow as tf

from iom.config.sections import AugmentationConfig


def augment(image: tf.Tensor, seed: tf.Tensor, config: AugmentationConfig) -> tf.Tensor:
    """Flip, crop and recolour one image.

    Args:
        image: RGB `(S, S, 3)`, uint8, S static.
        seed: Two integers, `(2,)`; the same seed changes the same image in the same way.
        config: Which changes, and how strong.

    Returns:
        RGB `(S, S, 3)` float32 in 0..255, not rounded.
    """
    side = image.shape[0]
    seeds = tf.unstack(tf.random.split(seed, 5), num=5)
    result = tf.cast(image, tf.float32)
    if config.flip:
        heads = tf.random.stateless_uniform((), seeds[0]) < 0.5
        result = tf.cond(heads, lambda: tf.reverse(result, axis=[1]), lambda: result)
    if config.crop > 0:
        result = _crop(result, seeds[1], config.crop, side)
    if config.brightness > 0:
        shift = tf.random.stateless_uniform((), seeds[2], -config.brightness, config.brightness)
        result += 255.0 * shift
    if config.contrast > 0:
        factor = tf.random.stateless_uniform((), seeds[3], 1 - config.contrast, 1 + config.contrast)
        mean = tf.reduce_mean(result, axis=(0, 1), keepdims=True)
        result = mean + factor * (result - mean)
    if config.saturation > 0:
        factor = tf.random.stateless_uniform(
            (), seeds[4], 1 - config.saturation, 1 + config.saturation
        )
        grey = tf.reduce_mean(result, axis=2, keepdims=True)
        result = grey + factor * (result - grey)
    return tf.clip_by_value(result, 0.0, 255.0)


def _crop(image: tf.Tensor, seed: tf.Tensor, share: float, side: int) -> tf.Tensor:
    """A square near the whole image, moved and zoomed by up to `share`; edges are mirrored."""
    border = math.ceil(2 * share * side)
    padded = tf.pad(image, ((border, border), (border, border), (0, 0)), mode="REFLECT")
    draw = tf.random.stateless_uniform((3,), seed, -share, share)
    half = 0.5 * side * (1.0 + draw[2])
    centre = border + 0.5 * side + draw[:2] * side
    corners = tf.concat([centre - half, centre + half], axis=0)
    boxes = tf.expand_dims(corners / tf.cast(tf.shape(padded)[0] - 1, tf.float32), 0)
    cut = tf.image.crop_and_resize(tf.expand_dims(padded, 0), boxes, [0], (side, side))
    return tf.squeeze(cut, 0)
