"""From images to unit-length embeddings, in fixed batches, computed once and cached."""

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from iom.errors import WeightsError
from iom.models.artifact_manifest import manifest_path
from iom.models.embedding_cache import EmbeddingCache
from iom.models.sessions.runtimes import is_artefact
from iom.photos.images import face_pixels, file_paths, read_images

CHUNK = 512
"""Images read and stored at a time: an interrupted run loses at most this many."""


class Embedder:
    """A backbone with what is needed to use it safely.

    Args:
        predict: Raw RGB pixels `(B, S, S, 3)` -> embedding `(B, D)`, for one fixed B; such as
            `model.predict_on_batch`.
        name: Name for reports.
        fingerprint: SHA-256 of the weights; codes of two embedders never compare.
        embedding_size: D.
        input_size: S.
        batch_size: Images a call; a short batch is padded, so that the graph is traced once.
        flip: Average the embeddings of the image and its mirror image before normalising.
        cache: Folder of computed embeddings; `None` computes anew each time.
    """

    def __init__(
        self,
        predict: Callable[[NDArray[np.float32]], Any],
        *,
        name: str,
        fingerprint: str,
        embedding_size: int,
        input_size: int = 112,
        batch_size: int = 64,
        flip: bool = False,
        cache: Path | None = None,
    ) -> None:
        self._predict = predict
        self.name = name
        self.fingerprint = fingerprint
        self.embedding_size = embedding_size
        self.input_size = input_size
        self.batch_size = batch_size
        self.flip = flip
        self.cache = cache

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed aligned faces.

        Args:
            images: RGB `(N, S, S, 3)`, uint8 0..255.

        Returns:
            `(N, D)`, unit length.

        Raises:
            DataError: Another size or type: floats in 0..1 would give a worse result in silence.
            WeightsError: The model returns something other than finite `(N, D)` values.
        """
        return self.embed_pixels(face_pixels(images, self.name, size=self.input_size))

    def embed_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """`embed` for pixels 0..255 that need not be integers, such as augmented images."""
        raw = self._raw(pixels)
        if self.flip:
            raw = raw + self._raw(pixels[:, :, ::-1])
        norms = np.linalg.norm(raw, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or (norms == 0).any():
            raise WeightsError(f"{self.name}: the embedding of an image is zero or not finite")
        return raw / norms

    def with_batch_size(self, batch_size: int) -> "Embedder":
        """The same network, loaded once, with another number of images a call."""
        other = copy.copy(self)
        other.batch_size = batch_size
        return other

    def __repr__(self) -> str:
        flip = ", mean with the mirror image" if self.flip else ""
        return f"{type(self).__name__}({self.name}, {self.embedding_size} dimensions{flip})"

    def _raw(self, images: NDArray[Any]) -> NDArray[np.float32]:
        result = np.empty((len(images), self.embedding_size), np.float32)
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            batch = np.zeros((self.batch_size, *images.shape[1:]), np.float32)
            batch[: len(part)] = part
            rows = np.asarray(self._predict(batch), np.float32)
            if rows.shape != (self.batch_size, self.embedding_size):
                raise WeightsError(
                    f"{self.name}: expected embeddings of size {self.embedding_size}, the model returned {rows.shape}"
                )
            result[start : start + len(part)] = rows[: len(part)]
        return result

    def embed_files(self, paths: Sequence[Path | str], *, progress: bool = False) -> NDArray[np.float32]:
        """Embed image files; what the cache holds for the same bytes is not computed again.

        Returns:
            `(N, D)`, unit length, in the order of `paths`.

        Raises:
            DataError: A file is missing, damaged or of another size.
        """
        paths = file_paths(paths)
        result = np.empty((len(paths), self.embedding_size), np.float32)
        with tqdm(total=len(paths), desc=f"embedding ({self.name})", unit="image", disable=not progress) as bar:
            for start, chunk in _chunks(paths):
                result[start : start + len(chunk)] = self._chunk(chunk)
                bar.update(len(chunk))
        return result

    def _chunk(self, paths: Sequence[Path]) -> NDArray[np.float32]:
        if self.cache is None:
            return self.embed(read_images(paths, size=self.input_size))
        address = f"{self.fingerprint}/{self.flip}/{self.input_size}/{self.batch_size}"
        cache = EmbeddingCache(self.cache, address, self.embedding_size)
        return cache.embed_files(paths, self.embed, image_size=self.input_size)


def _chunks(paths: Sequence[Path]) -> Iterator[tuple[int, Sequence[Path]]]:
    for start in range(0, len(paths), CHUNK):
        yield start, paths[start : start + CHUNK]


def load_embedder(weights: str, *, batch_size: int = 64, flip: bool = False, cache: str = "") -> Embedder:
    """Embedder of known weights.

    Args:
        weights: Manifest name (`architecture.tag`), a model file, or an artefact of `iom deploy`,
            whose embeddings then come from its own runtime.
        batch_size: Images a call.
        flip: Average with the mirror image.
        cache: Folder of computed embeddings, or empty for none.

    Raises:
        WeightsError: Unknown, missing or damaged weights, or an unstated kind of input.
    """
    place = Path(cache) if cache else None
    if is_artefact(Path(weights)) and manifest_path(Path(weights)).is_file():
        from iom.models.artifact import ArtifactFaceHasher

        embedder = ArtifactFaceHasher.load(weights, batch_size=batch_size).embedder
        embedder.flip, embedder.cache = flip, place
        return embedder
    from iom.pretrained.manifest import load_backbone_model  # imports Keras

    loaded = load_backbone_model(weights)
    return Embedder(
        loaded.predict,
        name=loaded.name,
        fingerprint=loaded.fingerprint,
        embedding_size=loaded.embedding_size,
        input_size=loaded.input_size,
        batch_size=batch_size,
        flip=flip,
        cache=place,
    )
