"""Face pipeline of the service: decode, detect, align, embed."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import BusyError
from iom.models.face_hasher import FaceHasher
from iom.photos.align import align
from iom.photos.detect import Detect
from iom.photos.images import Pixels
from iom.photos.photograph import PhotoSettings, choose_faces
from iom.service.decoding import Decoder

ONE_PERSON = PhotoSettings(detector="points", faces="dominant")
"""The largest face, if no other is nearly as large."""


class FacePipeline:
    """Encoded images to embeddings, of aligned faces only if there is no detector; several threads call `hasher`."""

    def __init__(
        self, hasher: FaceHasher, decoder: Decoder, detect: Detect | None = None, *, wait_seconds: float = 10.0
    ) -> None:
        self._hasher, self.decoder, self._detect = hasher, decoder, detect
        self._wait = wait_seconds
        self._lock = threading.Lock()  # a network uses all cores already

    @property
    def aligns(self) -> bool:
        """Whether photographs are accepted."""
        return self._detect is not None

    def embed(self, images: list[bytes]) -> NDArray[Any]:
        """Embeddings `(N, D)`; a `BusyError` for too many concurrent images."""
        return self._hasher.embed(np.stack([self.aligned(data) for data in images]))

    def aligned(self, data: bytes) -> Pixels:
        """The one large face of an image, `(112, 112, 3)`; a `FaceError` says why there is none."""
        decoded = self.decoder.decode(data)
        if decoded.is_aligned or self._detect is None:
            return decoded.pixels
        with self._detector_free():
            found = self._detect(decoded.pixels)
        [(index, _)], _ = choose_faces(found, decoded.pixels.shape, ONE_PERSON)
        return align(decoded.pixels, found[index].points, source="image")

    def close(self) -> None:
        """Close the decoder."""
        self.decoder.close()

    @contextlib.contextmanager
    def _detector_free(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=self._wait):
            raise BusyError("Too many concurrent images; retry later")
        try:
            yield
        finally:
            self._lock.release()
