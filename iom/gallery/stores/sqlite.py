"""The record store in a SQLite file."""

import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.schema import CreateIndex, CreateTable, DDLElement

from iom.errors import StoreError
from iom.gallery.stores.base import FORMAT, METADATA, RecordStore
from iom.gallery.stores.sqlite_file import Layout, SqliteFile, make_sqlite_file

OWNER = sa.Table(
    "owner",
    sa.MetaData(),
    sa.Column("one", sa.Integer, sa.CheckConstraint("one = 1"), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
)


def _schema() -> str:
    tables = [OWNER, *METADATA.sorted_tables]
    made: list[DDLElement] = [CreateTable(table) for table in tables]
    made += [CreateIndex(index) for table in tables for index in table.indexes]
    dialect = sqlite_dialect.dialect()
    return "".join(f"{each.compile(dialect=dialect)};\n" for each in made)


LAYOUT = Layout(noun="gallery", application_id=0x696F6D67, format=FORMAT)  # "iomg"
_READ_ONLY = "?mode=ro"
_ERRORS = (sqlite3.Error, sa.exc.DBAPIError, sa.exc.ResourceClosedError)


def open_url(url: str, *, create: bool = False, format: int = FORMAT) -> "SqliteStore":
    """The store of `sqlite:///path`; with `?mode=ro` behind it, for reading only."""
    place = url.removeprefix("sqlite://")
    path = place.removesuffix(_READ_ONLY)
    if not path.startswith("/") or len(path) < 2:
        raise StoreError(f"record store: expected sqlite:///path, received '{url}'")
    return SqliteStore(Path(path[1:]), read_only=place.endswith(_READ_ONLY), create=create, format=format)


class SqliteStore(RecordStore):
    """Record store in a SQLite file, which has two more beside it, for several processes of one machine."""

    _owner = sa.select(OWNER.c.name)
    _set_owner = sa.insert(OWNER).values(one=1, name=sa.bindparam("owner"))

    def __init__(self, path: Path, *, read_only: bool = False, create: bool = False, format: int = FORMAT) -> None:
        super().__init__(is_new=create)
        if create:
            make_sqlite_file(path, LAYOUT, _schema())
        layout = dataclasses.replace(LAYOUT, format=format)
        self._file = SqliteFile(path, layout, read_only=read_only, errors=_ERRORS)
        with self._file.locked() as raw:
            # Transactions are those of the file: SQLAlchemy begins and ends none.
            self._engine = sa.create_engine(
                "sqlite://",
                creator=lambda: raw,
                poolclass=sa.StaticPool,
                isolation_level="AUTOCOMMIT",
                hide_parameters=True,
            )
            self._connection = self._engine.connect()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator["SqliteStore"]:
        with contextlib.closing(SqliteStore(self._file.path, read_only=True)) as store, store._file.reading():
            store.chain = self.chain
            store.owner()  # the first read of the transaction fixes the state
            yield store

    def erase(self) -> None:
        self._file.vacuum()

    def close(self) -> None:
        with self._file.locked():
            self._connection.close()
            self._engine.dispose()
        self._file.close()

    def _rows(
        self, statement: sa.Executable, values: Mapping[str, Any] | None = None, *, whole_table: bool = False
    ) -> Sequence[Any]:
        with self._file.locked():
            return self._connection.execute(statement, values).all()

    @contextlib.contextmanager
    def _writing(self, *, deletes: bool = False) -> Iterator[sa.Connection]:
        with self._file.writing():
            yield self._connection
        if deletes:
            self._file.forget_log()

    def _is_among(self, column: sa.Column[Any], values: Collection[Any]) -> sa.ColumnElement[bool]:
        listed = sa.func.json_each(sa.literal(json.dumps(sorted(values)))).table_valued("value")
        return column.in_(sa.select(listed.c.value))

    def _set_format(self, connection: sa.Connection, number: int) -> None:
        connection.exec_driver_sql(f"PRAGMA user_version = {number}")

    def _medium_problems(self) -> list[str]:
        return self._file.problems()

    def _error(self, text: str) -> StoreError:
        return StoreError(f"{self._file.path}: {text}")
