"""Batching of concurrent requests: those that wait go through the networks together."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.keys import TransformKey
from iom.models.face_hasher import BATCH, FaceHasher, ForwardingFaceHasher, Keys
from iom.service.micro_batching import MicroBatcher

FACES_A_CALL = 8
"""Of the embedder, where so many wait."""


class SharedHasher(ForwardingFaceHasher):
    """A face hasher for several threads, with the embeddings and codes of the one it is given.

    A few images go through the embedder one a call, since a padded batch would take longer, more
    of them `FACES_A_CALL` a call.

    Args:
        hasher: The hasher.
    """

    def __init__(self, hasher: FaceHasher) -> None:
        super().__init__(hasher)
        self._embedding: MicroBatcher[None] = MicroBatcher(self._embed, most=FACES_A_CALL)
        self._hashing: MicroBatcher[TransformKey] = MicroBatcher(hasher.hash, most=BATCH)

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._embedding(images, [None] * len(images))

    def hash(self, embeddings: NDArray[np.float32], keys: Keys) -> NDArray[np.uint8]:
        if isinstance(keys, TransformKey):
            keys = [keys] * len(embeddings)
        elif not isinstance(keys, list) or len(keys) != len(embeddings):
            return self._hasher.hash(embeddings, keys)  # which refuses them, or takes them alone
        return self._hashing(embeddings, keys)

    def _embed(self, images: NDArray[Any], _: list[None]) -> NDArray[np.float32]:
        size = 1 if 2 * len(images) <= FACES_A_CALL else FACES_A_CALL
        return self._hasher.with_batch_size(size).embed(images)
