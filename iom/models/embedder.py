"""Embedders: from images to unit-length embeddings, in batches of one size, computed once and cached."""

import contextlib
import dataclasses
import hashlib
import math
import re
import sqlite3
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from iom._progress import tqdm
from iom._registry import lookup
from iom.errors import DataError, WeightsError
from iom.keys import KEY_KINDS
from iom.models.artifact import Manifest, Session, is_artifact, manifest_path, open_artifact
from iom.nn.hash_numpy import padded_batches
from iom.photos.align import ARCFACE, TEMPLATES, FaceTemplate
from iom.photos.images import SIZE, Pixels, decode_image, face_pixels, file_paths, image_bytes, read_images

if TYPE_CHECKING:
    from iom.config import EmbedderConfig
    from iom.data.benchmarks.base import PairBenchmark
    from iom.pretrained.weights import LoadedBackbone

CHUNK = 512
"""Images read and stored at a time: an interrupted run loses at most this many."""
CACHE_FORMAT = 1
CACHE_SECONDS = 60.0
"""How long to wait for another process that is writing to the cache."""
_FUSION = re.compile(r"(?P<first>[^+]+)\+(?P<second>[^+]+)@(?P<weight>0?\.\d+)")
"""Name of a `FusedEmbedder`."""

Rows = NDArray[np.float32]
T = TypeVar("T")


