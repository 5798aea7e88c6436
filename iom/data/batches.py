"""Batches of stage 2: P subjects with K images each, with the key of the step."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.errors import DataError
from iom.keys import KEY_KINDS, SECRET_BYTES, TransformKey
from iom.photos.images import read_images


@dataclasses.dataclass(frozen=True, eq=False)
class SubjectBatches:
    """Batches of P distinct `subjects` with K distinct `images` each (Hermans et al., 2017), of dense `labels` `(N,)`.

    Every batch is a function of seed, epoch and step alone, so that a resumed run repeats the uninterrupted one.
    Subjects with fewer than K images never appear: a pair of the same image teaches nothing.

    Raises:
        DataError: Fewer than P subjects have K images.

    Examples:
        >>> batches = SubjectBatches(np.array([0, 0, 0, 1, 2, 2, 3]), subjects=2, images=2, seed=1)
        >>> sorted(batches.rows(epoch=0, step=0)[:2].tolist()) in ([0, 1], [0, 2], [1, 2], [4, 5])
        True
    """

    labels: NDArray[np.int64]
    subjects: int
    images: int
    seed: int

    def __post_init__(self) -> None:
        if len(self._rows_of) >= self.subjects:
            return
        counts = np.bincount(self.labels) if len(self.labels) else np.zeros(0, np.int64)
        single = int((counts == 1).sum())
        raise DataError(
            f"batches of {self.subjects} subjects x {self.images} images: only "
            f"{len(self._rows_of)} of {int((counts > 0).sum())} training subjects have "
            f"{self.images} images ({single} have one); lower batches.subjects or batches.images, "
            "or add images"
        )

    @functools.cached_property
    def _rows_of(self) -> list[NDArray[np.int64]]:
        order = np.argsort(self.labels, kind="stable")
        _, starts = np.unique(self.labels[order], return_index=True)
        groups = np.split(order, starts[1:])
        return [group for group in groups if len(group) >= self.images]

    @property
    def usable_subjects(self) -> int:
        """Subjects that have K images."""
        return len(self._rows_of)

    def rows(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Rows of one batch, `(P * K,)`, subject by subject."""
        stream = numpy_stream(self.seed, f"stage2/batch/{epoch}/{step}")
        chosen = stream.choice(len(self._rows_of), self.subjects, replace=False)
        return np.concatenate([stream.choice(self._rows_of[i], self.images, replace=False) for i in chosen])


@dataclasses.dataclass(frozen=True)
class TrainingKeys:
    """Fresh keys for every step, made into orders as a user's key is.

    They follow from the seed, as they protect nothing. A key of kind `kind` works on `size` dimensions; `count` is G,
    the keys of a step; with `key` `identity` nothing changes; `second` adds one more key.
    """

    size: int
    seed: int
    key: str = "random"
    kind: str = "orthogonal"
    keep: int = 0
    count: int = 1
    second: bool = False

    def order(self, epoch: int, step: int, number: int = 0) -> NDArray[np.int32]:
        """Order of the dimensions under one of the keys of a step, `(W,)`: D times the rounds of the kind."""
        if self.key == "identity":
            return KEY_KINDS[self.kind].identity(self.size)
        purpose = f"stage2/key/{epoch}/{step}" + (f"/{number}" if number else "")
        secret = numpy_stream(self.seed, purpose).bytes(SECRET_BYTES)
        return KEY_KINDS[self.kind].order(TransformKey(secret), self.size, self.keep)


class CodeBatches(keras.utils.PyDataset):
    """The rest of one epoch: item i is a function of seed, epoch and step, so that runs resume exactly.

    Args:
        inputs: Embeddings `(N, D)`, or image files.
        targets: Target of each loss for each row, `(N, ...)`, by the name of the loss.
        keys: One gives `order` `(B, W)`, more give `(B, G, W)`; a second key gives `second_order`.
        first_step: Steps of the epoch that are already done.
        steps: Steps of the whole epoch.
        inverse_temperature: Step of the whole run -> T, an input `(B, 1)`; `None` where it is fixed.
    """

    def __init__(
        self,
        sampler: SubjectBatches,
        inputs: NDArray[np.float32] | Sequence[Path],
        targets: Mapping[str, NDArray[Any]],
        keys: TrainingKeys,
        *,
        epoch: int,
        steps: int,
        first_step: int = 0,
        inverse_temperature: Callable[[int], float] | None = None,
    ) -> None:
        super().__init__()
        self._sampler, self._inputs, self._targets, self._keys = sampler, inputs, targets, keys
        self._epoch, self._first, self._steps = epoch, first_step, steps
        self._temperature = inverse_temperature

    def __len__(self) -> int:
        return self._steps - self._first

    def __getitem__(self, index: int) -> tuple[dict[str, Any], dict[str, Any]]:
        step = self._first + index
        rows = self._sampler.rows(self._epoch, step)
        orders = np.stack([self._keys.order(self._epoch, step, number) for number in range(self._keys.count)])
        if self._keys.count == 1:
            orders = orders[0]
        inputs: dict[str, Any] = {"order": np.tile(orders, (len(rows), *[1] * orders.ndim))}
        if self._keys.second:
            second = self._keys.order(self._epoch, step, self._keys.count)
            inputs["second_order"] = np.tile(second, (len(rows), 1))
        if self._temperature is not None:
            value = self._temperature(self._epoch * self._steps + step)
            inputs["inverse_temperature"] = np.full((len(rows), 1), value, np.float32)
        if isinstance(self._inputs, np.ndarray):
            inputs["embedding"] = self._inputs[rows]
        else:
            inputs["image"] = read_images([self._inputs[row] for row in rows]).astype(np.float32)
        return inputs, {name: values[rows] for name, values in self._targets.items()}
