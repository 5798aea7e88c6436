"""Random changes to training images: pure functions of image and draws, so that a run can resume.

A whole batch is changed in one pass of compiled code, free of the GIL.
"""

import math
import sys
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from iom.config import AugmentationConfig

DRAWS = 7
"""Uniform numbers in [0, 1) that one image needs: flip, move (2), zoom, brightness, contrast, saturation."""
VERSION = 2
"""Raised when the same draws change an image differently; part of the key of cached teacher embeddings."""
ALIGNMENT = 64
"""Bytes; TensorFlow takes over an array that starts at such an address, and copies any other."""


def augment_batch(images: tf.Tensor, draws: tf.Tensor, config: AugmentationConfig) -> tf.Tensor:
    """Flip, crop and recolour a batch `(B, S, S, 3)` by `draws` `(B, DRAWS)` in [0, 1); float32 in 0..255, not rounded.

    The crop is a square near the whole image, moved and zoomed by up to its share; edges are mirrored. Then brightness,
    contrast about the mean and saturation, as one affine change: with grey g of a pixel p, mean m of each channel over
    the image, shift b, contrast c and saturation s: `s c p + (1 - s) c g + b + (1 - c) (s m + (1 - s) mean(m))`.
    """
    strength = (config.crop, config.brightness, config.contrast, config.saturation)
    if not config.flip and not any(strength):
        return tf.cast(images, tf.float32)
    strengths = np.array(strength, np.float32)

    def change(pixels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return change_images(pixels, numbers, strengths, flip=config.flip)

    changed = tf.numpy_function(change, [images, draws], tf.float32, stateful=False)
    return tf.ensure_shape(changed, images.shape)


def change_images(
    images: NDArray[Any], draws: NDArray[np.float32], strength: NDArray[np.float32], *, flip: bool
) -> NDArray[np.float32]:
    """`augment_batch` on arrays; `strength` is that of crop, brightness, contrast and saturation, `(4,)`."""
    result = _aligned(images.shape)
    _change(np.ascontiguousarray(images), np.ascontiguousarray(draws), strength, flip, result)
    return result


def _aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An array that is not in use, kept from an earlier batch: fresh memory costs as much as the changes themselves."""
    size = 4 * math.prod(shape)
    with _LOCK:
        buffers = _BUFFERS.setdefault(size, [])
        free = [place for place, count in enumerate(_references(buffers)) if count == _FREE]
        if free:
            buffer = buffers[free[0]]
        else:
            buffer = np.empty(size + ALIGNMENT, np.uint8)
            if len(buffers) < _MAX_BUFFERS:
                buffers.append(buffer)
        first = -buffer.ctypes.data % ALIGNMENT
        return buffer[first : first + size].view(np.float32).reshape(shape)


def _references(buffers: list[NDArray[np.uint8]]) -> list[int]:
    """Number of references to each buffer; an array on a buffer holds it."""
    return [sys.getrefcount(buffer) for buffer in buffers]


_LOCK = threading.Lock()
_BUFFERS: dict[int, list[NDArray[np.uint8]]] = {}
_MAX_BUFFERS = 16
_FREE = _references([np.empty(0, np.uint8)])[0]
"""References to an unused buffer, as this Python counts them."""


def _compiled(function: Callable[..., Any]) -> Any:
    signatures = [
        f"void({kind}[:, :, :, ::1], float32[:, ::1], float32[::1], boolean, float32[:, :, :, ::1])"
        for kind in ("uint8", "float32")
    ]
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz"}}
    try:
        return numba.njit(signatures, cache=True, **options)(function)
    except RuntimeError:  # an installation without any writable folder
        return numba.njit(signatures, **options)(function)


@_compiled
def _change(images, draws, strength, flip, result):  # type: ignore[no-untyped-def]
    """`result` becomes the changed `images`."""
    side = images.shape[1]
    first, second = np.empty(side, np.int32), np.empty(side, np.int32)
    weight = np.empty(side, np.float32)
    row = np.empty(3 * side, np.float32)
    one, two = np.float32(1.0), np.float32(2.0)
    crop = strength[0]
    for b in range(images.shape[0]):
        source, target = images[b].reshape(side, 3 * side), result[b].reshape(side, 3 * side)
        mirrored = flip and draws[b, 0] < np.float32(0.5)
        half, top, left = 0.5 * side, 0.0, 0.0
        step = 1.0
        if crop > 0:
            half = 0.5 * side * (1.0 + (2.0 * draws[b, 3] - 1.0) * crop)
            top = 0.5 * side + (2.0 * draws[b, 1] - 1.0) * crop * side - half
            left = 0.5 * side + (2.0 * draws[b, 2] - 1.0) * crop * side - half
            step = 2.0 * half / max(1, side - 1)
        last = side - 1
        for x in range(side):
            place = left + x * step
            low = math.floor(place)
            weight[x] = place - low
            # The border is mirrored about the middle of the outermost pixels.
            near, far = abs(low), abs(low + 1)
            near, far = last - abs(last - near), last - abs(last - far)
            near, far = max(near, 0), max(far, 0)
            first[x] = 3 * (last - near if mirrored else near)
            second[x] = 3 * (last - far if mirrored else far)
        red = green = blue = np.float32(0.0)
        for y in range(side):
            if crop == 0:  # nothing lies between pixels
                whole, line = source[y], target[y]
                for x in range(side):
                    i = first[x]
                    r, g = np.float32(whole[i]), np.float32(whole[i + 1])
                    u = np.float32(whole[i + 2])
                    line[3 * x], line[3 * x + 1], line[3 * x + 2] = r, g, u
                    red += r
                    green += g
                    blue += u
                continue
            place = top + y * step
            low = math.floor(place)
            near, far = abs(low), abs(low + 1)
            near, far = max(last - abs(last - near), 0), max(last - abs(last - far), 0)
            share = np.float32(place - low)
            above, below = source[near], source[far]
            for x in range(3 * side):
                value = np.float32(above[x])
                row[x] = value + share * (np.float32(below[x]) - value)
            line = target[y]
            for x in range(side):
                i, j, w = first[x], second[x], weight[x]
                r = row[i] + w * (row[j] - row[i])
                g = row[i + 1] + w * (row[j + 1] - row[i + 1])
                u = row[i + 2] + w * (row[j + 2] - row[i + 2])
                line[3 * x], line[3 * x + 1], line[3 * x + 2] = r, g, u
                red += r
                green += g
                blue += u
        if strength[1] == 0 and strength[2] == 0 and strength[3] == 0:
            continue
        shift = np.float32(255.0) * (two * draws[b, 4] - one) * strength[1]
        contrast = one + (two * draws[b, 5] - one) * strength[2]
        saturation = one + (two * draws[b, 6] - one) * strength[3]
        area = np.float32(side * side)
        red, green, blue = red / area, green / area, blue / area
        plain = (one - saturation) * (red + green + blue) / np.float32(3.0)
        red = shift + (one - contrast) * (saturation * red + plain)
        green = shift + (one - contrast) * (saturation * green + plain)
        blue = shift + (one - contrast) * (saturation * blue + plain)
        keep = saturation * contrast
        third = (one - saturation) * contrast / np.float32(3.0)
        zero, white = np.float32(0.0), np.float32(255.0)
        for y in range(side):
            line = target[y]
            for x in range(side):
                r, g, u = line[3 * x], line[3 * x + 1], line[3 * x + 2]
                grey = third * (r + g + u)
                line[3 * x] = min(max(keep * r + grey + red, zero), white)
                line[3 * x + 1] = min(max(keep * g + grey + green, zero), white)
                line[3 * x + 2] = min(max(keep * u + grey + blue, zero), white)
