"""Batches of stage 1: images decoded and augmented, with labels and the embeddings of a teacher, if any."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.config import AugmentationConfig
from iom.data.augmentation import DRAWS, augment_batch
from iom.data.batches import SubjectBatches
from iom.data.folders import FaceFolder
from iom.data.tfrecord import ShardStore
from iom.errors import DataError

LABEL = "cosines"
TARGET = "unit_embedding"
SHARD_READS = 256
"""Images of one call of Python when shards are read by offset."""


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
        draws = self._draws(view)[rows]
        pixels = pixels_of(self.folder, rows, side=self.input_size)
        if not self.mix:
            decoded = pixels.batch(self.batch_size, drop_remainder)
            held, size = tf.constant(draws), self.batch_size
            numbers = tf.data.Dataset.range(0, len(draws), size).map(lambda first: held[first : first + size])
            return tf.data.Dataset.zip(decoded, numbers).map(self._changed, num_parallel_calls=tf.data.AUTOTUNE)
        others, shares = self._partners(view)
        blended = pixels_of(self.folder, others[rows], side=self.input_size)
        numbers = tf.data.Dataset.from_tensor_slices((draws, shares[rows]))
        batches = tf.data.Dataset.zip(pixels, blended, numbers).batch(self.batch_size, drop_remainder)
        return batches.map(self._blended, num_parallel_calls=tf.data.AUTOTUNE)

    def _changed(self, pixels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        return augment_batch(pixels, draws, self.augmentation)

    def _blended(self, pixels: tf.Tensor, other: tf.Tensor, numbers: Any) -> tf.Tensor:
        draws, share = numbers
        share = share[:, None, None, None]
        mixed = (1 - share) * tf.cast(pixels, tf.float32) + share * tf.cast(other, tf.float32)
        return augment_batch(mixed, draws, self.augmentation)

    def _draws(self, view: int) -> NDArray[np.float32]:
        """Uniform numbers for the changes of each image in a view, `(N, DRAWS)`."""
        stream = numpy_stream(self.seed, f"stage1/augmentation/{view}")
        return stream.random((len(self.folder), DRAWS), np.float32)

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

    names = tf.data.Dataset.from_tensor_slices(paths).batch(SHARD_READS)
    return names.map(read, num_parallel_calls=2, deterministic=True).unbatch()
