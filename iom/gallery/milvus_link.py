"""What is asked of Milvus, in a few verbs; binary vectors by number, exact Hamming search."""

import abc
import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iom.errors import StoreError
from iom.gallery.closing import Closing

MOST_ROWS = 16384
"""Rows that Milvus gives in one answer at most."""
_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_Field = tuple[str, Any, dict[str, Any]]
_MOST_SENT = 2048  # rows at a time: a message is limited to some megabytes


class Mark(NamedTuple):
    """How far the vectors of an application follow the record store.

    Attributes:
        generation: Part of the names of the collections they are in.
        epochs: Number of those.
        version: Of the application.
        sequence: Of an entry of the audit log that is not older than that.
        digest: Of that entry, in hexadecimal: it tells one history from another.
    """

    generation: str
    epochs: int
    version: int
    sequence: int
    digest: str


class Row(NamedTuple):
    """A number and its vector."""

    record: int
    word: bytes


class Near(NamedTuple):
    """A number and the Hamming distance of its vector."""

    record: int
    distance: int


class VectorLink(Closing):
    """Collections of binary vectors by number, and marks by name; errors are `StoreError`."""

    @abc.abstractmethod
    def collections(self) -> list[str]:
        """Names of all collections."""

    @abc.abstractmethod
    def create(self, collection: str, dimension: int) -> None:
        """Make a collection, if it is not there."""

    @abc.abstractmethod
    def drop(self, collection: str) -> None:
        """Delete a collection, if it is there."""

    @abc.abstractmethod
    def put(self, collection: str, rows: Sequence[Row]) -> None:
        """Add vectors, or write them anew."""

    @abc.abstractmethod
    def delete(self, collection: str, records: Sequence[int]) -> None:
        """Delete vectors; those that are not there do no harm."""

    @abc.abstractmethod
    def between(self, collection: str, first: int, end: int) -> list[Row]:
        """Vectors of the numbers from `first` to below `end`, at most `MOST_ROWS`."""

    @abc.abstractmethod
    def count(self, collection: str) -> int:
        """Number of vectors."""

    @abc.abstractmethod
    def search(
        self, collection: str, word: bytes, *, limit: int, within: int, first: int, end: int
    ) -> list[Near]:
        """The `limit` nearest, at most `within` away, of the numbers `first` to below `end`."""

    @abc.abstractmethod
    def mark(self, marks: str, name: str) -> Mark | None:
        """The mark of a name in the collection `marks`, if there is one."""

    @abc.abstractmethod
    def set_mark(self, marks: str, name: str, mark: Mark) -> None:
        """Write a mark, at once."""

    @abc.abstractmethod
    def compact(self) -> None:
        """Have the medium forget what was dropped, as far as it can be asked to."""


