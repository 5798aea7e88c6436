"""Batches of stage 2: rows or images of P subjects x K images, with the key of the step."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.data.batches import SubjectBatches
from iom.keys import KEY_KINDS, SECRET_BYTES, TransformKey
from iom.photos.images import read_images

RANDOM_KEY, IDENTITY_KEY = "random", "identity"


def training_order(
    size: int,
    *,
    kind: str,
    seed: int,
    epoch: int,
    step: int,
    key_kind: str = "orthogonal",
    keep: int = 0,
    number: int = 0,
) -> NDArray[np.int32]:
    """Order of the dimensions in one training step, `(W,)`: D times the rounds of the kind.

    A fresh key for every step, made into an order as a user's key is. Training keys protect
    nothing, so they may follow from the seed.

    Args:
        size: D.
        kind: `random`, or `identity` for a key that changes nothing.
        seed: The run's seed.
        epoch: Epoch.
        step: Step within the epoch.
        key_kind: What a key does, of `KEY_KINDS`.
        keep: Dimensions kept, for `subset`.
        number: Which of several keys of the step, from 0.
    """
    if kind == IDENTITY_KEY:
        return KEY_KINDS[key_kind].identity(size)
    purpose = f"stage2/key/{epoch}/{step}" + (f"/{number}" if number else "")
    secret = numpy_stream(seed, purpose).bytes(SECRET_BYTES)
    return KEY_KINDS[key_kind].order(TransformKey(secret), size, keep)


class CodeBatches(keras.utils.PyDataset):
    """The rest of one epoch: item i is a function of seed, epoch and step, so runs resume exactly.

    Args:
        sampler: Which rows make up a batch.
        inputs: What the network reads for each row: embeddings `(N, D)`, or image files.
        truths: Truth of each loss for each row, `(N, ...)`, by the name of the loss.
        embedding_size: Dimensions that the key works on: D, or the size of the bottleneck.
        key: `random` or `identity`.
        epoch: Epoch.
        first_step: Steps of the epoch that are already done.
        steps: Steps of the whole epoch.
        key_kind: What a key does, of `KEY_KINDS`.
        keep: Dimensions kept after the key.
        keys: G, keys of a step. One gives `order` `(B, W)`, more give `(B, G, W)`.
        inverse_temperature: Step of the whole run -> T, added to the inputs as
            `inverse_temperature` `(B, 1)`; `None` where it is fixed.
        second_key: Add one more fresh key to the inputs, as `second_order` `(B, W)`.
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
        key_kind: str = "orthogonal",
        keep: int = 0,
        keys: int = 1,
        inverse_temperature: Callable[[int], float] | None = None,
        second_key: bool = False,
    ) -> None:
        super().__init__()
        self._key_kind = key_kind
        self._keep = keep
        self._keys = keys
        self._temperature = inverse_temperature
        self._second_key = second_key
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
        orders = np.stack([self._order(step, number) for number in range(self._keys)])
        if self._keys == 1:
            orders = orders[0]
        inputs: dict[str, Any] = {"order": np.tile(orders, (len(rows), *[1] * orders.ndim))}
        if self._second_key:
            inputs["second_order"] = np.tile(self._order(step, self._keys), (len(rows), 1))
        if self._temperature is not None:
            value = self._temperature(self._epoch * self._steps + step)
            inputs["inverse_temperature"] = np.full((len(rows), 1), value, np.float32)
        if isinstance(self._inputs, np.ndarray):
            inputs["embedding"] = self._inputs[rows]
        else:
            files = [self._inputs[row] for row in rows]
            inputs["image"] = read_images(files).astype(np.float32)
        return inputs, {name: values[rows] for name, values in self._truths.items()}

    def _order(self, step: int, number: int) -> NDArray[np.int32]:
        return training_order(
            self._size,
            kind=self._key,
            seed=self._sampler.seed,
            epoch=self._epoch,
            step=step,
            key_kind=self._key_kind,
            keep=self._keep,
            number=number,
        )
