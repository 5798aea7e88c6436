"""One connection to a PostgreSQL gallery: schema, settings, transactions, and lost connections."""

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from iom.errors import StoreError, StoreNotFoundError
from iom.gallery.stores.postgres_dsn import Place

FORMAT = 2
OLDEST = 120000  # the first with MATERIALIZED
CONNECT_SECONDS = 10
LOCK_SECONDS = 30
STATEMENT_SECONDS = 60
RECONNECT_SECONDS = 15.0
"""How long a connection that was lost is tried again: about the time a server takes to restart."""

# Names and subjects are compared byte by byte, whatever the language of the database.
_SCHEMA: LiteralString = """
CREATE TABLE gallery (
    one integer PRIMARY KEY CHECK (one = 1), format integer NOT NULL, owner text NOT NULL);
CREATE TABLE applications (
    id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text COLLATE "C" NOT NULL UNIQUE,
    encoding text NOT NULL, model text NOT NULL, threshold integer NOT NULL,
    key_mode text NOT NULL, masked boolean NOT NULL, epoch integer NOT NULL,
    created bigint NOT NULL, revision bigint NOT NULL, seal bytea NOT NULL,
    version bigint NOT NULL DEFAULT 0);
CREATE TABLE reference_codes (
    application integer NOT NULL REFERENCES applications (id), record bigint NOT NULL,
    subject text COLLATE "C" NOT NULL, slot integer NOT NULL, epoch integer NOT NULL,
    code bytea NOT NULL, seal bytea NOT NULL, metadata text NOT NULL, created bigint NOT NULL,
    version bigint NOT NULL, PRIMARY KEY (application, record),
    CONSTRAINT slots UNIQUE (application, subject, slot));
CREATE INDEX added ON reference_codes (application, version);
CREATE TABLE tombstones (
    application integer NOT NULL REFERENCES applications (id), record bigint NOT NULL,
    subject text COLLATE "C" NOT NULL, epoch integer NOT NULL, seal bytea NOT NULL,
    version bigint NOT NULL, PRIMARY KEY (application, record));
CREATE INDEX revoked ON tombstones (application, version);
CREATE INDEX revoked_subjects ON tombstones (application, subject);
CREATE TABLE audit (
    sequence bigint PRIMARY KEY, time bigint NOT NULL, action text NOT NULL,
    application text NOT NULL, count integer NOT NULL, subjects bytea NOT NULL,
    key_entries bigint NOT NULL, valid bigint NOT NULL, revoked bigint NOT NULL,
    revision bigint NOT NULL, previous bytea NOT NULL, digest bytea NOT NULL);
CREATE INDEX audit_applications ON audit (application, sequence);
CREATE TABLE writers (id uuid PRIMARY KEY, write bigint NOT NULL, at timestamptz NOT NULL);
"""


