"""PostgreSQL: the record store in a schema of a database, for processes of many machines.

A write locks the one row of the table `gallery` first. So writes happen one after the other, as the chain of the audit
log and the order of the versions need it, and each sees all that was committed before; readers never wait.

A lost connection is made again before a write and for a read. Where it is lost within a write, nothing was written, and
the error says so. Each write leaves its number in the table `writers`, so that after a commit without an answer it can
be looked up whether it was done. (Transaction ids do not serve: a server that crashed may give out the id of a lost
transaction a second time.)
"""

import contextlib
import dataclasses
import re
import threading
import time
import urllib.parse
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.dialects.postgresql import ARRAY

from iom.errors import StoreError, StoreNotFoundError
from iom.gallery.stores.base import FORMAT, LONG, METADATA, RecordStore

MIN_VERSION = 120000
"""PostgreSQL 12 is the first with MATERIALIZED."""
CONNECT_SECONDS = 10
LOCK_SECONDS = 30
STATEMENT_SECONDS = 60
RECONNECT_SECONDS = 15.0
"""Time for which a lost connection is retried: about that of a restart of the server."""
SCHEMA = "iom"
"""Schema of a gallery where the URL names none."""
_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_URL_FORM = "postgresql://[user[:password]@]host[:port]/database[?schema=NAME&...]"
_SECRETS = ("password", "sslpassword")

