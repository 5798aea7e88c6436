"""The networks, shared by many requests: those that wait go through them together."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iom.gallery.templates import CodeHasher
from iom.keys import TransformKey
from iom.service.micro_batching import MicroBatcher

MOST_ROWS = 128
"""Rows of one call; a hasher pads to as many anyway, so that they cost no more than one."""


class Embeds(Protocol):
    """What the service needs of an embedder: `(N, S, S, 3)` uint8 to `(N, D)`, unit length."""

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...  # noqa: D102


class SharedEmbedder:
    """An embedder for several threads.

    Args:
        single: For few images, one a call: a padded batch would take longer.
        batch: The same network for more, `most` a call.
        most: Its batch size.
    """

    def __init__(self, single: Embeds, batch: Embeds, *, most: int) -> None:
        self._single, self._batch, self._most = single, batch, most
        self._together: MicroBatcher[None] = MicroBatcher(self._embed, most=most)

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings `(N, D)` of images `(N, S, S, 3)`."""
        return self._together(images, [None] * len(images))

    def _embed(self, images: NDArray[np.uint8], _: list[None]) -> NDArray[np.float32]:
        embedder = self._single if 2 * len(images) <= self._most else self._batch
        return embedder.embed(images)


class SharedHasher:
    """A hasher for several threads, with the codes of the one it is given.

    Args:
        hasher: The hasher.
    """

    def __init__(self, hasher: CodeHasher) -> None:
        self._hasher = hasher
        self.code_length, self.alphabet_size = hasher.code_length, hasher.alphabet_size
        self.calibration: Any = hasher.calibration
        self._together: MicroBatcher[TransformKey] = MicroBatcher(hasher.hash, most=MOST_ROWS)

    @property
    def parts(self) -> int:
        """As the hasher's."""
        return self._hasher.parts

    @property
    def fingerprint(self) -> str:
        """As the hasher's."""
        return self._hasher.fingerprint

    def hash(
        self, embeddings: NDArray[np.float32], keys: TransformKey | Sequence[TransformKey]
    ) -> NDArray[np.uint8]:
        """Codes `(N, M)` of embeddings `(N, D)`."""
        each = [keys] * len(embeddings) if isinstance(keys, TransformKey) else list(keys)
        return self._together(embeddings, each)
