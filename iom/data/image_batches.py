"""Batches of stage 1: decoded, augmented, with label and, if there is a teacher, its embedding."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from iom.config.sections import AugmentationConfig
from iom.data.augmentation import augment
from iom.data.folders import FaceFolder
from iom.errors import DataError
from iom.seeding import numpy_stream

LABEL = "cosines"
TARGET = "unit_embedding"
VIEW_STRIDE = 7919
"""Keeps the augmentation seeds of one run's views apart from those of the next seeds' views."""


@dataclasses.dataclass(frozen=True)
class ImageBatches:
    """Every batch of every epoch as a function of the seed, so that a resumed run repeats them.

    Attributes:
        folder: Training images and labels.
        augmentation: How images are changed.
        batch_size: Images a batch; what is left over at the end of an epoch is dropped.
        input_size: Side of the images.
        seed: The run's seed.
        views: Number of fixed augmented views of each image; epoch e shows view e mod views.
            0: every epoch changes every image anew.
        mix: Half of the images blend in another one, by up to this share.
        targets: Teacher embeddings, `(max(1, views), N, D)`, or none.
    """

    folder: FaceFolder
    augmentation: AugmentationConfig
    batch_size: int
    seed: int
    input_size: int = 112
    views: int = 0
    mix: float = 0.0
    targets: NDArray[np.float32] | None = None
    labelled: bool = True

    @property
    def steps(self) -> int:
        """Batches of an epoch.

        Raises:
            DataError: Fewer images than one batch.
        """
        steps = len(self.folder) // self.batch_size
        if steps == 0:
            raise DataError(
                f"{self.folder.root}: {len(self.folder)} training images do not fill one batch of "
                f"{self.batch_size}; lower training.batch_size"
            )
        return steps

    def epoch(self, epoch: int, first_step: int = 0) -> tf.data.Dataset:
        """The batches of an epoch, from `first_step` on."""
        order = numpy_stream(self.seed, f"stage1/order/{epoch}").permutation(len(self.folder))
        rows = order[: self.steps * self.batch_size][first_step * self.batch_size :]
        view = epoch % self.views if self.views else epoch
        images = self._images(rows, view).batch(self.batch_size, drop_remainder=True)
        truth: dict[str, Any] = {}
        if self.labelled:
            truth[LABEL] = self.folder.labels[rows]
        if self.targets is not None:
            truth[TARGET] = self.targets[view % len(self.targets)][rows]
        answers = tf.data.Dataset.from_tensor_slices(truth).batch(
            self.batch_size, drop_remainder=True
        )
        return tf.data.Dataset.zip(images, answers).prefetch(4)

    def view(self, view: int) -> tf.data.Dataset:
        """One augmented view of all images, in folder order, in batches."""
        return self._images(np.arange(len(self.folder)), view).batch(self.batch_size).prefetch(4)

    def _images(self, rows: NDArray[np.int64], view: int) -> tf.data.Dataset:
        files = [str(self.folder.root / self.folder.paths[row]) for row in rows]
        side = self.input_size

        def load(path: tf.Tensor) -> tf.Tensor:
            # Pillow's inverse transform: an embedding must not depend on the reader.
            pixels = tf.io.decode_jpeg(
                tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE"
            )
            return tf.ensure_shape(pixels, (side, side, 3))

        def changed(path: tf.Tensor, row: tf.Tensor, other: tf.Tensor, share: tf.Tensor) -> Any:
            pixels = load(path)
            if self.mix:
                blend = (1 - share) * tf.cast(pixels, tf.float32)
                pixels = blend + share * tf.cast(load(other), tf.float32)
            seed = tf.stack([self.seed + VIEW_STRIDE * view, row])
            return augment(pixels, seed, self.augmentation)

        others, shares = self._partners(view)
        columns = (
            files,
            rows.astype(np.int64),
            [str(self.folder.root / self.folder.paths[row]) for row in others[rows]],
            shares[rows],
        )
        return tf.data.Dataset.from_tensor_slices(columns).map(
            changed, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    def _partners(self, view: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The image blended into each image of a view, and by how much (nothing for half)."""
        stream = numpy_stream(self.seed, f"stage1/mix/{view}")
        others = stream.permutation(len(self.folder))
        shares = stream.uniform(0, self.mix, len(others)) * (stream.random(len(others)) < 0.5)
        return others, shares.astype(np.float32)
