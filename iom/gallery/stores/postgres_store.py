"""Record store in a PostgreSQL database: durable, for processes of many machines."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, LiteralString

import psycopg

from iom.errors import EnrolmentError, RevokedError, StoreError
from iom.gallery.audit import AuditChain, AuditEntry, AuditEvent, Counts
from iom.gallery.models import Application, Reference, Tombstone, check_application_name, code_bytes
from iom.gallery.stores.postgres_connection import FORMAT, PostgresConnection
from iom.gallery.stores.postgres_dsn import parse_place
from iom.gallery.stores.rows import (
    already_enrolled,
    application_of_row,
    entry_of_row,
    outdated_epoch,
    reference_of_row,
    refuse_other,
    revoked_epoch,
    revoked_subject,
    row_of_application,
    row_of_entry,
    row_of_reference,
    tombstone_of_row,
    unknown_application,
    with_slots,
)
from iom.gallery.stores.store import PAGE, RecordStore, StoreStats
from iom.gallery.stores.upgrade import Dialect, Upgrade

Connection = psycopg.Connection[Any]
_TYPES = ("int4", "int8", "text", "int4", "int4", "bytea", "bytea", "text", "int8", "int8")
_APPLICATION: LiteralString = "name, encoding, model, threshold, key_mode, masked, epoch, created, revision, seal"
_REFERENCE: LiteralString = "subject, slot, record, epoch, code, seal, metadata, created"
_TOMBSTONE: LiteralString = "subject, record, epoch, seal, version"
_AUDIT: LiteralString = (
    "sequence, time, action, application, count, subjects, key_entries, valid, revoked, revision, previous, digest"
)
_ALL: LiteralString = (
    "WITH page AS (SELECT * FROM reference_codes "
    "WHERE application = %(id)s AND record > %(after)s AND version > %(since)s)"
)
# Few have changed since then: they are found first, by their version, and put in order after that.
_CHANGED: LiteralString = _ALL.replace("AS (", "AS MATERIALIZED (")


def open_url(url: str, *, create: bool = False) -> "PostgresStore":
    """Store of `postgresql://[user[:password]@]host[:port]/database[?schema=NAME&...]`.

    The other parameters are libpq's (`sslmode=verify-full`); so are its environment and files.

    Raises:
        StoreError: The URL cannot be read, the database is out of reach, or the gallery is missing,
            there already or of another format.
    """
    return PostgresStore(PostgresConnection(parse_place(url), create=create), is_new=create)


class PostgresStore(RecordStore):
    """Record store in PostgreSQL; see `PostgresConnection` for what holds writers apart.

    Args:
        database: The connection; it is closed with the store.
        is_new: Whether its tables were made just now.
    """

    def __init__(self, database: PostgresConnection, *, is_new: bool = False) -> None:
        super().__init__(is_new=is_new)
        self._database = database

    def owner(self) -> str:
        return str(self._database.rows("SELECT owner FROM gallery")[0][0])

    def claim(self, owner: str) -> None:
        with self._database.writing() as connection:
            connection.execute("UPDATE gallery SET owner = %s WHERE owner = ''", (owner,))
            if connection.execute("SELECT owner FROM gallery").fetchall() != [(owner,)]:
                raise self._database.place.wrong("belongs to another key store")

    def create_application(self, application: Application, event: AuditEvent) -> None:
        with self._database.writing() as connection:
            try:
                connection.execute(
                    f"INSERT INTO applications ({_APPLICATION}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                    row_of_application(application),
                )
            except psycopg.errors.UniqueViolation:
                raise EnrolmentError(f"there is an application {application.name} already") from None
            _append(connection, self.chain, event, Counts(revision=application.revision))

    def update_application(self, application: Application, event: AuditEvent) -> None:
        with self._database.writing() as connection:
            self._update(connection, application)
            counts = self._counts(connection, application.name)
            changed = counts.changed(revision=application.revision)
            _append(connection, self.chain, event, changed)

    def rotate(self, application: Application, tombstones: Sequence[Tombstone], event: AuditEvent) -> None:
        with self._database.writing() as connection:
            self._update(connection, application)
            number = self._id(application.name)
            _revoke(connection, number, tombstones)
            left = connection.execute(
                "SELECT 1 FROM reference_codes WHERE application = %s AND epoch < %s LIMIT 1",
                (number, application.epoch),
            ).fetchall()
            if left:
                raise RevokedError(
                    f"application {application.name}: references were added in the meantime; nothing was changed"
                )
            counts = self._counts(connection, application.name)
            changed = counts.changed(revoked=len(tombstones), revision=application.revision)
            _append(connection, self.chain, event, changed)

    def application(self, name: str) -> Application:
        rows = self._database.rows(
            f"SELECT {_APPLICATION} FROM applications WHERE name = %s", (check_application_name(name),)
        )
        if not rows:
            raise unknown_application(name)
        return application_of_row(rows[0])

    def applications(self) -> list[Application]:
        rows = self._database.rows(f"SELECT {_APPLICATION} FROM applications ORDER BY name")
        return [application_of_row(row) for row in rows]

    def add(
        self,
        references: Sequence[Reference],
        event: AuditEvent,
        *,
        another: bool = False,
        returning: bool = False,
        imported: bool = False,
    ) -> list[Reference]:
        if not references:
            return []
        with self._database.writing() as connection:
            name = references[0].application
            number = self._id(name)
            if not imported:
                subjects = sorted({reference.subject_id for reference in references})
                _refuse_subjects(connection, number, subjects, another, returning)
                self._refuse_epoch(connection, name, number, references)
            added = _insert(connection, number, references)
            counts = self._counts(connection, name)
            _append(connection, self.chain, event, counts.changed(added=len(added)))
        return added

    def replace(self, tombstones: Sequence[Tombstone], new: Sequence[Reference], event: AuditEvent) -> list[Reference]:
        with self._database.writing() as connection:
            name = new[0].application
            number = self._id(name)
            _revoke(connection, number, tombstones)
            self._refuse_epoch(connection, name, number, new)
            added = _insert(connection, number, new)
            counts = self._counts(connection, name)
            changed = counts.changed(added=len(added), revoked=len(tombstones))
            _append(connection, self.chain, event, changed)
        return added

    def revoke(self, application: str, tombstones: Sequence[Tombstone], event: AuditEvent) -> None:
        with self._database.writing() as connection:
            _revoke(connection, self._id(application), tombstones)
            counts = self._counts(connection, application)
            _append(connection, self.chain, event, counts.changed(revoked=len(tombstones)))

    def references(self, application: str, subject_id: str) -> list[Reference]:
        rows = self._database.rows(
            f"SELECT {_REFERENCE} FROM reference_codes WHERE application = %s AND subject = %s ORDER BY slot",
            (self._id(application), subject_id),
        )
        return [reference_of_row(application, row) for row in rows]

    def by_record(self, application: str, records: Sequence[int]) -> list[Reference]:
        rows = self._database.rows(
            f"SELECT {_REFERENCE} FROM reference_codes WHERE application = %s AND record = ANY(%s) ORDER BY record",
            (self._id(application), sorted(set(map(int, records)))),
        )
        return [reference_of_row(application, row) for row in rows]

    def scan(self, application: str, *, after: int = -1, since: int = 0, limit: int = PAGE) -> list[Reference]:
        rows = self._database.rows(
            f"{_CHANGED if since else _ALL} SELECT {_REFERENCE} FROM page ORDER BY record LIMIT %(limit)s",
            {"id": self._id(application), "after": after, "since": since, "limit": limit},
        )
        return [reference_of_row(application, row) for row in rows]

    def tombstones(self, application: str, *, since: int = 0, subject_id: str | None = None) -> list[Tombstone]:
        values = (self._id(application), since)
        if subject_id is None:
            rows = self._database.rows(
                f"SELECT {_TOMBSTONE} FROM tombstones WHERE application = %s AND version > %s ORDER BY record", values
            )
        else:
            rows = self._database.rows(
                f"SELECT {_TOMBSTONE} FROM tombstones "
                "WHERE application = %s AND version > %s AND subject = %s ORDER BY record",
                (*values, subject_id),
            )
        return [tombstone_of_row(row) for row in rows]

    def version(self, application: str) -> int:
        rows = self._database.rows(
            "SELECT version FROM applications WHERE name = %s", (check_application_name(application),)
        )
        if not rows:
            raise unknown_application(application)
        return int(rows[0][0])

    def stats(self, application: str) -> StoreStats:
        number = self._id(application)
        rows = self._database.rows(
            "SELECT COUNT(DISTINCT subject), COUNT(*), "
            "(SELECT COUNT(*) FROM tombstones WHERE application = %s) "
            "FROM reference_codes WHERE application = %s",
            (number, number),
        )
        return StoreStats(*rows[0])

    def log(self, event: AuditEvent) -> None:
        with self._database.writing() as connection:
            counts = self._counts(connection, event.application) if event.application else Counts()
            _append(connection, self.chain, event, counts)

    def audit(self, *, after: int = 0, limit: int = PAGE) -> list[AuditEntry]:
        rows = self._database.rows(
            f"SELECT {_AUDIT} FROM audit WHERE sequence > %s ORDER BY sequence LIMIT %s", (after, limit)
        )
        return [entry_of_row(row) for row in rows]

    def audit_head(self, application: str | None = None) -> AuditEntry | None:
        if application is None:
            rows = self._database.rows(f"SELECT {_AUDIT} FROM audit ORDER BY sequence DESC LIMIT 1")
        else:
            rows = self._database.rows(
                f"SELECT {_AUDIT} FROM audit WHERE application = %s ORDER BY sequence DESC LIMIT 1", (application,)
            )
        return entry_of_row(rows[0]) if rows else None

    def check(self) -> list[str]:
        try:
            return [str(self._database.place.wrong(text)) for text in self._problems()]
        except StoreError as error:
            return [str(error)]

    @contextlib.contextmanager
    def snapshot(self) -> Iterator["PostgresStore"]:
        with self._database.still() as database:
            store = PostgresStore(database)
            store.chain = self.chain
            yield store

    def erase(self) -> None:
        self._database.vacuum()

    def close(self) -> None:
        self._database.close()

    def _problems(self) -> list[str]:
        found = [
            f"the server runs with {name} = off: a power cut can lose what was acknowledged"
            for name, value in self._database.rows(
                "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') ORDER BY name"
            )
            if value == "off"
        ]
        for name, number, encoding in self._database.rows("SELECT name, id, encoding FROM applications ORDER BY name"):
            # Reads every row: with checksums on, PostgreSQL notices here what a disk has changed.
            wrong, both = self._database.rows(
                "SELECT COUNT(*) FILTER (WHERE octet_length(code || '') <> %s), "
                "COUNT(*) FILTER (WHERE EXISTS (SELECT 1 FROM tombstones AS t "
                "WHERE t.application = r.application AND t.record = r.record)) "
                "FROM reference_codes AS r WHERE application = %s",
                (code_bytes(encoding), number),
                patient=True,
            )[0]
            for count, problem in ((wrong, "codes of a wrong length"), (both, "records that are valid and revoked")):
                if count:
                    found.append(f"application {name}: {count} {problem}")
        return found

    def _id(self, application: str) -> int:
        rows = self._database.rows(
            "SELECT id FROM applications WHERE name = %s", (check_application_name(application),)
        )
        if not rows:
            raise unknown_application(application)
        return int(rows[0][0])

    def _update(self, connection: Connection, application: Application) -> None:
        """Write threshold, epoch, revision and seal of an application."""
        refuse_other(self.application(application.name), application)
        connection.execute(
            "UPDATE applications SET threshold = %s, epoch = %s, revision = %s, seal = %s, "
            "version = version + 1 WHERE name = %s",
            (application.threshold, application.epoch, application.revision, application.seal, application.name),
        )

    def _counts(self, connection: Connection, application: str) -> Counts:
        """What the last entry about an application says, which counts go on from."""
        rows = connection.execute(
            f"SELECT {_AUDIT} FROM audit WHERE application = %s ORDER BY sequence DESC LIMIT 1", (application,)
        ).fetchall()
        return self.chain.counts_of(entry_of_row(rows[0]) if rows else None, application)

    def _refuse_epoch(self, connection: Connection, name: str, number: int, references: Sequence[Reference]) -> None:
        """Where the application has one key, only its newest epoch, and of no revoked template."""
        application = self.application(name)
        if application.key_mode != "application":
            return
        if any(reference.epoch != application.epoch for reference in references):
            raise outdated_epoch(name)
        found = connection.execute(
            "SELECT subject FROM tombstones WHERE application = %s AND epoch >= %s AND subject = ANY(%s) LIMIT 1",
            (number, application.epoch, list({each.subject_id for each in references})),
        ).fetchall()
        if found:
            raise revoked_epoch(found[0][0], name)


OLD = Dialect("%s", "bigint", "bytea", "''", "SELECT owner FROM gallery")


def upgrade_url(url: str, convert: Callable[[Upgrade], None]) -> bool:
    """See `iom.gallery.stores.store.upgrade_store`."""
    place = parse_place(url)
    with contextlib.suppress(StoreError), contextlib.closing(PostgresConnection(place)):
        return False
    with contextlib.closing(PostgresConnection(place, format=1)) as database, database.writing() as connection:

        def execute(text: str, values: Sequence[Any]) -> list[Any]:
            cursor = connection.execute(text, values)
            return cursor.fetchall() if cursor.description else []

        upgrade = Upgrade(execute, OLD)
        convert(upgrade)
        upgrade.finish()
        connection.execute("UPDATE gallery SET format = %s", (FORMAT,))
    return True


def _append(connection: Connection, chain: AuditChain, event: AuditEvent, counts: Counts) -> None:
    """Write an event behind the last entry of the audit log."""
    last = connection.execute("SELECT sequence, digest FROM audit ORDER BY sequence DESC LIMIT 1").fetchone()
    connection.execute(
        f"INSERT INTO audit ({_AUDIT}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        row_of_entry(chain.following(event, counts, last)),
    )


def _next_version(connection: Connection, number: int) -> int:
    """Raise the version of an application, and return it."""
    rows = connection.execute(
        "UPDATE applications SET version = version + 1 WHERE id = %s RETURNING version", (number,)
    )
    return int(rows.fetchall()[0][0])


def _refuse_subjects(
    connection: Connection, number: int, subjects: Sequence[str], another: bool, returning: bool
) -> None:
    values = (number, list(subjects))
    enrolled = {
        row[0]
        for row in connection.execute(
            "SELECT DISTINCT subject FROM reference_codes WHERE application = %s AND subject = ANY(%s)", values
        )
    }
    if not another and enrolled:
        raise already_enrolled(min(enrolled))
    if not returning:
        found = connection.execute(
            "SELECT DISTINCT subject FROM tombstones WHERE application = %s AND subject = ANY(%s)", values
        )
        if gone := {row[0] for row in found} - enrolled:
            raise revoked_subject(min(gone))


def _refuse_revoked(connection: Connection, number: int, references: Sequence[Reference]) -> None:
    """Raise `RevokedError` where a record has a tombstone."""
    found = connection.execute(
        "SELECT record, subject FROM tombstones WHERE application = %s AND record = ANY(%s) LIMIT 1",
        (number, [reference.record for reference in references]),
    ).fetchall()
    if found:
        record, subject_id = found[0]
        raise RevokedError(f"record {record} was revoked; it is never used again", subject_id=subject_id)


def _insert(connection: Connection, number: int, references: Sequence[Reference]) -> list[Reference]:
    """Give out slots and add; raises the version."""
    version = _next_version(connection, number)
    _refuse_revoked(connection, number, references)
    placed = with_slots(references, _slots_taken(connection, number, references))
    statement = "COPY reference_codes FROM STDIN (FORMAT BINARY)"
    try:
        with connection.cursor() as cursor, cursor.copy(statement) as stream:
            stream.set_types(_TYPES)
            for reference in placed:
                stream.write_row((number, *row_of_reference(reference), version))
    except psycopg.errors.UniqueViolation:
        raise EnrolmentError("a slot or a record number is taken already") from None
    return placed


def _slots_taken(connection: Connection, number: int, references: Sequence[Reference]) -> dict[str, set[int]]:
    """Slots of the valid references of the subjects of `references`."""
    taken: dict[str, set[int]] = {}
    for subject, slot in connection.execute(
        "SELECT subject, slot FROM reference_codes WHERE application = %s AND subject = ANY(%s)",
        (number, list({reference.subject_id for reference in references})),
    ):
        taken.setdefault(subject, set()).add(slot)
    return taken


def _revoke(connection: Connection, number: int, tombstones: Sequence[Tombstone]) -> None:
    """Delete valid records and leave tombstones; raises the version."""
    version = _next_version(connection, number)
    columns = [[getattr(stone, name) for stone in tombstones] for name in ("record", "subject_id", "epoch", "seal")]
    deleted = connection.execute(
        "DELETE FROM reference_codes AS r USING "
        "unnest(%s::bigint[], %s::text[]) AS gone (record, subject) "
        "WHERE r.application = %s AND r.record = gone.record AND r.subject = gone.subject",
        (*columns[:2], number),
    )
    if deleted.rowcount != len(tombstones):
        raise RevokedError("a record is not valid any more; nothing was changed")
    connection.execute(
        "INSERT INTO tombstones (application, record, subject, epoch, seal, version) "
        "SELECT %s, gone.*, %s FROM "
        "unnest(%s::bigint[], %s::text[], %s::integer[], %s::bytea[]) AS gone",
        (number, version, *columns),
    )
