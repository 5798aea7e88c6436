"""What turns aligned faces into codes here: an embedder and the hasher made for it."""

import contextlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iom.errors import ConfigError, WeightsError
from iom.keys import TransformKey
from iom.pretrained import hasher_path
from iom.runtime.deployed import DeployedHasher
from iom.runtime.runtimes import is_artefact


class PhotoHasher(Protocol):
    """What hashing photographs needs of a network.

    Attributes:
        code_length: M.
        alphabet_size: Q.
        fingerprint: Of hasher and embedder.
    """

    code_length: int
    alphabet_size: int
    fingerprint: str

    def embed(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings `(N, D)` of aligned faces `(N, 112, 112, 3)`."""
        ...

    def hash(
        self, embeddings: NDArray[np.float32], keys: TransformKey | Sequence[TransformKey]
    ) -> NDArray[np.uint8]:
        """Codes `(N, M)`."""
        ...


class EmbedderAndHasher:
    """An `iom.Embedder` and an `iom.Hasher` that belong together."""

    def __init__(self, embedder: Any, hasher: Any) -> None:
        hasher.check_embedder(embedder)
        self._embedder = embedder
        self.code_length: int = hasher.code_length
        self.alphabet_size: int = hasher.alphabet_size
        self.fingerprint: str = hasher.fingerprint
        self.embed, self.hash = embedder.embed, hasher.hash


def open_photo_hasher(hasher: str, *, weights: str = "", batch_size: int = 16) -> PhotoHasher:
    """A deployed artefact, or the hasher of a folder and its embedder.

    Args:
        hasher: Artefact of `iom deploy`, folder of a trained hasher, or its name.
        weights: Manifest name or file of the embedder; empty takes the one the hasher names.
        batch_size: Faces a call.

    Raises:
        WeightsError: Missing, damaged, or the two do not belong together.
        ConfigError: Weights beside an artefact, which embeds for itself.
        MissingExtraError: The artefact's runtime is not installed.
    """
    path = hasher_path(hasher)
    if is_artefact(path):
        if weights:
            raise ConfigError(f"{hasher} embeds for itself: leave out the weights {weights}")
        return DeployedHasher.load(path, batch_size=batch_size)
    from iom.runtime.models import open_models

    return EmbedderAndHasher(*open_models(hasher, weights=weights, batch_size=batch_size))


def embed_all(
    models: PhotoHasher, faces: Sequence[NDArray[np.uint8]]
) -> list[NDArray[np.float32] | None]:
    """Embedding of each face, `None` where the network has none, as perhaps of a black square.

    Raises:
        WeightsError: It has none for any of several faces: the weights are at fault.
    """
    with contextlib.suppress(WeightsError):
        return list(models.embed(np.stack(faces)))
    found: list[NDArray[np.float32] | None] = []
    problem: WeightsError | None = None
    for face in faces:
        try:
            found.append(models.embed(face[None])[0])
        except WeightsError as error:
            found.append(None)
            problem = error
    if problem is not None and len(faces) > 1 and all(row is None for row in found):
        raise problem
    return found
