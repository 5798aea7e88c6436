"""Face pipeline of the service: decode, detect, align, and embed in batches of concurrent calls."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.codes._kernels import kernels
from iom.errors import BusyError
from iom.keys import TransformKey
from iom.models.face_hasher import BATCH, FaceHasher, ForwardingFaceHasher, Keys
from iom.photos.align import ARCFACE
from iom.photos.detect import Detect
from iom.photos.images import Pixels
from iom.photos.photograph import PhotoSettings
from iom.photos.picture import one_face
from iom.service.decoding import Decoder

FACES_A_CALL = 8
"""Faces of one call of the embedder, where that many wait."""


@dataclasses.dataclass(eq=False)
class _Job:
    rows: NDArray[Any]
    extra: Sequence[Any]
    outcome: Future[NDArray[Any]] = dataclasses.field(default_factory=Future)


class MicroBatcher:
    """A function of rows `(N, ...)` and N extras, called from several threads, that runs for one of them at a time.

    The thread that finds it idle takes all waiting rows, also those of other threads, up to a maximum that a single job
    may exceed; it never waits for more. Each call ends with a result or an error, however `work` ends.
    """

    def __init__(self, work: Callable[[NDArray[Any], list[Any]], NDArray[Any]], *, most: int) -> None:
        self._work, self._most = work, most
        self.waiting: list[_Job] = []
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def __call__(self, rows: NDArray[Any], extra: Sequence[Any]) -> NDArray[Any]:
        """The result of `work` for these rows, or its error; a `RuntimeError` if the computing thread was stopped."""
        job = _Job(rows, extra)
        with self._lock:
            self.waiting.append(job)
        with self._turn:  # jobs that wait here may be computed by the thread before
            while not job.outcome.done():
                jobs = self._taken()
                if not jobs:
                    job.outcome.set_exception(_interrupted())
                    break
                self._do(jobs)
        return job.outcome.result()

    def _taken(self) -> list[_Job]:
        """The longest waiting jobs, up to `most` rows; a larger one goes alone."""
        with self._lock:
            rows = np.cumsum([len(job.rows) for job in self.waiting])
            count = max(1, int(np.searchsorted(rows, self._most, side="right")))
            taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    def _do(self, jobs: list[_Job]) -> None:
        try:
            rows = np.concatenate([job.rows for job in jobs])
            results = self._work(rows, [each for job in jobs for each in job.extra])
            if len(results) != len(rows):
                raise ValueError(f"expected {len(rows)} rows of results, received {len(results)}")
            ends = np.cumsum([len(job.rows) for job in jobs])
            for job, part in zip(jobs, np.split(results, ends[:-1]), strict=True):
                job.outcome.set_result(part)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].outcome.set_exception(error)
                return
            for job in jobs:  # the rows of one job must not fail the others
                self._do([job])
        finally:
            for job in jobs:
                if not job.outcome.done():  # `work` ended by SystemExit, KeyboardInterrupt or the like
                    job.outcome.set_exception(_interrupted())


def _interrupted() -> RuntimeError:
    return RuntimeError("the call that computed this batch was interrupted")


class SharedHasher(ForwardingFaceHasher):
    """A face hasher for several threads, with the embeddings and codes of the given one.

    A few images go through the embedder one a call, since a padded batch would take longer, more of them `FACES_A_CALL`
    a call.
    """

    def __init__(self, hasher: FaceHasher) -> None:
        super().__init__(hasher)
        self._embedding = MicroBatcher(self._embed, most=FACES_A_CALL)
        self._hashing = MicroBatcher(hasher.hash, most=BATCH)

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._embedding(images, [None] * len(images))

    def _hash_embeddings(self, embeddings: NDArray[np.float32], keys: Keys) -> NDArray[np.uint8]:
        if isinstance(keys, TransformKey):
            keys = [keys] * len(embeddings)
        elif not isinstance(keys, list) or len(keys) != len(embeddings):
            return self._hasher.hash(embeddings, keys)  # which refuses them, or takes them alone
        return self._hashing(embeddings, keys)

    def _embed(self, images: NDArray[Any], _: list[None]) -> NDArray[np.float32]:
        size = 1 if 2 * len(images) <= FACES_A_CALL else FACES_A_CALL
        return self._hasher.with_batch_size(size).embed(images)


def warm_hasher(hasher: FaceHasher) -> SharedHasher:
    """The hasher for several threads, warm for both batch sizes, as are the kernels that compare its codes."""
    size = hasher.input_size
    noise = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    for faces in (1, FACES_A_CALL):
        rows = hasher.with_batch_size(faces).embed(noise)
    hasher.hash(rows, TransformKey.generate())
    kernels()
    return SharedHasher(hasher)


WAIT_SECONDS = 10.0
"""Time to wait for the detector."""
ONE_PERSON = PhotoSettings(detector="points", faces="dominant")
"""The largest face, if no other is nearly as large."""


class FacePipeline:
    """Encoded images to embeddings, of aligned faces only if there is no detector; several threads call `hasher`."""

    def __init__(self, hasher: FaceHasher, decoder: Decoder, detect: Detect | None = None) -> None:
        self._hasher, self.decoder, self.detect = hasher, decoder, detect
        self._lock = threading.Lock()  # a network uses all cores already

    def embed(self, images: list[bytes]) -> NDArray[Any]:
        """Embeddings `(N, D)`; a `BusyError` for too many concurrent images."""
        embedder = self._hasher.embedder
        faces = [self._face(data, embedder.template.name) for data in images]
        return self._hasher.embed(np.stack([embedder.chips(face[None])[0] for face in faces]))

    def aligned(self, data: bytes) -> Pixels:
        """The one large face of an image, `(112, 112, 3)`; a `FaceError` says why there is none."""
        return self._face(data, ARCFACE)

    def _face(self, data: bytes, template: str) -> Pixels:
        """The face as a template has it, cut from the image itself; an aligned one stays as it is."""
        decoded = self.decoder.decode(data)
        if self.detect is None:
            return decoded.pixels
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise BusyError("Too many concurrent images; retry later")
        try:
            chip, _ = one_face(
                decoded.pixels, template=template, detector=self.detect, settings=ONE_PERSON, source="image"
            )
        finally:
            self._lock.release()
        return chip