_OWN_TABLES = sa.MetaData()
GALLERY = sa.Table(
    "gallery",
    _OWN_TABLES,
    sa.Column("one", sa.Integer, sa.CheckConstraint("one = 1"), primary_key=True, autoincrement=False),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
)
WRITERS = sa.Table(
    "writers",
    _OWN_TABLES,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("write", LONG, nullable=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
)


@dataclasses.dataclass(frozen=True)
class Dsn:
    """A schema of a database: its name in messages, and parameters of libpq, which may include a password."""

    name: str
    schema: str
    parameters: dict[str, str] = dataclasses.field(repr=False)

    @classmethod
    def parse(cls, url: str) -> "Dsn":
        """The DSN of a URL in libpq's form, with the additional parameter `schema`; libpq's environment fills gaps.

        Errors do not repeat the URL, since a password may be anywhere in it.
        """
        front, _, query = url.partition("?")
        before, _, authority = front.removeprefix("postgresql://").partition("/")[0].rpartition("@")
        if url.count("@") > 1 or ("@" in url and "@" not in front.split("/")[2]) or "@" in before:
            raise StoreError(
                f"record store: expected {_URL_FORM}, received one '@' too many or in a wrong place; "
                "write the characters @ : / ? # % of a password as %40 %3A %2F %3F %23 %25"
            )
        options = urllib.parse.parse_qsl(query, keep_blank_values=True)
        schema = dict(options).get("schema", SCHEMA)
        if _SCHEMA_NAME.fullmatch(schema) is None or schema.startswith("pg_"):
            raise StoreError("record store: schema: expected small letters, digits and '_', and no 'pg_' in front")
        rest = urllib.parse.urlencode([(name, value) for name, value in options if name != "schema"])
        try:
            parameters = conninfo_to_dict(f"{front}?{rest}" if rest else front)
        except psycopg.Error:
            raise StoreError(
                f"record store: expected {_URL_FORM} with parameters of libpq, received another form"
            ) from None
        named = {key: str(value) for key, value in parameters.items() if value is not None}
        return cls(f"postgresql://{authority}/{named.get('dbname', '')} (schema {schema})", schema, named)

    def connect(self) -> psycopg.Connection[Any]:
        """A new connection in autocommit mode."""
        settings: dict[str, Any] = {
            "connect_timeout": str(CONNECT_SECONDS),
            "application_name": "iom",
            "keepalives_idle": "30",
            "tcp_user_timeout": str(1000 * STATEMENT_SECONDS),
            **self.parameters,
            "client_encoding": "UTF8",
        }
        connection = psycopg.connect(**settings, autocommit=True)
        for name, value in (
            ("search_path", self.schema),
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

    def error(self, text: str) -> StoreError:
        """A `StoreError` about this schema."""
        return StoreError(f"{self.name}: {text}")

    def unreachable(self, error: BaseException) -> StoreError:
        """The error of a failed connection, with libpq's text without passwords."""
        text = " ".join(str(error).split())
        for secret in filter(None, map(self.parameters.get, _SECRETS)):
            text = text.replace(secret, "***")
        return self.error(f"cannot be reached, or does not let this user in: {text}")

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an error of the driver into a `StoreError` of one line.

        The driver's error is not chained, and its text is left out: both may hold values of rows.
        """
        try:
            yield
        except (sa.exc.DBAPIError, psycopg.Error) as error:
            raise self.error(_advice(getattr(error, "orig", error))) from None


def open_url(url: str, *, create: bool = False, format: int = FORMAT) -> "PostgresStore":
    """The store of `postgresql://[user[:password]@]host[:port]/database[?schema=NAME&...]`; the rest is as in libpq."""
    return PostgresStore(Dsn.parse(url), create=create, format=format)


class PostgresStore(RecordStore):
    """Record store in a schema of a PostgreSQL database."""

    _owner = sa.select(GALLERY.c.owner)
    _set_owner = sa.update(GALLERY).values(owner=sa.bindparam("owner"))

    def __init__(self, dsn: Dsn, *, create: bool = False, format: int = FORMAT) -> None:
        super().__init__(is_new=create)
        self._dsn = dsn
        self._format = format
        self._lock = threading.RLock()
        self._is_closed = self._is_writing = self._is_snapshot = False
        self._writer, self._write = uuid.uuid4(), 0
        self._connection: sa.Connection | None = None
        # Transactions are those of this class: SQLAlchemy begins and ends none.
        self._engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=dsn.connect,
            poolclass=sa.NullPool,
            isolation_level="AUTOCOMMIT",
            use_native_hstore=False,
            hide_parameters=True,
        )
        self._connected(0)
        try:
            with dsn.explained():
                self._set_up(create=create)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator["PostgresStore"]:
        with contextlib.closing(PostgresStore(self._dsn)) as store:
            store.chain = self.chain
            with self._dsn.explained():
                run = store._live().exec_driver_sql
                run("SET idle_in_transaction_session_timeout = 0")
                run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                run("SELECT 1 FROM gallery")  # the first read of the transaction fixes the state
            store._is_snapshot = True
            yield store

    def erase(self) -> None:
        details: list[str] = []
        with self._dsn.explained(), self._patient() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)  # noqa: S101 - for the type checker
            driver.add_notice_handler(lambda note: details.append(note.message_detail or ""))
            for table in ("reference_codes", "tombstones", "applications"):
                connection.exec_driver_sql(f"VACUUM (FULL, VERBOSE) {table}")
            # Without the right to do it, the server does it by itself within minutes.
            with contextlib.suppress(sa.exc.ProgrammingError):
                connection.exec_driver_sql("CHECKPOINT")
        counts = [detail.split(maxsplit=1)[0] for detail in details if detail.strip()]
        if any(count.isdigit() and int(count) for count in counts):
            raise self._error(
                "an older transaction of another process still sees what was deleted; end it and try again"
            )

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._connection is not None:
                with contextlib.suppress(sa.exc.DBAPIError, psycopg.Error):
                    if self._write and not self._is_lost():
                        self._connection.execute(sa.delete(WRITERS).where(WRITERS.c.id == self._writer))
                self._drop_connection()

    def _rows(
        self, statement: sa.Executable, values: Mapping[str, Any] | None = None, *, whole_table: bool = False
    ) -> Sequence[Any]:
        with self._lock, self._dsn.explained():
            if whole_table and not (self._is_writing or self._is_snapshot):
                with self._patient() as connection:
                    return connection.execute(statement, values).all()
            try:
                return self._live().execute(statement, values).all()
            except sa.exc.OperationalError:
                if self._is_writing or self._is_snapshot or not self._is_lost():
                    raise
            return self._connected(RECONNECT_SECONDS).execute(statement, values).all()

    @contextlib.contextmanager
    def _writing(self, *, deletes: bool = False) -> Iterator[sa.Connection]:
        if self._is_snapshot:
            raise self._error("is open for reading only; nothing was written")
        with self._lock, self._dsn.explained():
            try:
                self._begin()
                self._is_writing = True
                yield self._live()
                self._commit()
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._is_writing = False

    def _is_among(self, column: sa.Column[Any], values: Collection[Any]) -> sa.ColumnElement[bool]:
        kind = LONG if isinstance(column.type, sa.BigInteger) else sa.Text
        return column == sa.any_(sa.literal(list(values), ARRAY(kind)))

    def _set_format(self, connection: sa.Connection, number: int) -> None:
        connection.execute(sa.update(GALLERY).values(format=number))

    def _medium_problems(self) -> list[str]:
        settings = "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'"
        return [
            str(self._error(f"the server runs with {name} = off: a power cut can lose acknowledged writes"))
            for (name,) in self._rows(sa.text(f"{settings} ORDER BY name"))
        ]

    def _error(self, text: str) -> StoreError:
        return self._dsn.error(text)

    def _set_up(self, *, create: bool) -> None:
        connection = self._live()
        version = connection.scalar(sa.text("SELECT current_setting('server_version_num')::integer"))
        if version is None or version < MIN_VERSION:
            raise self._error(f"expected PostgreSQL {MIN_VERSION // 10000} or later")
        exists = connection.scalar(sa.select(sa.func.to_regclass(f"{self._dsn.schema}.gallery").is_not(None)))
        if create and exists:
            raise self._error("there is a gallery already; nothing was changed")
        if create:
            self._make()
        elif not exists:
            raise StoreNotFoundError(
                f"no gallery at {self._dsn.name}; make one with iom init, or create=True", place=self._dsn.name
            )
        formats = [row[0] for row in connection.execute(sa.select(GALLERY.c.format))]
        if formats != [self._format]:
            advice = "convert it with: iom migrate" if formats == [1] else "use the program that wrote it"
            raise self._error(
                f"expected a gallery of format {self._format}, found format {formats[0] if formats else 'none'}; "
                f"{advice}"
            )

    def _make(self) -> None:
        encoding = self._live().scalar(sa.text("SHOW server_encoding"))
        if encoding != "UTF8":
            raise self._error(f"expected a database with encoding UTF8, found {encoding}")
        with self._engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            # The owner of the database may have made the schema for a user who must not.
            schemas = sa.text("SELECT 1 FROM pg_namespace WHERE nspname = :name")
            if not connection.execute(schemas, {"name": self._dsn.schema}).all():
                connection.execute(sa.schema.CreateSchema(self._dsn.schema))
            for tables in (METADATA, _OWN_TABLES):
                tables.create_all(connection, checkfirst=False)
            connection.execute(sa.insert(GALLERY), {"one": 1, "format": FORMAT, "owner": ""})

    def _begin(self) -> None:
        self._write += 1
        try:
            self._start(self._live())
        except sa.exc.OperationalError:
            if not self._is_lost():
                raise
            self._start(self._connected(RECONNECT_SECONDS))

    def _start(self, connection: sa.Connection) -> None:
        _lock_gallery(connection)
        if self._write == 1:  # rows of killed processes
            connection.exec_driver_sql("DELETE FROM writers WHERE at < now() - interval '1 day'")
        connection.execute(_NOTE_WRITE, {"writer": self._writer, "number": self._write})

    def _commit(self) -> None:
        try:
            result = self._live().exec_driver_sql("COMMIT")
            if result.cursor is None or result.cursor.statusmessage == "COMMIT":
                return
        except sa.exc.OperationalError:
            if not self._is_lost():
                raise
            if self._is_committed():
                return
        raise self._error("the connection was lost; nothing was written. Try again") from None

    def _is_committed(self) -> bool:
        """Whether the last write is committed, after its commit had no answer."""
        deadline = time.monotonic() + RECONNECT_SECONDS
        while time.monotonic() < deadline:
            try:
                connection = self._connected(RECONNECT_SECONDS)
                # Waits for the lost transaction, if the server has not ended it yet.
                _lock_gallery(connection)
                number = connection.scalar(sa.select(WRITERS.c.write).where(WRITERS.c.id == self._writer))
                connection.exec_driver_sql("ROLLBACK")
                return bool(number == self._write)
            except StoreError:
                break
            except sa.exc.OperationalError:
                self._roll_back()
                time.sleep(0.1)
        raise self._error(
            "the connection was lost during a commit, and the server cannot be asked: the write is "
            "done or it is not. Look before you repeat it"
        ) from None

    def _roll_back(self) -> None:
        if self._connection is None or self._is_lost():
            return
        try:
            self._connection.exec_driver_sql("ROLLBACK")
        except (sa.exc.DBAPIError, psycopg.Error):
            self._drop_connection()  # the server rolls it back

    def _live(self) -> sa.Connection:
        if self._is_closed:
            raise self._error("the gallery is closed")
        if self._connection is None or self._is_lost():
            if self._is_writing or self._is_snapshot:
                raise self._error("the connection was lost; nothing was written. Try again")
            return self._connected(RECONNECT_SECONDS)
        return self._connection

    def _is_lost(self) -> bool:
        if self._connection is None or self._connection.invalidated:
            return True
        return bool(self._connection.connection.driver_connection.closed)  # type: ignore[union-attr]

    def _connected(self, seconds: float) -> sa.Connection:
        """A new connection, tried for some seconds."""
        self._drop_connection()
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._connection = self._engine.connect()
                return self._connection
            except sa.exc.DBAPIError as error:
                if time.monotonic() > deadline or not isinstance(error, sa.exc.OperationalError):
                    raise self._dsn.unreachable(error.orig or error) from None
            time.sleep(0.2)

    def _drop_connection(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sa.exc.DBAPIError, psycopg.Error):
                self._connection.invalidate()
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _patient(self) -> Iterator[sa.Connection]:
        """A connection of its own, without a limit on the time of a statement."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql("SET statement_timeout = 0")
            yield connection


_NOTE_WRITE = sa.text(
    "INSERT INTO writers VALUES (:writer, :number, now()) "
    "ON CONFLICT (id) DO UPDATE SET write = EXCLUDED.write, at = EXCLUDED.at"
)


def _lock_gallery(connection: sa.Connection) -> None:
    # After waiting for the lock, each statement must see what the one before has written.
    connection.exec_driver_sql("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
    connection.exec_driver_sql("SELECT one FROM gallery FOR UPDATE")


_ADVICE = {
    "25006": "the database takes no writes (a standby, or set to read only); nothing was written. "
    "Use the primary server",
    "3F000": "there is no such schema",
    "42501": "this user lacks the right to do that; nothing was written. Ask the owner of the database to grant it",
    "42P01": "its tables are gone; take it from a backup",
    "53100": "the disk of the server is full; nothing was written. Make room and try again",
    "53300": "the server has no connection left; nothing was written. Try again",
    "55P03": "another process has been writing for too long; nothing was written. Try again",
    "57014": "the server took too long, or the statement was cancelled; nothing was written. Try again",
    "25P03": "the server gave up waiting for this process; nothing was written. Try again",
    "40001": "another process was faster; nothing was written. Try again",
    "40P01": "another process was faster; nothing was written. Try again",
    "XX001": "the database is damaged; take it from a backup",
    "XX002": "an index of the database is damaged; see REINDEX, or take it from a backup",
}


def _advice(error: BaseException | None) -> str:
    """Meaning of an error of PostgreSQL by its code, and what to do."""
    state = getattr(error, "sqlstate", None) or ""
    if state in _ADVICE:
        return _ADVICE[state]
    is_lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    if state.startswith(("08", "57")) or (not state and is_lost):
        return "the connection was lost; nothing was written. Try again"
    return f"PostgreSQL reports {type(error).__name__} ({state or 'no code'}); nothing was written"