class EmbeddingCache:
    """Cache of the embeddings `(D,)` of one embedder: an SQLite file in `folder`, by the SHA-256 of the image.

    `address` names all else that changes the last bits of an embedding: flip, image size, and batch size (a batch is
    padded to that size). Several processes may write at once. A damaged file or row is computed again.
    """

    def __init__(self, folder: Path, address: str, embedding_size: int) -> None:
        name = hashlib.sha256(f"iom/embeddings/{CACHE_FORMAT}/{address}".encode()).hexdigest()
        self.path = folder / f"{name[:32]}.sqlite"
        self._size = embedding_size

    def embed_files(self, paths: Sequence[Path], embed: Callable[[Pixels], Rows], *, image_size: int) -> Rows:
        """Embeddings `(N, D)` of image files; `embed` (`(B, S, S, 3)` to `(B, D)`) gives those not stored yet."""
        with ThreadPoolExecutor(2) as pool:  # reading and decoding leave the interpreter free
            data = list(pool.map(image_bytes, paths))
            digests = [hashlib.sha256(each).digest() for each in data]
            found = self.get(digests)
            places = {digest: i for i, digest in enumerate(digests) if digest not in found}
            missing = sorted(places.values())

            def decode(index: int) -> Pixels:
                return decode_image(data[index], str(paths[index]), size=image_size)

            images = list(pool.map(decode, missing))
        if missing:
            rows = embed(np.stack(images))
            new = {digests[index]: row for index, row in zip(missing, rows, strict=True)}
            self.put(new)
            found |= new
        return np.stack([found[digest] for digest in digests])

    def get(self, digests: Sequence[bytes]) -> dict[bytes, Rows]:
        """Stored embeddings of up to 32,766 images, by the SHA-256 of their bytes."""
        if not self.path.is_file():
            return {}
        wanted = list(dict.fromkeys(digests))
        query = f"SELECT digest, row FROM embeddings WHERE digest IN ({','.join('?' * len(wanted))})"  # noqa: S608
        stored = self._use(lambda database: database.execute(query, wanted).fetchall())
        size = 4 * self._size
        return {
            digest: np.frombuffer(data[:size], "<f4").astype(np.float32)
            for digest, data in stored
            if data[size:] == _check(digest, data[:size])
        }

    def put(self, rows: Mapping[bytes, Rows]) -> None:
        """Store embeddings `(D,)` by the SHA-256 of their images' bytes."""
        stored = [(digest, row.astype("<f4").tobytes()) for digest, row in rows.items()]
        checked = [(digest, data + _check(digest, data)) for digest, data in stored]
        self._use(lambda database: database.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", checked))

    def _use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` on the database; a damaged one is removed first, and begun anew."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return self._once(work)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                for path in (self.path, self.path.with_name(f"{self.path.name}-journal")):
                    path.unlink(missing_ok=True)
                return self._once(work)
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"cannot use the cache of embeddings in {self.path.parent}: {error}; name another "
                "folder (embedder.cache), or none"
            ) from error

    def _once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with contextlib.closing(sqlite3.connect(self.path, timeout=CACHE_SECONDS)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS embeddings (digest BLOB PRIMARY KEY, row BLOB) WITHOUT ROWID")
            return work(database)


@dataclasses.dataclass(eq=False, repr=False)
class Embedder:
    """A backbone with its sizes, identity and cache.

    Args:
        predict: Raw RGB pixels `(B, S, S, 3)` -> embedding `(B, D)` for one fixed B, such as `model.predict_on_batch`;
            S is the template's size, or `input_size` for ArcFace's.
        name: Name for reports.
        fingerprint: SHA-256 of the weights; codes of two embedders never compare.
        embedding_size: D.
        input_size: Side of the aligned faces that it takes; 112 where the network wants chips of another template,
            which are then made from ArcFace crops.
        template: How a face lies in the network's image; photographs are cut by it.
        batch_size: Images a call; a short batch is padded, so that the graph is traced once.
        flip: Average the embeddings of the image and its mirror image before normalising.
        cache: Folder of computed embeddings; `None` computes anew each time.
    """

    predict: Callable[[NDArray[np.float32]], Any]
    _: dataclasses.KW_ONLY
    name: str
    fingerprint: str
    embedding_size: int
    input_size: int = SIZE
    template: FaceTemplate = TEMPLATES[ARCFACE]
    batch_size: int = 64
    flip: bool = False
    cache: Path | None = None

    @classmethod
    def of_backbone(cls, loaded: "LoadedBackbone", *, batch_size: int) -> "Embedder":
        """The embedder of known weights or of a model file."""
        names = ("name", "fingerprint", "embedding_size")
        facts = {name: getattr(loaded, name) for name in names} | face_input(loaded.input.template, loaded.input.size)
        return cls(loaded.predict, batch_size=batch_size, **facts)

    def __repr__(self) -> str:
        flip = ", mean with the mirror image" if self.flip else ""
        return f"{type(self).__name__}({self.name}, {self.embedding_size} dimensions{flip})"

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed aligned faces.

        Args:
            images: RGB `(N, S, S, 3)`, uint8 0..255, S being `input_size`, or the size of the template for chips that
                were cut by it.

        Returns:
            `(N, D)`, unit length.

        Raises:
            DataError: Another size or type, such as floats in 0..1, which would give a worse result unnoticed.
            WeightsError: The model returns something other than finite `(N, D)` values.
        """
        return self.embed_pixels(self.chips(images))

    def chips(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Images as the network takes them, of aligned faces; arguments and errors as of `embed`."""
        is_chip = self.template.name != ARCFACE and len(images) > 0 and len(images[0]) == self.template.size
        size = self.template.size if is_chip else self.input_size
        return self.template.chips(face_pixels(images, self.name, size=size))

    def embed_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """`embed` for pixels 0..255 that need not be integers, such as augmented images."""
        if self.template.name != ARCFACE and pixels.shape[1] != self.template.size:
            pixels = self.template.chips(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
        raw = self._raw(pixels)
        if self.flip:
            raw = raw + self._raw(pixels[:, :, ::-1])
        return unit_rows(raw, self.name)

    def embed_files(self, paths: Sequence[Path | str], *, progress: bool = False) -> NDArray[np.float32]:
        """Embed image files; embeddings that the cache holds for the same bytes are not computed again.

        Returns:
            `(N, D)`, unit length, in the order of `paths`.

        Raises:
            DataError: A file is missing, damaged or of another size.
        """
        paths = file_paths(paths)
        result = np.empty((len(paths), self.embedding_size), np.float32)
        address = f"{self.fingerprint}/{self.flip}/{self.input_size}/{self.batch_size}"
        cache = EmbeddingCache(self.cache, address, self.embedding_size) if self.cache else None
        with tqdm(total=len(paths), desc=f"embedding ({self.name})", unit="image", disable=not progress) as bar:
            for start in range(0, len(paths), CHUNK):
                chunk = paths[start : start + CHUNK]
                if cache:
                    rows = cache.embed_files(chunk, self.embed, image_size=self.input_size)
                else:
                    rows = self.embed(read_images(chunk, size=self.input_size))
                result[start : start + len(chunk)] = rows
                bar.update(len(chunk))
        return result

    def with_batch_size(self, batch_size: int) -> "Embedder":
        """The same network, loaded once, with another number of images a call."""
        return dataclasses.replace(self, batch_size=batch_size)

    def _raw(self, images: NDArray[Any]) -> NDArray[np.float32]:
        result = np.empty((len(images), self.embedding_size), np.float32)
        for part, (batch,) in padded_batches(self.batch_size, images):
            rows = np.asarray(self.predict(batch.astype(np.float32)), np.float32)
            if rows.shape != (self.batch_size, self.embedding_size):
                raise WeightsError(
                    f"{self.name}: expected embeddings of size {self.embedding_size}, the model returned {rows.shape}"
                )
            result[part] = rows[: part.stop - part.start]
        return result


class FusedEmbedder(Embedder):
    """Embeddings [sqrt(w) a, sqrt(1 - w) b] of two embedders, a of `first` and b of `second`, with `weight` w in 0..1.

    Their cosine is w cos(a, a') + (1 - w) cos(b, b'). Each part keeps its own cache. The fingerprint covers both
    weights and w: codes of two fusions never compare.
    """

    def __init__(self, first: Embedder, second: Embedder, *, weight: float) -> None:
        if (first.input_size, first.template) != (second.input_size, second.template):
            raise WeightsError(
                f"two backbones are fused on the same images: {first.name} takes {first.input_size} pixels a side, "
                f"{second.name} {second.input_size} (templates {first.template.name} and {second.template.name})"
            )
        text = f"iom/fusion/v1/{first.fingerprint}/{second.fingerprint}/{weight!r}"
        super().__init__(
            self.embed_pixels,
            name=f"{first.name}+{second.name}@{weight:g}",
            fingerprint=hashlib.sha256(text.encode()).hexdigest(),
            embedding_size=first.embedding_size + second.embedding_size,
            input_size=first.input_size,
            template=first.template,
            batch_size=first.batch_size,
            flip=first.flip,
        )
        self.parts = (first, second)
        self.weight = weight

    def embed_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        return self._join(lambda part: part.embed_pixels(pixels))

    def embed_files(self, paths: Sequence[Path | str], *, progress: bool = False) -> NDArray[np.float32]:
        return self._join(lambda part: part.embed_files(paths, progress=progress))

    def with_batch_size(self, batch_size: int) -> "FusedEmbedder":
        first, second = (part.with_batch_size(batch_size) for part in self.parts)
        return FusedEmbedder(first, second, weight=self.weight)

    def _join(self, embed: Callable[[Embedder], NDArray[np.float32]]) -> NDArray[np.float32]:
        first, second = (embed(part) for part in self.parts)
        shares = math.sqrt(self.weight), math.sqrt(1.0 - self.weight)
        return np.concatenate([shares[0] * first, shares[1] * second], axis=1).astype(np.float32)


def load_embedder(weights: str, *, batch_size: int = 64, flip: bool = False, cache: str = "") -> Embedder:
    """Embedder of known weights.

    Args:
        weights: Manifest name (`architecture.tag`), a model file, an artefact of `iom deploy`, whose embeddings then
            come from its own runtime, or the name of a fusion, `first+second@weight`.
        batch_size: Images a call.
        flip: Average with the mirror image.
        cache: Folder of computed embeddings, or empty for none.

    Raises:
        WeightsError: Unknown, missing or damaged weights, or an unstated kind of input.
    """
    path = Path(weights)
    fusion = _FUSION.fullmatch(weights)
    if fusion and not path.exists():
        first, second = (
            load_embedder(fusion[part], batch_size=batch_size, flip=flip, cache=cache) for part in ("first", "second")
        )
        return FusedEmbedder(first, second, weight=float(fusion["weight"]))
    if is_artifact(path) and manifest_path(path).is_file():
        session, manifest = open_artifact(path)
        embedder = artifact_embedder(session, manifest, path=path, batch_size=batch_size)
    else:
        from iom.pretrained.weights import load_backbone_model  # imports synthetic faces

        embedder = Embedder.of_backbone(load_backbone_model(weights), batch_size=batch_size)
    embedder.flip = flip
    embedder.cache = Path(cache) if cache else None
    return embedder


def open_embedder(config: "EmbedderConfig") -> Embedder:
    """The embedder of a configuration: one backbone, or two fused."""
    first, *second = (
        load_embedder(weights, batch_size=config.batch_size, flip=config.flip, cache=config.cache)
        for weights in (config.weights, config.second_weights)
        if weights
    )
    return FusedEmbedder(first, *second, weight=config.fusion_weight) if second else first


def embed_benchmark(embedder: Embedder, benchmark: "PairBenchmark", *, progress: bool = False) -> NDArray[np.float32]:
    """Embeddings of what a benchmark compares, `(N, D)`, unit length: images, or groups of them."""
    images = benchmark.images
    if isinstance(images, tuple):
        rows = embedder.embed_files(images, progress=progress)
    else:
        starts = range(0, len(images), CHUNK)
        bar = tqdm(starts, desc=f"embedding ({embedder.name})", unit="batch", disable=not progress)
        rows = np.concatenate([embedder.embed(images[start : start + CHUNK]) for start in bar])
    return rows if benchmark.pooling is None else benchmark.pooling.pooled(rows)


def face_input(template: str, size: int) -> dict[str, Any]:
    """`input_size` and `template` of an embedder whose network takes images of that template and side.

    Raises:
        WeightsError: An unknown template, or one of another size.
    """
    found = lookup(TEMPLATES, template, "face template")
    if found.name == ARCFACE:
        return {"input_size": size, "template": found}
    if size != found.size:
        raise WeightsError(f"a face of template '{template}' has {found.size} pixels a side, {size} are stated")
    return {"input_size": SIZE, "template": found}


def artifact_embedder(session: Session, manifest: Manifest, *, path: Path, batch_size: int) -> Embedder:
    """The embedder in an artefact, with the artefact's fingerprint, or that of known weights which it is alone."""
    order = KEY_KINDS[manifest.key_kind].identity(manifest.key_size)

    def predict(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return session(pixels, np.tile(order, (len(pixels), 1)))[1]

    return Embedder(
        predict,
        name=path.name if manifest.hashes else manifest.embedder["name"],
        fingerprint=manifest.embedder_fingerprint,
        embedding_size=manifest.embedding_size,
        batch_size=batch_size,
        **face_input(manifest.template, manifest.input_size),
    )


def unit_rows(rows: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Embeddings brought to unit length; `WeightsError` where one is zero or not finite."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise WeightsError(f"{name}: the embedding of an image is zero or not finite")
    unit: NDArray[np.float32] = rows / norms
    return unit


def _check(digest: bytes, data: bytes) -> bytes:
    return zlib.crc32(data, zlib.crc32(digest)).to_bytes(4, "big")
