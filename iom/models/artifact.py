"""Face hasher of an artefact of `iom deploy`: its runtime, its manifest, its hash in NumPy."""

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from iom.errors import WeightsError
from iom.models.artifact_manifest import Manifest, manifest_path, read_manifest, write_manifest
from iom.models.embedder import Embedder
from iom.models.face_hasher import Calibration, FaceHasher, Keys
from iom.models.sessions.runtimes import open_session
from iom.models.sessions.session import Session
from iom.nn.hash_numpy import Head, head_path
from iom.photos.images import face_pixels, file_paths, read_image

READERS = 2
"""Threads that decode the next images while the runtime computes."""


class ArtifactFaceHasher(FaceHasher):
    """A deployed artefact: faces, or embeddings, and keys to codes, in its own runtime.

    TensorFlow is imported only where the runtime is TensorFlow.

    Args:
        session: The artefact in its runtime.
        manifest: What lies beside it.
        head: The hash alone, for embeddings.
        path: The artefact.
        batch_size: Faces a call. Always as many: another size may round differently.
    """

    def __init__(self, session: Session, manifest: Manifest, head: Head, *, path: Path, batch_size: int = 8) -> None:
        self._session, self.head, self.manifest = session, head, manifest
        self.path = path
        self.name = self.embedder_name = path.name
        self.weights = str(path)
        self.batch_size = batch_size
        self.embedding_size = manifest.embedding_size
        self.code_length = manifest.code_length
        self.alphabet_size = manifest.alphabet_size
        self.keep, self.key_size = manifest.keep, manifest.key_size
        self.key_kind = manifest.key_kind
        self.embedder_fingerprint = manifest.fingerprint
        self.calibration = _calibration(path, manifest)

    @classmethod
    def load(cls, path: Path | str, *, batch_size: int = 8, threads: int = 0) -> "ArtifactFaceHasher":
        """Open an artefact of `iom deploy`; its manifest says which runtime it wants.

        Args:
            path: `.onnx`, `.tflite`, `.xml`, `.keras` or a `.saved_model` folder.
            batch_size: Faces a call.
            threads: Of a call, where the runtime lets one choose; 0 takes all cores.

        Raises:
            WeightsError: Missing, damaged, of another version, or not a deployed hasher.
            MissingExtraError: Its runtime is not installed.
        """
        path = Path(path)
        manifest = read_manifest(path)
        head = Head.load(head_path(path))
        session = open_session(path, manifest, threads=threads)
        return cls(session, manifest, head, path=path, batch_size=batch_size)

    @property
    def input_size(self) -> int:
        """S, side of an aligned face in pixels."""
        return self.manifest.input_size

    @property
    def fingerprint(self) -> str:
        """SHA-256 over its files, the precision they are run with and the derivation of keys."""
        return self.manifest.fingerprint

    @property
    def embedder(self) -> Embedder:
        """The artefact as an embedder."""
        return Embedder(
            self._embed_batch,
            name=self.name,
            fingerprint=self.fingerprint,
            embedding_size=self.embedding_size,
            input_size=self.input_size,
            batch_size=self.batch_size,
        )

    def with_batch_size(self, batch_size: int) -> "ArtifactFaceHasher":  # noqa: D102
        other = copy.copy(self)
        other.batch_size = batch_size
        return other

    def save_calibration(self, path: Path) -> Path:  # noqa: D102
        found = dataclasses.asdict(self.calibration) if self.calibration else None
        self.manifest = dataclasses.replace(read_manifest(path), calibration=found)
        write_manifest(path, self.manifest)
        return manifest_path(path)

    def summary(self) -> str:  # noqa: D102
        made, check = self.manifest, self.manifest.check
        rows = {
            "artefact": f"{self.name}, {made.target}",
            "runtime": f"{made.runtime}, {made.precision}",
            "embedder": f"{made.embedder['name']}: {self.input_size}x{self.input_size} pixels to "
            f"{self.embedding_size} dimensions",
            "hash": f"{self.code_length} symbols over {self.alphabet_size} values, keys of kind {self.key_kind}",
            "check": "none"
            if check is None
            else f"{check.equal_symbols:.2%} of the symbols are those of the hasher it was made from",
        }
        return "\n".join(f"{name:10}{text}" for name, text in rows.items())

    def check_embedder(self, embedder: Embedder) -> None:
        """Refuse embeddings of anything but this very artefact.

        Raises:
            WeightsError: Another one: codes would be valid in form and worth less.
        """
        if embedder.fingerprint != self.fingerprint:
            raise WeightsError(
                f"the artefact {self.name} embeds for itself, received {embedder.name} (SHA-256 "
                f"{embedder.fingerprint[:12]}...); name the artefact as the embedder, too: "
                f"embedder.weights={self.path}"
            )

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:  # noqa: D102
        return self._run(images, self.identity_order)[1]

    def embed_files(  # noqa: D102
        self, paths: Sequence[Path | str], *, progress: bool = False
    ) -> NDArray[np.float32]:
        return self._run_files(paths, self.identity_order, progress)[1]

    def _embed_batch(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings `(B, D)`, not normalised, of pixels `(B, S, S, 3)` float32 0..255."""
        orders = np.broadcast_to(self.identity_order, (len(pixels), self.order_width))
        return self._session.run(pixels, np.ascontiguousarray(orders))[1]

    def _hash_batch(self, embeddings: NDArray[np.float32], orders: NDArray[np.int32]) -> NDArray[np.uint8]:
        return self.head.hash(embeddings, orders)

    def hash_images(self, images: NDArray[np.uint8], keys: Keys) -> NDArray[np.uint8]:
        """Codes `(N, M)` of aligned faces `(N, S, S, 3)` uint8, from the artefact itself.

        Raises:
            DataError: Another size or type.
            KeyMaterialError: Another number of keys than faces, or an object that is not a key.
        """
        images = face_pixels(images, self.name, size=self.input_size)
        return self._run(images, self._orders(keys, len(images)))[0]

    def hash_files(self, paths: Sequence[Path | str], keys: Keys, *, progress: bool = False) -> NDArray[np.uint8]:
        """Codes `(N, M)` of image files; images are decoded while others are computed.

        Raises:
            DataError: A file is missing, damaged or of another size.
        """
        return self._run_files(paths, self._orders(keys, len(paths)), progress)[0]

    def _run(
        self, images: NDArray[np.uint8], orders: NDArray[np.int32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        images = face_pixels(images, self.name, size=self.input_size)
        orders = np.broadcast_to(orders, (len(images), self.order_width))
        batches = (images[start : start + self.batch_size] for start in self._starts(len(images)))
        return self._collect(batches, orders, len(images))

    def _run_files(
        self, paths: Sequence[Path | str], orders: NDArray[np.int32], progress: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        paths = file_paths(paths)
        orders = np.broadcast_to(orders, (len(paths), self.order_width))
        with tqdm(total=len(paths), desc=self.name, unit="image", disable=not progress) as bar:
            return self._collect(self._decoded(paths, bar), orders, len(paths))

    def _decoded(self, paths: Sequence[Path], bar: Any) -> Iterator[NDArray[np.uint8]]:
        """Batches of pixels; the next one is read while the caller works on the last."""

        def read(path: Path) -> NDArray[np.uint8]:
            return read_image(path, size=self.input_size)

        with ThreadPoolExecutor(READERS) as pool:
            waiting: list[Any] = []
            for start in self._starts(len(paths)):
                chunk = paths[start : start + self.batch_size]
                waiting.append([pool.submit(read, path) for path in chunk])
                if len(waiting) > READERS:
                    yield np.stack([future.result() for future in waiting[0]])
                    bar.update(len(waiting.pop(0)))
            for futures in waiting:
                yield np.stack([future.result() for future in futures])
                bar.update(len(futures))

    def _starts(self, count: int) -> range:
        return range(0, count, self.batch_size)

    def _collect(
        self, batches: Iterator[NDArray[np.uint8]], orders: NDArray[np.int32], count: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        codes = np.empty((count, self.code_length), np.uint8)
        rows = np.empty((count, self.embedding_size), np.float32)
        start = 0
        for batch in batches:
            part = slice(start, start + len(batch))
            pixels = _filled(batch.astype(np.float32), self.batch_size)
            found, raw = self._session.run(pixels, _filled(orders[part], self.batch_size))
            self._check_result(found, raw)
            codes[part], rows[part] = found[: len(batch)], raw[: len(batch)]
            start += len(batch)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or (norms == 0).any():
            raise WeightsError(f"{self.name}: the embedding of an image is zero or not finite")
        return codes, rows / norms

    def _check_result(self, codes: NDArray[Any], rows: NDArray[Any]) -> None:
        expected = (self.batch_size, self.code_length), (self.batch_size, self.embedding_size)
        if (codes.shape, rows.shape) != expected:
            raise WeightsError(
                f"{self.name}: expected codes and embeddings {expected}, the artefact returned "
                f"{codes.shape} and {rows.shape}"
            )


def _calibration(path: Path, manifest: Manifest) -> Calibration | None:
    try:
        return Calibration(**manifest.calibration) if manifest.calibration else None
    except TypeError as error:
        raise WeightsError(
            f"{path}: the calibration in its manifest is damaged, or of another version: {error}"
        ) from error


def _filled(rows: NDArray[Any], count: int) -> NDArray[Any]:
    """`count` rows: `rows`, then repetitions of the last, or of nothing."""
    if len(rows) == count:
        return np.ascontiguousarray(rows)
    full = np.zeros((count, *rows.shape[1:]), rows.dtype)
    full[: len(rows)] = rows
    return full