class MilvusLink(VectorLink):
    """A client of a Milvus server of the 2.5 line, or of its embedded edition.

    Args:
        uri: `http://host:port`, or the path of an embedded database.
        name: For messages.
        secret: `user:password` or a token; may be empty.
        database: Of the server; may be empty.
    """

    def __init__(self, uri: str, *, name: str, secret: str = "", database: str = "") -> None:
        self._name = name
        self._secret = secret
        self._arguments = {"uri": uri, "token": secret, "db_name": database}
        self._client: Any = None
        self._loaded: set[str] = set()
        self._open()

    def collections(self) -> list[str]:
        """See `VectorLink.collections`."""
        with self._asking() as client:
            return list(client.list_collections(timeout=_SECONDS))

    def create(self, collection: str, dimension: int) -> None:
        """See `VectorLink.create`."""
        from pymilvus import DataType

        fields: list[_Field] = [
            ("record", DataType.INT64, {"is_primary": True}),
            ("word", DataType.BINARY_VECTOR, {"dim": dimension}),
        ]
        self._create(collection, fields, "word")

    def drop(self, collection: str) -> None:
        """See `VectorLink.drop`."""
        with self._asking() as client:
            self._loaded.discard(collection)
            if client.has_collection(collection, timeout=_SECONDS):
                client.drop_collection(collection, timeout=_SECONDS)

    def put(self, collection: str, rows: Sequence[Row]) -> None:
        """See `VectorLink.put`."""
        with self._asking() as client:
            for start in range(0, len(rows), _MOST_SENT):
                part = [row._asdict() for row in rows[start : start + _MOST_SENT]]
                client.upsert(collection, part, timeout=_SECONDS)

    def delete(self, collection: str, records: Sequence[int]) -> None:
        """See `VectorLink.delete`."""
        with self._asking() as client:
            for start in range(0, len(records), _MOST_SENT):
                part = list(map(int, records[start : start + _MOST_SENT]))
                client.delete(collection, ids=part, timeout=_SECONDS)

    def between(self, collection: str, first: int, end: int) -> list[Row]:
        """See `VectorLink.between`."""
        with self._asking(collection) as client:
            found = client.query(
                collection,
                filter=_range(first, end),
                output_fields=["record", "word"],
                limit=MOST_ROWS,
                consistency_level="Strong",
                timeout=_SECONDS,
            )
            return [Row(int(row["record"]), bytes(row["word"][0])) for row in found]

    def count(self, collection: str) -> int:
        """See `VectorLink.count`."""
        with self._asking(collection) as client:
            fields = ["count(*)"]
            found = client.query(
                collection, output_fields=fields, consistency_level="Strong", timeout=_SECONDS
            )
            return int(found[0]["count(*)"])

    def search(
        self, collection: str, word: bytes, *, limit: int, within: int, first: int, end: int
    ) -> list[Near]:
        """See `VectorLink.search`."""
        with self._asking(collection) as client:
            # Milvus takes the radius itself out; not every edition reads it as more than an integer
            settings = {"metric_type": "HAMMING", "params": {"radius": within + 1}}
            (found,) = client.search(
                collection,
                data=[word],
                filter=_range(first, end),
                limit=limit,
                search_params=settings,
                consistency_level="Strong",
                timeout=_SECONDS,
            )
            near = [Near(int(hit["id"]), round(hit["distance"])) for hit in found]
            return [each for each in near if each.distance <= within]

    def mark(self, marks: str, name: str) -> Mark | None:
        """See `VectorLink.mark`."""
        self._create_marks(marks)
        with self._asking(marks) as client:
            found = client.get(marks, ids=[name], consistency_level="Strong", timeout=_SECONDS)
            return Mark(*(found[0][field] for field in Mark._fields)) if found else None

    def set_mark(self, marks: str, name: str, mark: Mark) -> None:
        """See `VectorLink.set_mark`."""
        self._create_marks(marks)
        with self._asking() as client:
            row = {"name": name, "unused": b"\x00", **mark._asdict()}
            client.upsert(marks, [row], timeout=_SECONDS)

    def compact(self) -> None:
        """See `VectorLink.compact`.

        A server removes files of dropped collections by itself. The embedded edition, a SQLite
        file, keeps their bytes: it is stopped, the file written anew, and started again.
        """
        if not self._is_embedded:
            return
        from milvus_lite.server_manager import server_manager_instance

        path = Path(self._arguments["uri"])
        self._client.close()
        self._client = None
        try:
            server_manager_instance.release_server(str(path.absolute().resolve()))
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("VACUUM")
        except sqlite3.Error as error:
            raise StoreError(f"{self._name}: its file could not be written anew") from error
        finally:
            self._open()

    def close(self) -> None:
        """See `Closing.close`."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def _is_embedded(self) -> bool:
        return "://" not in self._arguments["uri"]

    def _open(self) -> None:
        from pymilvus import MilvusClient

        self._loaded.clear()
        if self._is_embedded:
            # Codes are nobody else's business.
            try:
                os.close(os.open(self._arguments["uri"], os.O_CREAT | os.O_RDWR, 0o600))
            except OSError as error:
                raise StoreError(f"{self._name}: cannot be made: {error.strerror}") from error
        # What it logs as an error comes as a `StoreError` from here.
        for name in [
            name for name in logging.root.manager.loggerDict if name.startswith("pymilvus")
        ]:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with self._explained():
            self._client = MilvusClient(**self._arguments, timeout=_CONNECT_SECONDS)

    def _create_marks(self, marks: str) -> None:
        from pymilvus import DataType

        if marks in self._loaded:
            return
        fields: list[_Field] = [
            ("name", DataType.VARCHAR, {"is_primary": True, "max_length": 200}),
            ("unused", DataType.BINARY_VECTOR, {"dim": 8}),  # Milvus wants a vector in each
            *((field, DataType.VARCHAR, {"max_length": 200}) for field in ("generation", "digest")),
            *((field, DataType.INT64, {}) for field in ("epochs", "version", "sequence")),
        ]
        self._create(marks, fields, "unused")

    def _create(self, collection: str, fields: Sequence[_Field], vector: str) -> None:
        with self._asking() as client:
            if client.has_collection(collection, timeout=_SECONDS):
                return
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            for name, kind, options in fields:
                schema.add_field(name, kind, **options)
            index = client.prepare_index_params()
            index.add_index(vector, index_type="BIN_FLAT", metric_type="HAMMING")
            client.create_collection(
                collection,
                schema=schema,
                index_params=index,
                consistency_level="Strong",
                timeout=_SECONDS,
            )

    @contextlib.contextmanager
    def _asking(self, collection: str = "") -> Iterator[Any]:
        """The client; what is to be read from `collection` is loaded first."""
        if self._client is None:
            raise StoreError(f"{self._name}: the gallery is closed")
        with self._explained():
            if collection and collection not in self._loaded:
                self._client.load_collection(collection, timeout=_SECONDS)
                self._loaded.add(collection)
            yield self._client

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        import grpc
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except (MilvusException, grpc.RpcError) as error:
            self._loaded.clear()
            text = getattr(error, "message", "") or type(error).__name__
            text = " ".join(str(text).split())[:200]
            for secret in filter(None, [self._secret, self._secret.partition(":")[2]]):
                text = text.replace(secret, "***")
            raise StoreError(f"{self._name}: Milvus: {text}") from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name})"


def _range(first: int, end: int) -> str:
    return f"record >= {first} and record < {end}"
