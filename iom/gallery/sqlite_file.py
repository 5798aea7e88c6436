"""The SQLite file of a record store: schema, settings, transactions, and errors in one line."""

import contextlib
import os
import sqlite3
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from iom.errors import StoreError, StoreNotFoundError

APPLICATION_ID = 0x696F6D67  # "iomg", in the file's header
FORMAT = 1
BUSY_SECONDS = 30.0
CHECKPOINT_MILLISECONDS = 200
CACHE_KILOBYTES = 65536
SMALL_CACHE_KILOBYTES = 2048

_SCHEMA = """
CREATE TABLE owner (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL);
CREATE TABLE applications (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, encoding TEXT NOT NULL, model TEXT NOT NULL,
    threshold INTEGER NOT NULL, key_mode TEXT NOT NULL, masked INTEGER NOT NULL,
    epoch INTEGER NOT NULL, created INTEGER NOT NULL,
    version INTEGER NOT NULL DEFAULT 0, next_record INTEGER NOT NULL DEFAULT 0);
CREATE TABLE reference_codes (
    application INTEGER NOT NULL REFERENCES applications (id), record INTEGER NOT NULL,
    subject TEXT NOT NULL, slot INTEGER NOT NULL, epoch INTEGER NOT NULL, code BLOB NOT NULL,
    seal BLOB NOT NULL, metadata TEXT NOT NULL, created INTEGER NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (application, record)) WITHOUT ROWID;
CREATE UNIQUE INDEX slots ON reference_codes (application, subject, slot);
CREATE INDEX added ON reference_codes (application, version);
CREATE TABLE tombstones (
    application INTEGER NOT NULL REFERENCES applications (id), record INTEGER NOT NULL,
    subject TEXT NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (application, record)) WITHOUT ROWID;
CREATE INDEX revoked ON tombstones (application, version);
CREATE INDEX revoked_subjects ON tombstones (application, subject);
CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY, time INTEGER NOT NULL, action TEXT NOT NULL,
    application TEXT NOT NULL, count INTEGER NOT NULL, subjects BLOB NOT NULL,
    key_entries INTEGER NOT NULL, previous BLOB NOT NULL, digest BLOB NOT NULL);
"""


class SqliteFile:
    """One connection, used by one thread at a time; other processes have their own.

    Write-ahead log, so that readers never wait for the writer; `synchronous=FULL`, so that what is
    committed is on the disk; `secure_delete`, so that a deleted code is overwritten with zeros.

    Args:
        path: The file.
        read_only: Refuse writes.
        create: Make it; it must not be there.
    """

    def __init__(self, path: Path, *, read_only: bool = False, create: bool = False) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        if create:
            self._make()
        elif not path.is_file():
            raise StoreNotFoundError(
                f"no gallery at {path}; make one with: iom init", place=str(path)
            )
        mode = "ro" if read_only else "rw"
        with self._explained():
            self._connection = sqlite3.connect(
                f"file:{urllib.parse.quote(str(path.absolute()))}?mode={mode}",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            self._set_up(create=create, read_only=read_only)

    def _make(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Codes are nobody else's business; the log files get the mode of this one.
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError as error:
            raise StoreError(
                f"{self.path}: there is a file already; nothing was changed"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot make {self.path}: {error.strerror}") from error

    def _set_up(self, *, create: bool, read_only: bool) -> None:
        run = self._open().execute
        run("PRAGMA foreign_keys = ON")
        run("PRAGMA secure_delete = ON")
        run("PRAGMA trusted_schema = OFF")
        if create:
            run(f"PRAGMA application_id = {APPLICATION_ID}")
            run(f"PRAGMA user_version = {FORMAT}")
            run("PRAGMA journal_mode = WAL")
            self._open().executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        kind, version = (
            run(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if (kind, version) != (APPLICATION_ID, FORMAT):
            self.close()
            raise StoreError(
                f"{self.path}: expected a gallery of format {FORMAT}, found another SQLite file "
                f"(application {kind}, version {version})"
            )
        if not read_only:
            run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run(
            f"PRAGMA cache_size = {-CACHE_KILOBYTES}"
        )  # SQLite's own two megabytes spill in batches

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query."""
        with self._lock, self._explained():
            return self._open().execute(statement, values).fetchall()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the write lock from its start; rolled back on any error."""
        with self._lock, self._explained():
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk has rolled it back by itself
                    connection.execute("ROLLBACK")
                raise

    def forget_log(self) -> None:
        """Move the log into the file and empty it: it holds pages as they were before a deletion.

        A reader in another process may hold it for a moment; then the next deletion, or `vacuum`,
        does it.
        """
        with self._lock, self._explained():
            run = self._open().execute
            run(f"PRAGMA busy_timeout = {CHECKPOINT_MILLISECONDS}")
            try:
                run("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                run(f"PRAGMA busy_timeout = {int(1000 * BUSY_SECONDS)}")

    def rows_once(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Rows of a query that passes over much, without keeping its pages in memory."""
        with self._lock, self._explained():
            run = self._open().execute
            run(f"PRAGMA cache_size = {-SMALL_CACHE_KILOBYTES}")
            try:
                return run(statement, values).fetchall()
            finally:
                run(f"PRAGMA cache_size = {-CACHE_KILOBYTES}")

    def vacuum(self) -> None:
        """Write the whole file anew, without free pages, and empty the log.

        Raises:
            StoreError: Somebody else is reading: the log still holds old pages.
        """
        with self._lock, self._explained():
            run = self._open().execute
            run("VACUUM")
            if run("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise StoreError(
                    f"{self.path}: another process is using it, so its log could not be emptied; "
                    "stop it and try again"
                )

    def problems(self) -> list[str]:
        """What SQLite finds wrong with the file."""
        found = []
        try:
            found = [str(row[0]) for row in self.rows("PRAGMA integrity_check(20)")]
            if found == ["ok"]:
                found = [
                    f"a row of {row[0]} belongs to no application"
                    for row in self.rows("PRAGMA foreign_key_check")
                ]
        except StoreError as error:
            return [str(error)]
        return [f"{self.path}: {' '.join(text.split())}" for text in found]

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"{self.path}: the gallery is closed")
        return self._connection

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {_advice(error)}") from error


def _advice(error: sqlite3.Error) -> str:
    """What a user can do about an error of SQLite; its text holds no values of ours."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    known = {
        sqlite3.SQLITE_FULL: "the disk is full; nothing was written. Make room and try again",
        sqlite3.SQLITE_READONLY: "is open for reading only, or its file or folder is; nothing was "
        "written. Give this user the right to write",
        sqlite3.SQLITE_BUSY: f"another process has been writing for {BUSY_SECONDS:.0f} s; nothing "
        "was written. Try again",
        sqlite3.SQLITE_CORRUPT: "is damaged; take it from a backup, or save what can be read with "
        "iom export",
        sqlite3.SQLITE_NOTADB: "is no gallery, or its start is damaged; take it from a backup",
        sqlite3.SQLITE_CANTOPEN: "cannot be opened; check the path and the rights",
        sqlite3.SQLITE_IOERR: "the disk reports an error; nothing was written",
    }
    return known.get(code, f"SQLite: {error}")
