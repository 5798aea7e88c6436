"""SQLite files with settings, transactions and errors of one line, for record stores and key stores.

Write-ahead log, so that readers never wait for the writer; `synchronous=FULL`, so that committed content is on the
disk; `secure_delete`, so that deleted content is overwritten with zeros.
"""

import contextlib
import dataclasses
import os
import sqlite3
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from iom._files import SECRET_MODE, atomic_path
from iom.errors import StoreError, StoreNotFoundError
from iom.gallery.models import tampered

BUSY_SECONDS = 30.0
CHECKPOINT_MILLISECONDS = 200
CACHE_KILOBYTES = 65536
_KINDS = ("integer", "text", "blob")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A kind of SQLite file: its name in messages, and application id and format in its header."""

    noun: str
    application_id: int
    format: int


class SqliteFile:
    """One connection to a file of a kind, used by one thread at a time; `errors` mean that SQLite failed."""

    def __init__(
        self,
        path: Path,
        layout: Layout,
        *,
        read_only: bool = False,
        errors: tuple[type[Exception], ...] = (sqlite3.Error,),
    ) -> None:
        self.path = path
        self._layout, self._errors = layout, errors
        self._lock = threading.RLock()
        if not path.is_file():
            raise StoreNotFoundError(
                f"no {layout.noun} at {path}; make one with iom init, or create=True", place=str(path)
            )
        mode = "mode=ro" if read_only else "mode=rw"
        if read_only and not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists():
            mode += "&immutable=1"  # else SQLite makes files beside it
        with self._explained():
            self._inode = _inode_of(path)
            self._connection = sqlite3.connect(
                f"file:{urllib.parse.quote(str(path.absolute()))}?{mode}",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._set_up(read_only=read_only)
            except BaseException:
                self.close()
                raise

    def _set_up(self, *, read_only: bool) -> None:
        run = self._connection.execute
        run("PRAGMA foreign_keys = ON")
        run("PRAGMA secure_delete = ON")
        run("PRAGMA cell_size_check = ON")
        run("PRAGMA trusted_schema = OFF")
        kind, version = (run(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        known = self._layout
        if (kind, version) != (known.application_id, known.format):
            found = f"another SQLite file (application {kind}, version {version})"
            if kind == known.application_id and version < known.format:
                found = f"format {version}; convert it with: iom migrate"
            raise StoreError(f"{self.path}: expected a {known.noun} of format {known.format}, found {found}")
        if run("SELECT 1 FROM sqlite_master WHERE type IN ('trigger', 'view')").fetchone():
            raise tampered(f"{self.path}: holds triggers or views, which a {known.noun} never has")
        if not read_only:
            run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run(f"PRAGMA cache_size = {-CACHE_KILOBYTES}")  # a batch of enrolments does not fit into the default of 2 MB

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query."""
        with self.locked() as connection:
            return connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def locked(self) -> Iterator[sqlite3.Connection]:
        """The connection, held by this thread, with explained errors."""
        with self._lock, self._explained():
            yield self._connection

    def check_place(self) -> None:
        """Raise `StoreError` if the file was moved or replaced since it was opened."""
        if _inode_of(self.path) != self._inode:
            raise StoreError(
                f"{self.path}: the file was replaced while it was open; nothing was written. Start this program again"
            )

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction in which all queries see one state."""
        with self.locked() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the write lock from its start; rolled back on any error."""
        with self.locked() as connection:
            self.check_place()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk has rolled it back by itself
                    connection.execute("ROLLBACK")
                raise

    def forget_log(self) -> None:
        """Empty the log, which holds pages as before a deletion; where a reader holds it, the next deletion does it."""
        with self.locked() as connection:
            run = connection.execute
            run(f"PRAGMA busy_timeout = {CHECKPOINT_MILLISECONDS}")
            try:
                run("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                run(f"PRAGMA busy_timeout = {int(1000 * BUSY_SECONDS)}")

    def vacuum(self) -> None:
        """Rewrite the file without free pages, and empty the log, unless another process is reading it."""
        with self.locked() as connection:
            run = connection.execute
            run("VACUUM")
            if run("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise StoreError(
                    f"{self.path}: another process is using it, so its log could not be emptied; stop it and try again"
                )

    def problems(self) -> list[str]:
        """Problems that SQLite finds in the file, and columns with values of another type."""
        try:
            found = [str(row[0]) for row in self.rows("PRAGMA integrity_check(20)")]
            if found == ["ok"]:
                found = [
                    f"a row of {row[0]} belongs to no application" for row in self.rows("PRAGMA foreign_key_check")
                ]
                found += self._wrong_types()
        except StoreError as error:
            return [str(error)]
        return [f"{self.path}: {' '.join(text.split())}" for text in found]

    def _wrong_types(self) -> Iterator[str]:
        """SQLite keeps a value of any type in any column."""
        tables = self.rows("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        for (table,) in tables:
            columns = self.rows("SELECT name, lower(type) FROM pragma_table_info(?)", (table,))
            wrong = " OR ".join(f"typeof({_quoted(name)}) <> '{kind}'" for name, kind in columns if kind in _KINDS)
            query = f"SELECT COUNT(*) FROM {_quoted(table)} WHERE {wrong or 0}"  # noqa: S608
            ((count,),) = self.rows(query)
            if count:
                yield f"table {table}: {count} rows with a value of a wrong type"

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            cause = getattr(error, "orig", error)
            raise StoreError(f"{self.path}: {_advice(cause, self._layout.noun)}") from cause
        except OverflowError as error:
            raise tampered(f"{self.path}: holds a number that is too large") from error


def make_sqlite_file(
    path: Path, layout: Layout, schema: str, fill: Callable[[sqlite3.Connection], None] = lambda connection: None
) -> None:
    """Make a new file with mode 0600, complete or not at all, with the tables of `schema` and the rows of `fill`."""
    try:
        with (
            atomic_path(path, mode=SECRET_MODE, replace=False) as temporary,
            contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as connection,
        ):
            connection.execute(f"PRAGMA application_id = {layout.application_id}")
            connection.execute(f"PRAGMA user_version = {layout.format}")
            connection.executescript(f"BEGIN IMMEDIATE; {schema} COMMIT;")
            fill(connection)
    except FileExistsError as error:
        raise StoreError(f"{path}: there is a file already; nothing was changed") from error
    except OSError as error:
        raise StoreError(f"cannot make {path}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise StoreError(f"cannot make {path}: {_advice(error, layout.noun)}") from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _inode_of(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - asked for at each write; half the time of Path.stat
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


def _advice(error: BaseException | None, noun: str) -> str:
    """Meaning of an error of SQLite, whose text holds no values of rows, and what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    known = {
        sqlite3.SQLITE_FULL: "the disk is full; nothing was written. Make room and try again",
        sqlite3.SQLITE_READONLY: "is open for reading only, or its file or folder is; nothing was "
        "written. Give this user the right to write, or open it with ?mode=ro behind its path",
        sqlite3.SQLITE_BUSY: f"another process has been writing for {BUSY_SECONDS:.0f} s; nothing "
        "was written. Try again",
        sqlite3.SQLITE_CORRUPT: f"the {noun} is damaged; take it from a backup",
        sqlite3.SQLITE_NOTADB: f"expected a {noun}, found another file or one whose start is "
        "damaged; take it from a backup",
        sqlite3.SQLITE_CANTOPEN: "cannot be opened; check the path and the rights. On a read-only "
        "file system, put ?mode=ro behind the path",
        sqlite3.SQLITE_IOERR: "the disk reports an error; nothing was written",
    }
    return known.get(code, f"SQLite: {error}")
