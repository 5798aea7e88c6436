"""A deployed hasher: an exported artefact in its runtime, from faces and keys to codes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.data.images import read_image
from iom.errors import DataError, KeyMaterialError, WeightsError
from iom.keys import KEY_KINDS, TransformKey, part_count
from iom.runtime.head import Head, head_path
from iom.runtime.manifest import Manifest, read_manifest
from iom.runtime.runtimes import open_session
from iom.runtime.session import Session

HEAD_BATCH = 128
READERS = 2
"""Threads that decode the next images while the runtime computes."""
Keys = TransformKey | Sequence[TransformKey]


class DeployedHasher:
    """Faces, or embeddings, and keys to codes, without TensorFlow where the runtime needs none.

    It is embedder and hasher at once: a gallery, the service and `iom hash` take it for both.

    Args:
        session: The artefact in its runtime.
        manifest: What lies beside it.
        head: The hash alone, for embeddings.
        name: For reports and errors.
        batch_size: Faces a call. Always as many: another size may round differently.
    """

    def __init__(
        self, session: Session, manifest: Manifest, head: Head, *, name: str, batch_size: int = 8
    ) -> None:
        self._session, self._head, self.manifest = session, head, manifest
        self.name = name
        self.batch_size = batch_size
        self.input_size = manifest.input_size
        self.embedding_size = manifest.embedding_size
        self.code_length = manifest.code_length
        self.alphabet_size = manifest.alphabet_size
        self.keep, self.key_size = manifest.keep, manifest.key_size
        self.key_kind = manifest.key_kind
        self.fingerprint = manifest.fingerprint
        self.embedder_name = name
        self.embedder_fingerprint = manifest.fingerprint
        self.calibration = SimpleNamespace(**manifest.calibration) if manifest.calibration else None

    @classmethod
    def load(cls, path: Path | str, *, batch_size: int = 8, threads: int = 0) -> "DeployedHasher":
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
        return cls(session, manifest, head, name=path.name, batch_size=batch_size)

    @property
    def parts(self) -> int:
        """In how many parts of the embedding a key may live: 1 unless `key_kind` is `part`."""
        return part_count(self.key_size, self.keep) if self.key_kind == "part" else 1

    @property
    def identity_order(self) -> NDArray[np.int32]:
        """The order that leaves every dimension where it is; for measuring, never to enrol."""
        return KEY_KINDS[self.key_kind].identity(self.key_size)

    def check_embedder(self, embedder: Any) -> None:
        """Refuse embeddings of anything but this very artefact.

        Raises:
            WeightsError: Another one: codes would be valid in form and worth less.
        """
        if embedder.fingerprint != self.fingerprint:
            raise WeightsError(
                f"the artefact {self.name} embeds for itself, received {embedder.name} (SHA-256 "
                f"{embedder.fingerprint[:12]}...); give no weights beside an artefact"
            )

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings `(N, D)` of unit length, of aligned faces `(N, S, S, 3)` uint8.

        Raises:
            DataError: Another size or type.
            WeightsError: An embedding that is zero or not finite.
        """
        orders = np.broadcast_to(self.identity_order, (len(images), self.manifest.order_width))
        return self._run(images, orders)[1]

    def embed_batch(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings `(B, D)`, not normalised, of pixels `(B, S, S, 3)` float32 0..255."""
        width = self.manifest.order_width
        orders = np.broadcast_to(self.identity_order, (len(pixels), width))
        return self._session.run(pixels, np.ascontiguousarray(orders))[1]

    def embed_files(self, paths: Sequence[Path], *, progress: bool = False) -> NDArray[np.float32]:
        """Embeddings `(N, D)` of image files; images are decoded while others are computed."""
        return self._run_files(paths, self.identity_order[None], progress)[1]

    def hash(self, embeddings: NDArray[np.float32], keys: Keys) -> NDArray[np.uint8]:
        """Codes `(N, M)` of embeddings `(N, D)`, as `iom.Hasher.hash`.

        Raises:
            DataError: Embeddings of another size, or not finite.
            KeyMaterialError: Another number of keys than rows, or something that is no key.
        """
        rows = np.asarray(embeddings, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.embedding_size:
            raise DataError(
                f"expected embeddings (N, {self.embedding_size}), received {rows.shape}; this "
                f"artefact is {self.name}"
            )
        if not np.isfinite(rows).all():
            raise DataError("expected finite embeddings, received NaN or infinity")
        orders = self._orders(keys, len(rows))
        codes = np.empty((len(rows), self.code_length), np.uint8)
        for start in range(0, len(rows), HEAD_BATCH):
            part = slice(start, start + HEAD_BATCH)
            batch = _filled(rows[part], HEAD_BATCH), _filled(orders[part], HEAD_BATCH)
            codes[part] = self._head.hash(*batch)[: len(rows[part])]
        return codes

    def hash_images(self, images: NDArray[np.uint8], keys: Keys) -> NDArray[np.uint8]:
        """Codes `(N, M)` of aligned faces `(N, S, S, 3)` uint8, from the artefact itself."""
        return self._run(images, self._orders(keys, len(images)))[0]

    def hash_files(
        self, paths: Sequence[Path], keys: Keys, *, progress: bool = False
    ) -> NDArray[np.uint8]:
        """Codes `(N, M)` of image files; images are decoded while others are computed.

        Raises:
            DataError: A file is missing, damaged or of another size.
        """
        return self._run_files(paths, self._orders(keys, len(paths)), progress)[0]

    def _run(
        self, images: NDArray[np.uint8], orders: NDArray[np.int32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        side = self.input_size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3):
            raise DataError(
                f"{self.name}: expected RGB images (N, {side}, {side}, 3) of uint8 0..255, "
                f"received {images.shape} of {images.dtype}"
            )
        batches = (images[start : start + self.batch_size] for start in self._starts(len(images)))
        return self._collect(batches, orders, len(images))

    def _run_files(
        self, paths: Sequence[Path], orders: NDArray[np.int32], progress: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        from tqdm import tqdm

        width = self.manifest.order_width
        orders = np.broadcast_to(orders, (len(paths), width))
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

    def _orders(self, keys: Keys, rows: int) -> NDArray[np.int32]:
        derive, width = KEY_KINDS[self.key_kind].order, self.manifest.order_width
        if isinstance(keys, TransformKey):
            return np.broadcast_to(derive(keys, self.key_size, self.keep), (rows, width))
        if len(keys) != rows or not all(isinstance(key, TransformKey) for key in keys):
            raise KeyMaterialError(
                f"expected one TransformKey, or one for each of {rows} rows, received "
                f"{len(keys)} objects"
            )
        orders = [derive(key, self.key_size, self.keep) for key in keys]
        return np.array(orders, np.int32).reshape(rows, width)


def _filled(rows: NDArray[Any], count: int) -> NDArray[Any]:
    """`count` rows: `rows`, then repetitions of the last, or of nothing."""
    if len(rows) == count:
        return np.ascontiguousarray(rows)
    full = np.zeros((count, *rows.shape[1:]), rows.dtype)
    full[: len(rows)] = rows
    return full
