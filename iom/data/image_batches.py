"""Batches of stage 1: images decoded and augmented, with labels and the embeddings of a teacher, if any.

Random changes are pure functions of image and draws, so that a run can resume. A whole batch is changed in one pass of
compiled code, free of the GIL.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.config import AugmentationConfig
from iom.data.batches import SubjectBatches
from iom.data.folders import FaceFolder
from iom.errors import DataError

LABEL = "cosines"
TARGET = "unit_embedding"
READS = 256
"""Images of one call of Python when images are read."""
DRAWS = 7
"""Uniform numbers in [0, 1) that one image needs: flip, move (2), zoom, brightness, contrast, saturation."""
AUGMENTATION_VERSION = 2
"""Raised when the same draws change an image differently; part of the key of cached teacher embeddings."""


@dataclasses.dataclass(frozen=True)
class ImageBatches:
    """Every batch of every epoch as a function of the seed, so that a resumed run repeats them.

    Attributes:
        batch_size: Images of a batch; the rest at the end of an epoch is dropped.
        views: Fixed augmented views of each image; epoch e shows view e mod views. 0: every epoch has new ones.
        mix: Half of the images blend in another one, by up to this share.
        targets: Teacher embeddings, `(max(1, views), N, D)`, or none.
        labelled: Outputs of the network whose target is the label of the image.
        images_per_subject: K: each batch has `batch_size / K` subjects with K images, drawn anew for each step. 0:
            every image once an epoch, in random order.
        label_input: The network reads the labels too, beside the images.
        worker: Number of this machine among `workers`; it takes its own part of each batch.
    """

    folder: FaceFolder
    augmentation: AugmentationConfig
    batch_size: int
    seed: int
    input_size: int = 112
    views: int = 0
    mix: float = 0.0
    targets: NDArray[np.float32] | None = None
    labelled: tuple[str, ...] = (LABEL,)
    images_per_subject: int = 0
    label_input: bool = False
    worker: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.images_per_subject:
            self._sampler()

    @property
    def steps(self) -> int:
        steps = len(self.folder) // self.batch_size
        if steps == 0:
            raise DataError(
                f"{self.folder.root}: {len(self.folder)} training images do not fill one batch of "
                f"{self.batch_size}; lower training.batch_size"
            )
        return steps

    def epoch(self, epoch: int, first_step: int = 0) -> tf.data.Dataset:
        """The batches of an epoch, from `first_step` on."""
        rows = self._rows(epoch)[first_step * self.batch_size :]
        view = epoch % self.views if self.views else epoch
        if self.workers == 1:
            return self._batches(rows, view)
        own = self.batch_size // self.workers
        mine = rows.reshape(-1, self.workers, own)[:, self.worker].ravel()
        part = dataclasses.replace(self, batch_size=own, images_per_subject=0, workers=1, worker=0)
        return part._batches(mine, view)

    def _batches(self, rows: NDArray[np.int64], view: int) -> tf.data.Dataset:
        images = self._images(rows, view, drop_remainder=True)
        targets: dict[str, Any] = {name: self.folder.labels[rows] for name in self.labelled}
        if self.targets is not None:
            targets[TARGET] = self.targets[view % len(self.targets)][rows]
        answers = tf.data.Dataset.from_tensor_slices(targets).batch(self.batch_size, drop_remainder=True)
        if self.label_input:
            labels = tf.data.Dataset.from_tensor_slices(self.folder.labels[rows].astype(np.int32))
            images = tf.data.Dataset.zip(images, labels.batch(self.batch_size, drop_remainder=True))
        return tf.data.Dataset.zip(images, answers).prefetch(4)

    def files(self, epoch: int, step: int) -> list[str]:
        """Images of one batch, relative to the folder."""
        rows = self._rows(epoch)[step * self.batch_size : (step + 1) * self.batch_size]
        return [self.folder.paths[row] for row in rows]

    def _rows(self, epoch: int) -> NDArray[np.int64]:
        """Image of each place of an epoch, `(steps * batch_size,)`."""
        if self.images_per_subject:
            sampler = self._sampler()
            return np.concatenate([sampler.rows(epoch, step) for step in range(self.steps)])
        order = numpy_stream(self.seed, f"stage1/order/{epoch}").permutation(len(self.folder))
        return order[: self.steps * self.batch_size]

    def _sampler(self) -> SubjectBatches:
        subjects = self.batch_size // self.images_per_subject
        try:
            return SubjectBatches(self.folder.labels, subjects, self.images_per_subject, self.seed)
        except DataError as error:
            raise DataError(
                f"{self.folder.root}: training.images_per_subject {self.images_per_subject} and "
                f"training.batch_size {self.batch_size} need {subjects} subjects with so many "
                "images each, and there are fewer; lower either"
            ) from error

    def view(self, view: int) -> tf.data.Dataset:
        """One augmented view of all images, in folder order, in batches."""
        rows = np.arange(len(self.folder))
        return self._images(rows, view, drop_remainder=False).prefetch(4)

    def _images(self, rows: NDArray[np.int64], view: int, *, drop_remainder: bool) -> tf.data.Dataset:
        """Changed images of `rows` in batches, `(B, S, S, 3)` float32."""
        slices = tf.data.Dataset.from_tensor_slices
        draws = numpy_stream(self.seed, f"stage1/augmentation/{view}").random((len(self.folder), DRAWS), np.float32)
        parts = [pixels_of(self.folder, rows, side=self.input_size), slices(draws[rows])]
        if self.mix:
            others, shares = self._partners(view)
            parts += [pixels_of(self.folder, others[rows], side=self.input_size), slices(shares[rows])]
        batches = tf.data.Dataset.zip(*parts).batch(self.batch_size, drop_remainder)
        return batches.map(self._changed, num_parallel_calls=tf.data.AUTOTUNE)

    def _changed(self, pixels: tf.Tensor, draws: tf.Tensor, *mixed: tf.Tensor) -> tf.Tensor:
        if mixed:
            other, share = mixed
            share = share[:, None, None, None]
            pixels = (1 - share) * tf.cast(pixels, tf.float32) + share * tf.cast(other, tf.float32)
        return augment_batch(pixels, draws, self.augmentation)

    def _partners(self, view: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The image blended into each image of a view, and by how much (nothing for half)."""
        stream = numpy_stream(self.seed, f"stage1/mix/{view}")
        others = stream.permutation(len(self.folder))
        shares = stream.uniform(0, self.mix, len(others)) * (stream.random(len(others)) < 0.5)
        return others, shares.astype(np.float32)


