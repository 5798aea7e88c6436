"""Two backbones as one embedder: their unit-length embeddings side by side."""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.config import EmbedderConfig
from iom.errors import WeightsError
from iom.models.embedder import Embedder, load_embedder


class FusedEmbedder(Embedder):
    """Embeddings [sqrt(w) a, sqrt(1 - w) b] of two embedders, a and b of unit length.

    Their cosine is w cos(a, a') + (1 - w) cos(b, b'). Each part keeps its own cache, so that
    another weight or another partner computes nothing anew. The fingerprint covers both weights and
    w: codes of another fusion never compare.

    Args:
        first: Gives a.
        second: Gives b; same input size.
        weight: w, between 0 and 1.

    Raises:
        WeightsError: The two take images of different sizes.
    """

    def __init__(self, first: Embedder, second: Embedder, *, weight: float) -> None:
        if first.input_size != second.input_size:
            raise WeightsError(
                f"two backbones are fused on the same images: {first.name} takes "
                f"{first.input_size} pixels a side, {second.name} {second.input_size}"
            )
        text = f"iom/fusion/v1/{first.fingerprint}/{second.fingerprint}/{weight!r}"
        super().__init__(
            self._refuse,
            name=f"{first.name}+{second.name}@{weight:g}",
            fingerprint=hashlib.sha256(text.encode()).hexdigest(),
            embedding_size=first.embedding_size + second.embedding_size,
            input_size=first.input_size,
            batch_size=first.batch_size,
            flip=first.flip,
            cache=None,
        )
        self.parts = (first, second)
        self.weight = weight

    def embed_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Embeddings `(N, D)` of pixels 0..255, both parts computed."""
        return self._join(lambda part: part.embed_pixels(pixels))

    def embed_files(self, paths: Sequence[Path | str], *, progress: bool = False) -> NDArray[np.float32]:
        """Embeddings `(N, D)` of image files, each part from its own cache."""
        return self._join(lambda part: part.embed_files(paths, progress=progress))

    def with_batch_size(self, batch_size: int) -> "FusedEmbedder":
        """The same networks with another number of images a call."""
        first, second = (part.with_batch_size(batch_size) for part in self.parts)
        return FusedEmbedder(first, second, weight=self.weight)

    def _join(self, embed: Callable[[Embedder], NDArray[np.float32]]) -> NDArray[np.float32]:
        first, second = (embed(part) for part in self.parts)
        shares = math.sqrt(self.weight), math.sqrt(1.0 - self.weight)
        joined = np.concatenate([shares[0] * first, shares[1] * second], axis=1)
        return joined.astype(np.float32)

    @staticmethod
    def _refuse(batch: NDArray[np.float32]) -> Any:
        raise NotImplementedError("the parts of a fusion predict, each for itself")


def open_embedder(config: EmbedderConfig) -> Embedder:
    """The embedder of a configuration: one backbone, or two fused.

    Raises:
        WeightsError: Unknown, missing or damaged weights, or two that do not go together.
    """
    first, *second = (
        load_embedder(weights, batch_size=config.batch_size, flip=config.flip, cache=config.cache)
        for weights in (config.weights, config.second_weights)
        if weights
    )
    if not second:
        return first
    return FusedEmbedder(first, second[0], weight=config.fusion_weight)