class PostgresConnection:
    """Used by one thread at a time; other processes have their own.

    A write begins by locking the one row of the table `gallery`. So writes happen one after the
    other, as the chain of the audit log and the order of the versions need it, and each sees all
    that was committed before. Readers never wait. A connection that is lost is made again: before a
    write or for a read without a word; within a write nothing was written, which is said. Each
    write leaves its number in the table `writers`, so that after a commit without an answer it can
    be looked up whether it was done. (Numbers of transactions would not do: a server that crashed
    may give out the number of one that was lost a second time.)

    Args:
        place: Where.
        create: Make the tables; they must not be there.
        format: Of the tables that are expected.
    """

    def __init__(self, place: Place, *, create: bool = False, format: int = FORMAT) -> None:
        self.place = place
        self._format = format
        self._lock = threading.RLock()
        self._connection: psycopg.Connection[Any] | None = None
        self._is_closed = self._is_writing = self._is_still = False
        self._writer, self._write = uuid.uuid4(), 0
        try:
            self._connection = self._connect()
        except psycopg.Error as error:
            raise place.unreachable(error) from None
        try:
            with self._explained():
                self._check(create=create)
        except BaseException:
            self.close()
            raise

    def rows(
        self, statement: LiteralString, values: Sequence[Any] | Mapping[str, Any] = (), *, patient: bool = False
    ) -> list[Any]:
        """All rows of a query.

        Args:
            statement: With `%s` or `%(name)s` for values.
            values: Bound, never part of the statement.
            patient: For what may take longer than `STATEMENT_SECONDS`.
        """
        with self._lock, self._explained():
            if patient:
                with self._patience() as connection:
                    return connection.execute(statement, values).fetchall()
            try:
                return self._live().execute(statement, values).fetchall()
            except psycopg.OperationalError:
                if self._is_writing or self._is_still or not self._is_lost():
                    raise
            return self._again().execute(statement, values).fetchall()

    @contextlib.contextmanager
    def writing(self) -> Iterator[psycopg.Connection[Any]]:
        """A transaction that holds the write lock from its start; rolled back on any error."""
        if self._is_still:
            raise self.place.wrong("is open for reading only; nothing was written")
        with self._lock, self._explained():
            self._begin()
            self._is_writing = True
            try:
                yield self._live()
                self._commit()
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._is_writing = False

    @contextlib.contextmanager
    def still(self) -> Iterator["PostgresConnection"]:
        """A connection of its own for reading, in a transaction that sees no later writes."""
        other = PostgresConnection(self.place)
        try:
            with other._explained():
                connection = other._live()
                connection.execute("SET idle_in_transaction_session_timeout = 0")
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                connection.execute("SELECT 1 FROM gallery").fetchall()  # from here on it stays
            other._is_still = True
            yield other
        finally:
            other.close()

    def vacuum(self) -> None:
        """Write the tables anew, without what was deleted.

        Raises:
            StoreError: An older transaction can still see what was deleted.
        """
        kept: list[str] = []
        with self._lock, self._explained(), self._patience() as connection:
            connection.add_notice_handler(lambda note: kept.append(note.message_detail or ""))
            for table in ("reference_codes", "tombstones", "applications"):
                connection.execute(sql.SQL("VACUUM (FULL, VERBOSE) {}").format(sql.Identifier(table)))
            # Without the right to do it, the server does it by itself within minutes.
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                connection.execute("CHECKPOINT")
        counts = [detail.split(maxsplit=1)[0] for detail in kept if detail.strip()]
        if any(count.isdigit() and int(count) for count in counts):
            raise self.place.wrong(
                "an older transaction of another process still sees what was deleted; end it and try again"
            )

    def close(self) -> None:
        """Give the connection back; a second call does nothing."""
        with self._lock:
            self._is_closed = True
            if self._connection is not None:
                with contextlib.suppress(psycopg.Error):
                    if self._write:
                        self._connection.execute("DELETE FROM writers WHERE id = %s", (self._writer,))
                self._connection.close()
                self._connection = None

    def _connect(self) -> psycopg.Connection[Any]:
        settings = {
            "connect_timeout": str(CONNECT_SECONDS),
            "application_name": "iom",
            "keepalives_idle": "30",
            "tcp_user_timeout": str(1000 * STATEMENT_SECONDS),
            **self.place.parameters,
            "client_encoding": "UTF8",
        }
        connection = psycopg.connect(**settings, autocommit=True)  # type: ignore[arg-type]
        for name, value in (
            ("search_path", self.place.schema),
            ("lock_timeout", f"{LOCK_SECONDS}s"),
            ("statement_timeout", f"{STATEMENT_SECONDS}s"),
            # A process that hangs in the middle of a write must not stop all others for ever.
            ("idle_in_transaction_session_timeout", f"{STATEMENT_SECONDS}s"),
        ):
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        return connection

    def _again(self) -> psycopg.Connection[Any]:
        """A new connection in place of one that was lost."""
        deadline = time.monotonic() + RECONNECT_SECONDS
        while True:
            try:
                self._connection = self._connect()
                return self._connection
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise self.place.unreachable(error) from None
            time.sleep(0.2)

    def _check(self, *, create: bool) -> None:
        connection = self._live()
        if connection.info.server_version < OLDEST:
            raise self.place.wrong(f"expected PostgreSQL {OLDEST // 10000} or later")
        ((known,),) = connection.execute(
            "SELECT to_regclass(%s) IS NOT NULL", (f"{self.place.schema}.gallery",)
        ).fetchall()
        if create and known:
            raise self.place.wrong("there is a gallery already; nothing was changed")
        if create:
            self._make()
        elif not known:
            raise StoreNotFoundError(f"no gallery at {self.place.name}; make one with: iom init", place=self.place.name)
        rows = connection.execute("SELECT format FROM gallery").fetchall()
        if rows != [(self._format,)]:
            older = rows == [(1,)]
            advice = "convert it with: iom migrate" if older else "use the program that wrote it"
            raise self.place.wrong(
                f"expected a gallery of format {self._format}, found format {rows[0][0] if rows else 'none'}; {advice}"
            )

    def _make(self) -> None:
        connection = self._live()
        (encoding,) = connection.execute("SHOW server_encoding").fetchall()[0]
        if encoding != "UTF8":
            raise self.place.wrong(f"expected a database with encoding UTF8, found {encoding}")
        with connection.transaction():
            # An owner of the database may have made the schema for a user who must not.
            there = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (self.place.schema,)).fetchall()
            if not there:
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self.place.schema)))
            connection.execute(_SCHEMA)
            connection.execute("INSERT INTO gallery VALUES (1, %s, '')", (FORMAT,))

    def _begin(self) -> None:
        """Start a transaction with the write lock."""
        self._write += 1
        try:
            self._start(self._live())
            return
        except psycopg.OperationalError:
            if not self._is_lost():
                self._roll_back()
                raise
        except BaseException:
            self._roll_back()
            raise
        self._start(self._again())

    def _start(self, connection: psycopg.Connection[Any]) -> None:
        _lock_gallery(connection)
        if self._write == 1:  # processes that were killed have left theirs
            connection.execute("DELETE FROM writers WHERE at < now() - interval '1 day'")
        connection.execute(
            "INSERT INTO writers VALUES (%s, %s, now()) "
            "ON CONFLICT (id) DO UPDATE SET write = EXCLUDED.write, at = EXCLUDED.at",
            (self._writer, self._write),
        )

    def _commit(self) -> None:
        try:
            if self._live().execute("COMMIT").statusmessage == "COMMIT":
                return
        except psycopg.OperationalError:
            if not self._is_lost():
                raise
            if self._is_done():
                return
        raise self.place.wrong("the connection was lost; nothing was written. Try again") from None

    def _is_done(self) -> bool:
        """Whether the last write is committed, after its commit had no answer.

        Raises:
            StoreError: The server cannot be asked.
        """
        deadline = time.monotonic() + RECONNECT_SECONDS
        while time.monotonic() < deadline:
            try:
                connection = self._again()
                # Has to wait for the lost transaction, if the server has not ended it yet.
                _lock_gallery(connection)
                found = connection.execute("SELECT write FROM writers WHERE id = %s", (self._writer,)).fetchall()
                connection.execute("ROLLBACK")
                return found == [(self._write,)]
            except StoreError:
                break
            except psycopg.OperationalError:
                self._roll_back()
                time.sleep(0.1)
        raise self.place.wrong(
            "the connection was lost during a commit, and the server cannot be asked: the write is "
            "done or it is not. Look before you repeat it"
        ) from None

    def _roll_back(self) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            return
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            connection.close()  # then the server does it

    @contextlib.contextmanager
    def _patience(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection of its own, without a limit on the time of a statement."""
        connection = self._connect()
        try:
            connection.execute("SET statement_timeout = 0")
            yield connection
        finally:
            connection.close()

    def _live(self) -> psycopg.Connection[Any]:
        if self._is_closed or self._connection is None:
            raise self.place.wrong("the gallery is closed")
        if self._is_lost() and not (self._is_writing or self._is_still):
            return self._again()
        return self._connection

    def _is_lost(self) -> bool:
        return self._connection is None or self._connection.closed

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            # Not chained: what a driver says may hold values of rows.
            raise self.place.explain(error) from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.place.name})"


def _lock_gallery(connection: psycopg.Connection[Any]) -> None:
    # After waiting for the lock, each statement must see what the one before has written.
    connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
    connection.execute("SELECT one FROM gallery FOR UPDATE")
