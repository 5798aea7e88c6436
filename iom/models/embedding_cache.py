"""Cache of embeddings: one SQLite file for each embedder and way to use it, rows addressed by the image's SHA-256.

Whatever else changes the last bits of an embedding is in the name of the file: flip, image size and batch size (a batch
is padded to that size). Several processes may write at once. A damaged file or row is computed again.
"""

import contextlib
import hashlib
import sqlite3
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from iom.errors import DataError
from iom.photos.images import Pixels, decode_image

FORMAT = 1
SECONDS = 60.0
"""How long to wait for another process that is writing."""
_CHECK = 4

Rows = NDArray[np.float32]
T = TypeVar("T")


class EmbeddingCache:
    """Embeddings `(D,)` of one embedder in `folder`; `address` names all that they depend on besides the image."""

    def __init__(self, folder: Path, address: str, embedding_size: int) -> None:
        name = hashlib.sha256(f"iom/embeddings/{FORMAT}/{address}".encode()).hexdigest()
        self.path = folder / f"{name[:32]}.sqlite"
        self._size = embedding_size

    def embed_files(self, paths: Sequence[Path], embed: Callable[[Pixels], Rows], *, image_size: int) -> Rows:
        """Embeddings `(N, D)` of image files; `embed` (`(B, S, S, 3)` to `(B, D)`) gives those not stored yet."""
        with ThreadPoolExecutor(2) as pool:  # reading and decoding leave the interpreter free
            data = list(pool.map(_read, paths))
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
        found = {digest: self._row(digest, data) for digest, data in stored}
        return {digest: row for digest, row in found.items() if row is not None}

    def put(self, rows: Mapping[bytes, Rows]) -> None:
        """Store embeddings `(D,)` by the SHA-256 of their images' bytes."""
        stored = []
        for digest, row in rows.items():
            data = row.astype("<f4").tobytes()
            stored.append((digest, data + _check(digest, data)))

        def insert(database: sqlite3.Connection) -> None:
            with database:
                database.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", stored)

        self._use(insert)

    def _row(self, digest: bytes, stored: bytes) -> Rows | None:
        data, check = stored[:-_CHECK], stored[-_CHECK:]
        if len(data) != 4 * self._size or check != _check(digest, data):
            return None
        return np.frombuffer(data, "<f4").astype(np.float32)

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
        with contextlib.closing(sqlite3.connect(self.path, timeout=SECONDS)) as database:
            database.execute("CREATE TABLE IF NOT EXISTS embeddings (digest BLOB PRIMARY KEY, row BLOB) WITHOUT ROWID")
            return work(database)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read image {path}: {error.strerror}") from error


def _check(digest: bytes, data: bytes) -> bytes:
    return zlib.crc32(data, zlib.crc32(digest)).to_bytes(_CHECK, "big")
