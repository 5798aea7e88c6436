"""Which rows make up a batch of stage 2: P subjects with K images each."""

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from iom._random import numpy_stream
from iom.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class SubjectBatches:
    """Batches of P distinct subjects with K distinct images each (Hermans et al., 2017).

    Every batch is a function of seed, epoch and step alone, so that a resumed run draws what the
    uninterrupted one would have drawn.

    Attributes:
        labels: Dense subject index of each row, `(N,)`.
        subjects: P.
        images: K. Subjects with fewer images never appear: the same image twice would be a mated
            pair that teaches nothing.
        seed: The run's seed.

    Raises:
        DataError: Fewer than P subjects have K images.

    Example:
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
