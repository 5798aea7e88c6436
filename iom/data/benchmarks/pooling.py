"""Templates of several images: which images make which template, and their pooled embedding."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import DataError
from iom.metrics.template_pooling import mean_by_media


@dataclasses.dataclass(frozen=True, eq=False)
class Pooling:
    """Which template and which medium each image belongs to.

    Attributes:
        template: Template of each image, 0 to T - 1 without gaps, `(N,)`.
        media: Medium of each image (a photograph, a video); its images are averaged first, `(N,)`.
        weight: How much each image counts, such as the score of a detector, `(N,)`; one by default.

    Raises:
        DataError: Lengths that differ, a template without images, or weights that are not positive.
    """

    template: NDArray[np.int64]
    media: NDArray[np.int64]
    weight: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.template), len(self.media)}
        if self.weight is not None:
            lengths.add(len(self.weight))
            if not (np.isfinite(self.weight).all() and (self.weight > 0).all()):
                raise DataError("templates: expected positive weights of images, received others")
        if len(lengths) > 1 or not len(self.template):
            raise DataError("templates: expected a template and a medium for each image")
        empty = np.flatnonzero(np.bincount(self.template) == 0)
        if len(empty):
            raise DataError(f"templates: {len(empty)} have no image, the first is {empty[0]}")

    def __len__(self) -> int:
        return int(self.template.max()) + 1

    def pooled(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit-length embedding of each template, `(N, D)` -> `(T, D)`."""
        rows: NDArray[Any] = embeddings
        if self.weight is not None:
            rows = rows * self.weight[:, None]
        return mean_by_media(rows, self.media, self.template).astype(np.float32)
