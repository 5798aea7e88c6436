"""The record store in a PostgreSQL database: durable, for processes of many machines."""

from collections.abc import Sequence
from typing import LiteralString

import psycopg

from iom.errors import EnrolmentError, StoreError
from iom.gallery.audit import AuditEntry, AuditEvent
from iom.gallery.postgres_connection import PostgresConnection
from iom.gallery.postgres_place import parse_place
from iom.gallery.postgres_rows import (
    Connection,
    append_event,
    bury,
    copy_in,
    next_version,
    refuse_enrolled,
    refuse_revoked,
    slots_taken,
)
from iom.gallery.record import (
    Application,
    Reference,
    Tombstone,
    check_application_name,
    code_bytes,
)
from iom.gallery.rows import (
    application_of_row,
    entry_of_row,
    reference_of_row,
    refuse_other,
    row_of_application,
    unknown_application,
    with_slots,
    with_slots_of,
)
from iom.gallery.store import PAGE, RecordStore, StoredCode, StoreStats

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
    return PostgresStore(url, create=create)


class PostgresStore(RecordStore):
    """See `RecordStore`, and `PostgresConnection` for what holds writers apart.

    Args:
        url: See `open_url`.
        create: Make the tables; they must not be there.
    """

    def __init__(self, url: str, *, create: bool = False) -> None:
        self._database = PostgresConnection(parse_place(url), create=create)

    def owner(self) -> str:
        """See `RecordStore.owner`."""
        return str(self._database.rows("SELECT owner FROM gallery")[0][0])

    def claim(self, owner: str) -> None:
        """See `RecordStore.claim`."""
        with self._database.writing() as connection:
            connection.execute("UPDATE gallery SET owner = %s WHERE owner = ''", (owner,))
            if connection.execute("SELECT owner FROM gallery").fetchall() != [(owner,)]:
                raise self._database.place.wrong("belongs to another key store")

    def create_application(self, application: Application, event: AuditEvent) -> None:
        """See `RecordStore.create_application`."""
        with self._database.writing() as connection:
            try:
                connection.execute(
                    "INSERT INTO applications (name, encoding, model, threshold, key_mode, masked, "
                    "epoch, created) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                    row_of_application(application),
                )
            except psycopg.errors.UniqueViolation:
                raise EnrolmentError(
                    f"there is an application {application.name} already"
                ) from None
            append_event(connection, event)

    def update_application(self, application: Application, event: AuditEvent) -> None:
        """See `RecordStore.update_application`."""
        with self._database.writing() as connection:
            refuse_other(self.application(application.name), application)
            connection.execute(
                "UPDATE applications SET threshold = %s, epoch = %s, version = version + 1 "
                "WHERE name = %s",
                (application.threshold, application.epoch, application.name),
            )
            append_event(connection, event)

    def application(self, name: str) -> Application:
        """See `RecordStore.application`."""
        rows = self._database.rows(
            "SELECT name, encoding, model, threshold, key_mode, masked, epoch, created "
            "FROM applications WHERE name = %s",
            (check_application_name(name),),
        )
        if not rows:
            raise unknown_application(name)
        return application_of_row(rows[0])

    def applications(self) -> list[Application]:
        """See `RecordStore.applications`."""
        rows = self._database.rows(
            "SELECT name, encoding, model, threshold, key_mode, masked, epoch, created "
            "FROM applications ORDER BY name"
        )
        return [application_of_row(row) for row in rows]

    def reserve(self, application: str, count: int, *, above: int = -1) -> range:
        """See `RecordStore.reserve`."""
        with self._database.writing() as connection:
            ((following,),) = connection.execute(
                "UPDATE applications SET next_record = GREATEST(next_record, %s) + %s "
                "WHERE id = %s RETURNING next_record",
                (above + 1, count, self._id(application)),
            ).fetchall()
        return range(following - count, following)

    def add(
        self, references: Sequence[Reference], event: AuditEvent, *, new_subjects: bool = True
    ) -> list[Reference]:
        """See `RecordStore.add`."""
        if not references:
            return []
        with self._database.writing() as connection:
            number = self._id(references[0].application)
            if new_subjects:
                refuse_enrolled(connection, number, references)
            added = _insert(connection, number, references)
            append_event(connection, event)
        return added

    def replace(
        self, old: Sequence[Reference], new: Sequence[Reference], event: AuditEvent
    ) -> list[Reference]:
        """See `RecordStore.replace`."""
        with self._database.writing() as connection:
            number = self._id(new[0].application)
            bury(connection, number, [reference.record for reference in old])
            added = _insert(connection, number, with_slots_of(old, new))
            append_event(connection, event)
        return added

    def revoke(
        self, application: str, records: Sequence[int], event: AuditEvent
    ) -> list[Tombstone]:
        """See `RecordStore.revoke`."""
        with self._database.writing() as connection:
            buried = bury(connection, self._id(application), records)
            append_event(connection, event)
        return buried

    def references(self, application: str, subject_id: str) -> list[Reference]:
        """See `RecordStore.references`."""
        rows = self._database.rows(
            "SELECT subject, slot, record, epoch, code, seal, metadata, created "
            "FROM reference_codes WHERE application = %s AND subject = %s ORDER BY slot",
            (self._id(application), subject_id),
        )
        return [reference_of_row(application, row) for row in rows]

    def by_record(self, application: str, records: Sequence[int]) -> list[Reference]:
        """See `RecordStore.by_record`."""
        rows = self._database.rows(
            "SELECT subject, slot, record, epoch, code, seal, metadata, created "
            "FROM reference_codes WHERE application = %s AND record = ANY(%s) ORDER BY record",
            (self._id(application), sorted(set(map(int, records)))),
        )
        return [reference_of_row(application, row) for row in rows]

    def scan(
        self, application: str, *, after: int = -1, since: int = 0, limit: int = PAGE
    ) -> list[Reference]:
        """See `RecordStore.scan`."""
        rows = self._database.rows(
            f"{_CHANGED if since else _ALL} "
            "SELECT subject, slot, record, epoch, code, seal, metadata, created "
            "FROM page ORDER BY record LIMIT %(limit)s",
            {"id": self._id(application), "after": after, "since": since, "limit": limit},
        )
        return [reference_of_row(application, row) for row in rows]

    def codes(
        self, application: str, *, after: int = -1, since: int = 0, limit: int = PAGE
    ) -> list[StoredCode]:
        """See `RecordStore.codes`; the rows are plain tuples of its three fields."""
        return self._database.rows(
            f"{_CHANGED if since else _ALL} "
            "SELECT record, epoch, code FROM page ORDER BY record LIMIT %(limit)s",
            {"id": self._id(application), "after": after, "since": since, "limit": limit},
        )

    def tombstones(
        self, application: str, *, since: int = 0, subject_id: str | None = None
    ) -> list[Tombstone]:
        """See `RecordStore.tombstones`."""
        values = (self._id(application), since)
        if subject_id is None:
            rows = self._database.rows(
                "SELECT subject, record, version FROM tombstones "
                "WHERE application = %s AND version > %s ORDER BY record",
                values,
            )
        else:
            rows = self._database.rows(
                "SELECT subject, record, version FROM tombstones "
                "WHERE application = %s AND version > %s AND subject = %s ORDER BY record",
                (*values, subject_id),
            )
        return [Tombstone(*row) for row in rows]

    def version(self, application: str) -> int:
        """See `RecordStore.version`."""
        rows = self._database.rows(
            "SELECT version FROM applications WHERE name = %s",
            (check_application_name(application),),
        )
        if not rows:
            raise unknown_application(application)
        return int(rows[0][0])

    def stats(self, application: str) -> StoreStats:
        """See `RecordStore.stats`."""
        number = self._id(application)
        rows = self._database.rows(
            "SELECT COUNT(DISTINCT subject), COUNT(*), "
            "(SELECT COUNT(*) FROM tombstones WHERE application = %s) "
            "FROM reference_codes WHERE application = %s",
            (number, number),
        )
        return StoreStats(*rows[0])

    def log(self, event: AuditEvent) -> None:
        """See `RecordStore.log`."""
        with self._database.writing() as connection:
            append_event(connection, event)

    def audit(self, *, after: int = 0, limit: int = PAGE) -> list[AuditEntry]:
        """See `RecordStore.audit`."""
        rows = self._database.rows(
            "SELECT sequence, time, action, application, count, subjects, key_entries, previous, "
            "digest FROM audit WHERE sequence > %s ORDER BY sequence LIMIT %s",
            (after, limit),
        )
        return [entry_of_row(row) for row in rows]

    def audit_head(self) -> AuditEntry | None:
        """See `RecordStore.audit_head`."""
        rows = self._database.rows(
            "SELECT sequence, time, action, application, count, subjects, key_entries, previous, "
            "digest FROM audit ORDER BY sequence DESC LIMIT 1"
        )
        return entry_of_row(rows[0]) if rows else None

    def check(self) -> list[str]:
        """See `RecordStore.check`."""
        try:
            return [str(self._database.place.wrong(text)) for text in self._problems()]
        except StoreError as error:
            return [str(error)]

    def erase(self) -> None:
        """See `RecordStore.erase`."""
        self._database.vacuum()

    def close(self) -> None:
        """See `RecordStore.close`."""
        self._database.close()

    def _problems(self) -> list[str]:
        found = [
            f"the server runs with {name} = off: a power cut can lose what was acknowledged"
            for name, value in self._database.rows(
                "SELECT name, setting FROM pg_settings "
                "WHERE name IN ('fsync', 'full_page_writes') ORDER BY name"
            )
            if value == "off"
        ]
        for name, number, encoding, following in self._database.rows(
            "SELECT name, id, encoding, next_record FROM applications ORDER BY name"
        ):
            # Reads every row: with checksums on, PostgreSQL notices here what a disk has changed.
            wrong, unreserved, both = self._database.rows(
                "SELECT COUNT(*) FILTER (WHERE octet_length(code || '') <> %s), "
                "COUNT(*) FILTER (WHERE record >= %s), "
                "COUNT(*) FILTER (WHERE EXISTS (SELECT 1 FROM tombstones AS t "
                "WHERE t.application = r.application AND t.record = r.record)) "
                "FROM reference_codes AS r WHERE application = %s",
                (code_bytes(encoding), following, number),
                patient=True,
            )[0]
            for count, problem in (
                (wrong, "codes of a wrong length"),
                (both, "records that are valid and revoked"),
                (unreserved, "records with a number that was never given out"),
            ):
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


def _insert(
    connection: Connection, number: int, references: Sequence[Reference]
) -> list[Reference]:
    """Give out slots and add; raises the version and the next record number."""
    version = next_version(connection, number)
    refuse_revoked(connection, number, references)
    placed = with_slots(references, slots_taken(connection, number, references))
    copy_in(connection, number, placed, version)
    connection.execute(
        "UPDATE applications SET next_record = GREATEST(next_record, %s) WHERE id = %s",
        (max(reference.record for reference in placed) + 1, number),
    )
    return placed