def pixels_of(folder: FaceFolder, rows: NDArray[np.int64], *, side: int) -> tf.data.Dataset:
    """Images of `rows` in that order, each `(side, side, 3)` uint8."""

    def decode(data: tf.Tensor) -> tf.Tensor:
        # Pillow's inverse transform: an embedding must not depend on the reader.
        pixels = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
        return tf.ensure_shape(pixels, (side, side, 3))

    def read(part: tf.Tensor) -> tf.Tensor:
        data = tf.numpy_function(folder.read_many, [part], tf.string, stateful=False)
        return tf.ensure_shape(data, (None,))

    parts = tf.data.Dataset.from_tensor_slices(rows).batch(READS)
    encoded = parts.map(read, num_parallel_calls=2, deterministic=True).unbatch()
    encoded = encoded.apply(tf.data.experimental.assert_cardinality(len(rows)))
    return encoded.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


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

    def change(pixels: NDArray[Any], numbers: NDArray[np.float32]) -> NDArray[np.float32]:
        result = np.empty(pixels.shape, np.float32)
        _change(np.ascontiguousarray(pixels), np.ascontiguousarray(numbers), strengths, config.flip, result)
        return result

    changed = tf.numpy_function(change, [images, draws], tf.float32, stateful=False)
    return tf.ensure_shape(changed, images.shape)


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
        top, left, step = 0.0, 0.0, 1.0
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
