"""From decoded images to embeddings: align where it is needed, embed, one image at a time."""

import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iom.data.alignment import align, face_size
from iom.data.detectors import Detect
from iom.data.images import Pixels
from iom.errors import DataError
from iom.service.decoding import Decoder

SMALLEST_FACE = 32.0


class Embeds(Protocol):
    """What the service needs of an embedder: `(N, S, S, 3)` uint8 to `(N, D)`, unit length."""

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...  # noqa: D102


class Faces:
    """Bytes of images to embeddings.

    Args:
        embedder: Loaded once.
        decoder: Takes photographs if there is a detector.
        detect: Finds faces in photographs; without it only aligned faces are taken.
    """

    def __init__(self, embedder: Embeds, decoder: Decoder, detect: Detect | None = None) -> None:
        self._embedder, self._decoder, self._detect = embedder, decoder, detect
        self._lock = threading.Lock()  # a network uses all cores already

    @property
    def aligns(self) -> bool:
        """Whether photographs are taken."""
        return self._detect is not None

    def embed(self, images: list[bytes]) -> NDArray[Any]:
        """Embeddings `(N, D)`.

        Raises:
            DataError: An image that cannot be used, or without a face.
            BusyError: Too much to do.
        """
        faces = [self._face(data) for data in images]
        with self._lock:
            return self._embedder.embed(np.stack(faces))

    def close(self) -> None:
        """End the decoder."""
        self._decoder.close()

    def _face(self, data: bytes) -> Pixels:
        decoded = self._decoder.decode(data)
        if decoded.is_aligned or self._detect is None:
            return decoded.pixels
        with self._lock:
            found = self._detect(decoded.pixels)
        sizes = [face_size(face.points, "image") for face in found]
        if not found or max(sizes) < SMALLEST_FACE:
            raise DataError(
                f"image: expected a face of {SMALLEST_FACE:g} pixels or more, found "
                + (f"one of {max(sizes):.0f}" if found else "none")
            )
        points = found[sizes.index(max(sizes))].points
        return align(decoded.pixels, points, source="image")
