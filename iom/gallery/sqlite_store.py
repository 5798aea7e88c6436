"""The record store in one SQLite file: durable, for several processes of one machine."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from iom.errors import EnrolmentError, StoreError
from iom.gallery.audit import AuditEntry, AuditEvent
from iom.gallery.record import Application, Reference, Tombstone, code_bytes
from iom.gallery.rows import (
    APPLICATION_COLUMNS,
    AUDIT_COLUMNS,
    REFERENCE_COLUMNS,
    application_of_row,
    entry_of_row,
    reference_of_row,
    refuse_other,
    row_of_application,
    row_of_reference,
    unknown_application,
    with_slots,
    with_slots_of,
)
from iom.gallery.sqlite_file import SqliteFile
from iom.gallery.sqlite_rows import (
    NUMBERS_A_QUERY,
    append_event,
    bury,
    next_version,
    refuse_enrolled,
    refuse_revoked,
    slots_taken,
)
from iom.gallery.store import PAGE, RecordStore, StoredCode, StoreStats

_READ_ONLY = "?mode=ro"


def open_url(url: str, *, create: bool = False) -> "SqliteStore":
    """Store of `sqlite:///path`; with `?mode=ro` behind it, for reading only.

    Raises:
        StoreError: No path, or the file is missing, there already, damaged or something else.
    """
    place = url.removeprefix("sqlite://")
    path = place.removesuffix(_READ_ONLY)
    if not path.startswith("/") or len(path) < 2:
        raise StoreError(f"record store: expected sqlite:///path, received '{url}'")
    return SqliteStore(Path(path[1:]), read_only=place.endswith(_READ_ONLY), create=create)


class SqliteStore(RecordStore):
    """See `RecordStore`.

    Args:
        path: The file; SQLite keeps two more beside it.
        read_only: Refuse writes.
        create: Make it; it must not be there.
    """

    def __init__(self, path: Path, *, read_only: bool = False, create: bool = False) -> None:
        self._file = SqliteFile(path, read_only=read_only, create=create)

    def owner(self) -> str:
        """See `RecordStore.owner`."""
        return "".join(row[0] for row in self._file.rows("SELECT name FROM owner"))

    def claim(self, owner: str) -> None:
        """See `RecordStore.claim`."""
        with self._file.writing() as connection:
            connection.execute("INSERT OR IGNORE INTO owner VALUES (1, ?)", (owner,))
            (known,) = connection.execute("SELECT name FROM owner").fetchone()
            if known != owner:
                raise StoreError(f"{self._file.path}: belongs to another key store")

    def create_application(self, application: Application, event: AuditEvent) -> None:
        """See `RecordStore.create_application`."""
        with self._file.writing() as connection:
            try:
                connection.execute(
                    f"INSERT INTO applications ({APPLICATION_COLUMNS}) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    row_of_application(application),
                )
            except sqlite3.IntegrityError as error:
                raise EnrolmentError(
                    f"there is an application {application.name} already"
                ) from error
            append_event(connection, event)

    def update_application(self, application: Application, event: AuditEvent) -> None:
        """See `RecordStore.update_application`."""
        with self._file.writing() as connection:
            refuse_other(self.application(application.name), application)
            connection.execute(
                "UPDATE applications SET threshold = ?, epoch = ?, version = version + 1 "
                "WHERE name = ?",
                (application.threshold, application.epoch, application.name),
            )
            append_event(connection, event)

    def application(self, name: str) -> Application:
        """See `RecordStore.application`."""
        rows = self._file.rows(
            f"SELECT {APPLICATION_COLUMNS} FROM applications WHERE name = ?", (name,)
        )
        if not rows:
            raise unknown_application(name)
        return application_of_row(rows[0])

    def applications(self) -> list[Application]:
        """See `RecordStore.applications`."""
        rows = self._file.rows(f"SELECT {APPLICATION_COLUMNS} FROM applications ORDER BY name")
        return [application_of_row(row) for row in rows]

    def reserve(self, application: str, count: int, *, above: int = -1) -> range:
        """See `RecordStore.reserve`."""
        with self._file.writing() as connection:
            number = self._id(application)
            (following,) = connection.execute(
                "SELECT next_record FROM applications WHERE id = ?", (number,)
            ).fetchone()
            first = max(following, above + 1)
            connection.execute(
                "UPDATE applications SET next_record = ? WHERE id = ?", (first + count, number)
            )
        return range(first, first + count)

    def add(
        self, references: Sequence[Reference], event: AuditEvent, *, new_subjects: bool = True
    ) -> list[Reference]:
        """See `RecordStore.add`."""
        if not references:
            return []
        with self._file.writing() as connection:
            number = self._id(references[0].application)
            if new_subjects:
                refuse_enrolled(connection, number, references)
            added = self._insert(connection, number, references, new_subjects=new_subjects)
            append_event(connection, event)
        return added

    def replace(
        self, old: Sequence[Reference], new: Sequence[Reference], event: AuditEvent
    ) -> list[Reference]:
        """See `RecordStore.replace`."""
        with self._file.writing() as connection:
            number = self._id(new[0].application)
            bury(connection, number, [reference.record for reference in old])
            added = self._insert(connection, number, with_slots_of(old, new), new_subjects=False)
            append_event(connection, event)
        self._file.forget_log()
        return added

    def revoke(
        self, application: str, records: Sequence[int], event: AuditEvent
    ) -> list[Tombstone]:
        """See `RecordStore.revoke`."""
        with self._file.writing() as connection:
            buried = bury(connection, self._id(application), records)
            append_event(connection, event)
        self._file.forget_log()
        return buried

    def references(self, application: str, subject_id: str) -> list[Reference]:
        """See `RecordStore.references`."""
        rows = self._file.rows(
            f"SELECT {REFERENCE_COLUMNS} FROM reference_codes "
            "WHERE application = ? AND subject = ? ORDER BY slot",
            (self._id(application), subject_id),
        )
        return [reference_of_row(application, row) for row in rows]

    def by_record(self, application: str, records: Sequence[int]) -> list[Reference]:
        """See `RecordStore.by_record`."""
        number, found = self._id(application), []
        wanted = sorted(set(map(int, records)))
        for start in range(0, len(wanted), NUMBERS_A_QUERY):
            part = wanted[start : start + NUMBERS_A_QUERY]
            marks = ", ".join("?" * len(part))
            found += self._file.rows(
                f"SELECT {REFERENCE_COLUMNS} FROM reference_codes WHERE application = ? "
                f"AND record IN ({marks}) ORDER BY record",
                (number, *part),
            )
        return [reference_of_row(application, row) for row in found]

    def scan(
        self, application: str, *, after: int = -1, since: int = 0, limit: int = PAGE
    ) -> list[Reference]:
        """See `RecordStore.scan`."""
        # Few have changed since then, so that the index on versions is the way in; else all have.
        index = "INDEXED BY added" if since else "NOT INDEXED"
        rows = self._file.rows(
            f"SELECT {REFERENCE_COLUMNS} FROM reference_codes {index} WHERE application = ? "
            "AND record > ? AND version > ? ORDER BY record LIMIT ?",
            (self._id(application), after, since, limit),
        )
        return [reference_of_row(application, row) for row in rows]

    def codes(
        self, application: str, *, after: int = -1, since: int = 0, limit: int = PAGE
    ) -> list[StoredCode]:
        """See `RecordStore.codes`; the rows are plain tuples of its three fields."""
        index = "INDEXED BY added" if since else "NOT INDEXED"
        read = self._file.rows if since else self._file.rows_once
        return read(
            f"SELECT record, epoch, code FROM reference_codes {index} WHERE application = ? "
            "AND record > ? AND version > ? ORDER BY record LIMIT ?",
            (self._id(application), after, since, limit),
        )

    def tombstones(
        self, application: str, *, since: int = 0, subject_id: str | None = None
    ) -> list[Tombstone]:
        """See `RecordStore.tombstones`."""
        of_subject = "" if subject_id is None else "AND subject = ?"
        index = "INDEXED BY revoked" if since and subject_id is None else ""
        rows = self._file.rows(
            f"SELECT subject, record, version FROM tombstones {index} WHERE application = ? "
            f"AND version > ? {of_subject} ORDER BY record",
            (self._id(application), since, *([] if subject_id is None else [subject_id])),
        )
        return [Tombstone(*row) for row in rows]

    def version(self, application: str) -> int:
        """See `RecordStore.version`."""
        rows = self._file.rows("SELECT version FROM applications WHERE name = ?", (application,))
        if not rows:
            raise unknown_application(application)
        return int(rows[0][0])

    def stats(self, application: str) -> StoreStats:
        """See `RecordStore.stats`."""
        number = self._id(application)
        subjects, references = self._file.rows_once(
            "SELECT COUNT(DISTINCT subject), COUNT(*) FROM reference_codes WHERE application = ?",
            (number,),
        )[0]
        ((revoked,),) = self._file.rows(
            "SELECT COUNT(*) FROM tombstones WHERE application = ?", (number,)
        )
        return StoreStats(subjects, references, revoked)

    def log(self, event: AuditEvent) -> None:
        """See `RecordStore.log`."""
        with self._file.writing() as connection:
            append_event(connection, event)

    def audit(self, *, after: int = 0, limit: int = PAGE) -> list[AuditEntry]:
        """See `RecordStore.audit`."""
        rows = self._file.rows(
            f"SELECT {AUDIT_COLUMNS} FROM audit WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (after, limit),
        )
        return [entry_of_row(row) for row in rows]

    def audit_head(self) -> AuditEntry | None:
        """See `RecordStore.audit_head`."""
        rows = self._file.rows(f"SELECT {AUDIT_COLUMNS} FROM audit ORDER BY sequence DESC LIMIT 1")
        return entry_of_row(rows[0]) if rows else None

    def check(self) -> list[str]:
        """See `RecordStore.check`."""
        problems = self._file.problems()
        if problems:
            return problems
        for name, number, encoding, following in self._file.rows(
            "SELECT name, id, encoding, next_record FROM applications"
        ):
            ((wrong,),) = self._file.rows(
                "SELECT COUNT(*) FROM reference_codes WHERE application = ? AND length(code) != ?",
                (number, code_bytes(encoding)),
            )
            ((both,),) = self._file.rows(
                "SELECT COUNT(*) FROM reference_codes NATURAL JOIN "
                "(SELECT application, record FROM tombstones WHERE application = ?)",
                (number,),
            )
            ((unreserved,),) = self._file.rows(
                "SELECT COUNT(*) FROM reference_codes WHERE application = ? AND record >= ?",
                (number, following),
            )
            for count, problem in (
                (wrong, "codes of a wrong length"),
                (both, "records that are valid and revoked"),
                (unreserved, "records with a number that was never given out"),
            ):
                if count:
                    problems.append(f"{self._file.path}: application {name}: {count} {problem}")
        return problems

    def erase(self) -> None:
        """See `RecordStore.erase`."""
        self._file.vacuum()

    def close(self) -> None:
        """See `RecordStore.close`."""
        self._file.close()

    def _id(self, application: str) -> int:
        rows = self._file.rows("SELECT id FROM applications WHERE name = ?", (application,))
        if not rows:
            raise unknown_application(application)
        return int(rows[0][0])

    def _insert(
        self,
        connection: sqlite3.Connection,
        number: int,
        references: Sequence[Reference],
        *,
        new_subjects: bool,
    ) -> list[Reference]:
        """Give out slots and add; raises the version and the next record number."""
        version = next_version(connection, number)
        refuse_revoked(connection, number, references)
        taken = {} if new_subjects else slots_taken(connection, number, references)
        placed = with_slots(references, taken)
        try:
            connection.executemany(
                "INSERT INTO reference_codes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((number, *row_of_reference(r), version) for r in placed),
            )
        except sqlite3.IntegrityError as error:
            raise EnrolmentError("a slot or a record number is taken already") from error
        connection.execute(
            "UPDATE applications SET next_record = max(next_record, ?) WHERE id = ?",
            (max(reference.record for reference in placed) + 1, number),
        )
        return placed
