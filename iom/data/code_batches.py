"""Batches of stage 2: rows or images of P subjects x K images, with the key of the step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from iom.data.batches import SubjectBatches
from iom.data.images import read_images
from iom.keys import SECRET_BYTES, TransformKey
from iom.seeding import numpy_stream

RANDOM_KEY, IDENTITY_KEY = "random", "identity"


def training_order(size: int, *, kind: str, seed: int, epoch: int, step: int) -> NDArray[np.int32]:
    """Order of the dimensions in one training step, `(D,)`.

    A fresh key for every step, made into an order as a user's key is. Training keys protect
    nothing, so they may follow from the seed.

    Args:
        size: D.
        kind: `random`, or `identity` for no permutation at all.
        seed: The run's seed.
        epoch: Epoch.
        step: Step within the epoch.
    """
    if kind == IDENTITY_KEY:
        return np.arange(size, dtype=np.int32)
    secret = numpy_stream(seed, f"stage2/key/{epoch}/{step}").bytes(SECRET_BYTES)
    return TransformKey(secret).permutation(size).astype(np.int32)


class CodeBatches(keras.utils.PyDataset):
    """The rest of one epoch: item i is a function of seed, epoch and step, so runs resume exactly.

    Args:
        sampler: Which rows make up a batch.
        inputs: What the network reads for each row: embeddings `(N, D)`, or image files.
        truths: Truth of each loss for each row, `(N, ...)`, by the name of the loss.
        embedding_size: D, the length of an order.
        key: `random` or `identity`.
        epoch: Epoch.
        first_step: Steps of the epoch that are already done.
        steps: Steps of the whole epoch.
    """

    def __init__(
        self,
        sampler: SubjectBatches,
        inputs: NDArray[np.float32] | Sequence[Path],
        truths: Mapping[str, NDArray[Any]],
        *,
        embedding_size: int,
        key: str,
        epoch: int,
        first_step: int,
        steps: int,
    ) -> None:
        super().__init__()
        self._sampler = sampler
        self._inputs = inputs
        self._truths = truths
        self._size = embedding_size
        self._key = key
        self._epoch = epoch
        self._first = first_step
        self._steps = steps

    def __len__(self) -> int:
        return self._steps - self._first

    def __getitem__(self, index: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Inputs and truths of one step."""
        step = self._first + index
        rows = self._sampler.rows(self._epoch, step)
        order = training_order(
            self._size, kind=self._key, seed=self._sampler.seed, epoch=self._epoch, step=step
        )
        inputs: dict[str, Any] = {"order": np.tile(order, (len(rows), 1))}
        if isinstance(self._inputs, np.ndarray):
            inputs["embedding"] = self._inputs[rows]
        else:
            files = [self._inputs[row] for row in rows]
            inputs["image"] = read_images(files).astype(np.float32)
        return inputs, {name: values[rows] for name, values in self._truths.items()}
