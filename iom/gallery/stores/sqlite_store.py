"""Record store in one SQLite file: durable, for several processes of one machine."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from iom.errors import EnrolmentError, RevokedError, StoreError
from iom.gallery.audit import AuditChain, AuditEntry, AuditEvent, Counts
from iom.gallery.models import Application, Reference, Tombstone, code_bytes
from iom.gallery.stores.rows import (
    APPLICATION_COLUMNS,
    AUDIT_COLUMNS,
    REFERENCE_COLUMNS,
    TOMBSTONE_COLUMNS,
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
    version_of,
    with_slots,
)
from iom.gallery.stores.sqlite_file import Layout, SqliteFile, make_sqlite_file
from iom.gallery.stores.store import PAGE, RecordStore, StoreStats
from iom.gallery.stores.upgrade import Dialect, Upgrade

_READ_ONLY = "?mode=ro"
_VALUES_A_QUERY = 500  # SQLite allows a limited number of values in a statement

_AUDIT = """
CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY, time INTEGER NOT NULL, action TEXT NOT NULL,
    application TEXT NOT NULL, count INTEGER NOT NULL, subjects BLOB NOT NULL,
    key_entries INTEGER NOT NULL, valid INTEGER NOT NULL, revoked INTEGER NOT NULL,
    revision INTEGER NOT NULL, previous BLOB NOT NULL, digest BLOB NOT NULL);
CREATE INDEX audit_applications ON audit (application, sequence);
"""
LAYOUT = Layout(
    noun="gallery",
    application_id=0x696F6D67,  # "iomg"
    format=2,
    schema=f"""
CREATE TABLE owner (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL);
CREATE TABLE applications (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, encoding TEXT NOT NULL, model TEXT NOT NULL,
    threshold INTEGER NOT NULL, key_mode TEXT NOT NULL, masked INTEGER NOT NULL,
    epoch INTEGER NOT NULL, created INTEGER NOT NULL, revision INTEGER NOT NULL,
    seal BLOB NOT NULL, version INTEGER NOT NULL DEFAULT 0);
CREATE TABLE reference_codes (
    application INTEGER NOT NULL REFERENCES applications (id), record INTEGER NOT NULL,
    subject TEXT NOT NULL, slot INTEGER NOT NULL, epoch INTEGER NOT NULL, code BLOB NOT NULL,
    seal BLOB NOT NULL, metadata TEXT NOT NULL, created INTEGER NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (application, record)) WITHOUT ROWID;
CREATE UNIQUE INDEX slots ON reference_codes (application, subject, slot);
CREATE INDEX added ON reference_codes (application, version);
CREATE TABLE tombstones (
    application INTEGER NOT NULL REFERENCES applications (id), record INTEGER NOT NULL,
    subject TEXT NOT NULL, epoch INTEGER NOT NULL, seal BLOB NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (application, record)) WITHOUT ROWID;
CREATE INDEX revoked ON tombstones (application, version);
CREATE INDEX revoked_subjects ON tombstones (application, subject);
{_AUDIT}
""",
)


def open_url(url: str, *, create: bool = False) -> "SqliteStore":
    """Store of `sqlite:///path`; with `?mode=ro` behind it, for reading only.

    Raises:
        StoreError: No path, or the file is missing, there already, damaged or something else.
    """
    path, read_only = _parsed(url)
    return SqliteStore(path, read_only=read_only, create=create)


def _parsed(url: str) -> tuple[Path, bool]:
    place = url.removeprefix("sqlite://")
    path = place.removesuffix(_READ_ONLY)
    if not path.startswith("/") or len(path) < 2:
        raise StoreError(f"record store: expected sqlite:///path, received '{url}'")
    return Path(path[1:]), place.endswith(_READ_ONLY)


class SqliteStore(RecordStore):
    """Record store in a SQLite file.

    Args:
        path: The file; SQLite keeps two more beside it.
        read_only: Refuse writes.
        create: Make it; it must not be there.
    """

    def __init__(self, path: Path, *, read_only: bool = False, create: bool = False) -> None:
        super().__init__(is_new=create)
        if create:
            make_sqlite_file(path, LAYOUT)
        self._file = SqliteFile(path, LAYOUT, read_only=read_only)

    def owner(self) -> str:
        return "".join(row[0] for row in self._file.rows("SELECT name FROM owner"))

    def claim(self, owner: str) -> None:
        with self._file.writing() as connection:
            connection.execute("INSERT OR IGNORE INTO owner VALUES (1, ?)", (owner,))
            (known,) = connection.execute("SELECT name FROM owner").fetchone()
            if known != owner:
                raise StoreError(f"{self._file.path}: belongs to another key store")

    def create_application(self, application: Application, event: AuditEvent) -> None:
        with self._file.writing() as connection:
            try:
                connection.execute(
                    f"INSERT INTO applications ({APPLICATION_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    row_of_application(application),
                )
            except sqlite3.IntegrityError as error:
                raise EnrolmentError(f"there is an application {application.name} already") from error
            self._append(connection, event, Counts(revision=application.revision))

    def update_application(self, application: Application, event: AuditEvent) -> None:
        with self._file.writing() as connection:
            self._update(connection, application)
            counts = self._counts(connection, application.name)
            self._append(connection, event, counts.changed(revision=application.revision))

    def rotate(self, application: Application, tombstones: Sequence[Tombstone], event: AuditEvent) -> None:
        with self._file.writing() as connection:
            self._update(connection, application)
            number = self._id(application.name)
            self._revoke(connection, number, tombstones)
            (left,) = connection.execute(
                "SELECT COUNT(*) FROM reference_codes WHERE application = ? AND epoch < ?", (number, application.epoch)
            ).fetchone()
            if left:
                raise RevokedError(
                    f"application {application.name}: references were added in the meantime; nothing was changed"
                )
            counts = self._counts(connection, application.name)
            changed = counts.changed(revoked=len(tombstones), revision=application.revision)
            self._append(connection, event, changed)
        self._file.forget_log()

    def application(self, name: str) -> Application:
        rows = self._file.rows(f"SELECT {APPLICATION_COLUMNS} FROM applications WHERE name = ?", (name,))
        if not rows:
            raise unknown_application(name)
        return application_of_row(rows[0])

    def applications(self) -> list[Application]:
        rows = self._file.rows(f"SELECT {APPLICATION_COLUMNS} FROM applications ORDER BY name")
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
        with self._file.writing() as connection:
            name = references[0].application
            number = self._id(name)
            if not imported:
                subjects = sorted({reference.subject_id for reference in references})
                self._refuse_subjects(connection, number, subjects, another, returning)
                self._refuse_epoch(connection, number, references)
            may_have_slots = another or imported
            added = self._insert(connection, number, references, fresh=not may_have_slots)
            counts = self._counts(connection, name)
            self._append(connection, event, counts.changed(added=len(added)))
        return added

    def replace(self, tombstones: Sequence[Tombstone], new: Sequence[Reference], event: AuditEvent) -> list[Reference]:
        with self._file.writing() as connection:
            name = new[0].application
            number = self._id(name)
            self._revoke(connection, number, tombstones)
            self._refuse_epoch(connection, number, new)
            added = self._insert(connection, number, new, fresh=False)
            counts = self._counts(connection, name)
            changed = counts.changed(added=len(added), revoked=len(tombstones))
            self._append(connection, event, changed)
        self._file.forget_log()
        return added

    def revoke(self, application: str, tombstones: Sequence[Tombstone], event: AuditEvent) -> None:
        with self._file.writing() as connection:
            self._revoke(connection, self._id(application), tombstones)
            counts = self._counts(connection, application)
            self._append(connection, event, counts.changed(revoked=len(tombstones)))
        self._file.forget_log()

    def references(self, application: str, subject_id: str) -> list[Reference]:
        rows = self._file.rows(
            f"SELECT {REFERENCE_COLUMNS} FROM reference_codes WHERE application = ? AND subject = ? ORDER BY slot",
            (self._id(application), subject_id),
        )
        return [reference_of_row(application, row) for row in rows]

    def by_record(self, application: str, records: Sequence[int]) -> list[Reference]:
        number, found = self._id(application), []
        for part in _parts(sorted(set(map(int, records)))):
            found += self._file.rows(
                f"SELECT {REFERENCE_COLUMNS} FROM reference_codes WHERE application = ? "
                f"AND record IN ({_marks(part)}) ORDER BY record",
                (number, *part),
            )
        return [reference_of_row(application, row) for row in found]

    def scan(self, application: str, *, after: int = -1, since: int = 0, limit: int = PAGE) -> list[Reference]:
        # Few have changed since then, so that the index on versions is the way in; else all have.
        index = "INDEXED BY added" if since else "NOT INDEXED"
        rows = self._file.rows(
            f"SELECT {REFERENCE_COLUMNS} FROM reference_codes {index} WHERE application = ? "
            "AND record > ? AND version > ? ORDER BY record LIMIT ?",
            (self._id(application), after, since, limit),
        )
        return [reference_of_row(application, row) for row in rows]

    def tombstones(self, application: str, *, since: int = 0, subject_id: str | None = None) -> list[Tombstone]:
        of_subject = "" if subject_id is None else "AND subject = ?"
        index = "INDEXED BY revoked" if since and subject_id is None else ""
        rows = self._file.rows(
            f"SELECT {TOMBSTONE_COLUMNS} FROM tombstones {index} WHERE application = ? "
            f"AND version > ? {of_subject} ORDER BY record",
            (self._id(application), since, *([] if subject_id is None else [subject_id])),
        )
        return [tombstone_of_row(row) for row in rows]

    def version(self, application: str) -> int:
        rows = self._file.rows("SELECT version FROM applications WHERE name = ?", (application,))
        if not rows:
            raise unknown_application(application)
        return version_of(rows[0][0])

    def stats(self, application: str) -> StoreStats:
        number = self._id(application)
        subjects, references = self._file.rows_once(
            "SELECT COUNT(DISTINCT subject), COUNT(*) FROM reference_codes WHERE application = ?", (number,)
        )[0]
        ((revoked,),) = self._file.rows("SELECT COUNT(*) FROM tombstones WHERE application = ?", (number,))
        return StoreStats(subjects, references, revoked)

    def log(self, event: AuditEvent) -> None:
        with self._file.writing() as connection:
            counts = self._counts(connection, event.application) if event.application else Counts()
            self._append(connection, event, counts)

    def audit(self, *, after: int = 0, limit: int = PAGE) -> list[AuditEntry]:
        rows = self._file.rows(
            f"SELECT {AUDIT_COLUMNS} FROM audit WHERE sequence > ? ORDER BY sequence LIMIT ?", (after, limit)
        )
        return [entry_of_row(row) for row in rows]

    def audit_head(self, application: str | None = None) -> AuditEntry | None:
        of_application = "" if application is None else "WHERE application = ?"
        rows = self._file.rows(
            f"SELECT {AUDIT_COLUMNS} FROM audit {of_application} ORDER BY sequence DESC LIMIT 1",
            () if application is None else (application,),
        )
        return entry_of_row(rows[0]) if rows else None

    def check(self) -> list[str]:
        problems = self._file.problems()
        if problems:
            return problems
        for name, number, encoding in self._file.rows("SELECT name, id, encoding FROM applications"):
            ((wrong,),) = self._file.rows(
                "SELECT COUNT(*) FROM reference_codes WHERE application = ? AND length(code) != ?",
                (number, code_bytes(encoding)),
            )
            ((both,),) = self._file.rows(
                "SELECT COUNT(*) FROM reference_codes JOIN (SELECT application, record "
                "FROM tombstones WHERE application = ?) USING (application, record)",
                (number,),
            )
            for count, problem in ((wrong, "codes of a wrong length"), (both, "records that are valid and revoked")):
                if count:
                    problems.append(f"{self._file.path}: application {name}: {count} {problem}")
        return problems

    @contextlib.contextmanager
    def snapshot(self) -> Iterator["SqliteStore"]:
        with SqliteStore(self._file.path, read_only=True) as store:
            store.chain = self.chain
            with store._file.reading() as connection:
                connection.execute("SELECT 1 FROM owner").fetchall()  # from here on it stays
                yield store

    def erase(self) -> None:
        self._file.vacuum()

    def close(self) -> None:
        self._file.close()

    def _id(self, application: str) -> int:
        rows = self._file.rows("SELECT id FROM applications WHERE name = ?", (application,))
        if not rows:
            raise unknown_application(application)
        return int(rows[0][0])

    def _update(self, connection: sqlite3.Connection, application: Application) -> None:
        """Write threshold, epoch, revision and seal of an application."""
        refuse_other(self.application(application.name), application)
        connection.execute(
            "UPDATE applications SET threshold = ?, epoch = ?, revision = ?, seal = ?, "
            "version = version + 1 WHERE name = ?",
            (application.threshold, application.epoch, application.revision, application.seal, application.name),
        )

    def _counts(self, connection: sqlite3.Connection, application: str) -> Counts:
        """What the last entry about an application says, which counts go on from."""
        row = connection.execute(
            f"SELECT {AUDIT_COLUMNS} FROM audit WHERE application = ? ORDER BY sequence DESC LIMIT 1", (application,)
        ).fetchone()
        return self.chain.counts_of(entry_of_row(row) if row else None, application)

    def _append(self, connection: sqlite3.Connection, event: AuditEvent, counts: Counts) -> None:
        _append_entry(connection, self.chain, event, counts)

    def _revoke(self, connection: sqlite3.Connection, number: int, tombstones: Sequence[Tombstone]) -> None:
        """Delete valid records and leave tombstones; raises the version."""
        version = _next_version(connection, number)
        for stone in tombstones:
            deleted = connection.execute(
                "DELETE FROM reference_codes WHERE application = ? AND record = ? AND subject = ?",
                (number, stone.record, stone.subject_id),
            )
            if not deleted.rowcount:
                raise RevokedError(
                    f"record {stone.record} is not valid any more; nothing was changed", subject_id=stone.subject_id
                )
            connection.execute(
                f"INSERT INTO tombstones (application, {TOMBSTONE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
                (number, stone.subject_id, stone.record, stone.epoch, stone.seal, version),
            )

    def _refuse_subjects(
        self, connection: sqlite3.Connection, number: int, subjects: Sequence[str], another: bool, returning: bool
    ) -> None:
        enrolled = _subjects_in(connection, "reference_codes", number, subjects)
        if not another and enrolled:
            raise already_enrolled(min(enrolled))
        if not returning:
            revoked = _subjects_in(connection, "tombstones", number, subjects)
            if gone := set(revoked) - set(enrolled):
                raise revoked_subject(min(gone))

    def _refuse_epoch(self, connection: sqlite3.Connection, number: int, references: Sequence[Reference]) -> None:
        """Where the application has one key, only its newest epoch, and of no revoked template."""
        name, mode, epoch = connection.execute(
            "SELECT name, key_mode, epoch FROM applications WHERE id = ?", (number,)
        ).fetchone()
        if mode != "application":
            return
        if any(reference.epoch != epoch for reference in references):
            raise outdated_epoch(name)
        subjects = sorted({reference.subject_id for reference in references})
        for part in _parts(subjects):
            found = connection.execute(
                "SELECT subject FROM tombstones WHERE application = ? AND epoch >= ? "
                f"AND subject IN ({_marks(part)}) LIMIT 1",
                (number, epoch, *part),
            ).fetchone()
            if found:
                raise revoked_epoch(found[0], name)

    def _insert(
        self, connection: sqlite3.Connection, number: int, references: Sequence[Reference], *, fresh: bool
    ) -> list[Reference]:
        """Give out slots and add; raises the version."""
        version = _next_version(connection, number)
        _refuse_revoked(connection, number, references)
        placed = with_slots(references, {} if fresh else _slots_taken(connection, number, references))
        try:
            connection.executemany(
                "INSERT INTO reference_codes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((number, *row_of_reference(r), version) for r in placed),
            )
        except sqlite3.IntegrityError as error:
            raise EnrolmentError("a slot or a record number is taken already") from error
        return placed


OLD = Dialect("?", "INTEGER", "BLOB", "x''", "SELECT name FROM owner")


def upgrade_url(url: str, convert: Callable[[Upgrade], None]) -> bool:
    """See `iom.gallery.stores.store.upgrade_store`."""
    path, _ = _parsed(url)
    with contextlib.suppress(StoreError), contextlib.closing(SqliteFile(path, LAYOUT)):
        return False
    old = Layout(LAYOUT.noun, LAYOUT.application_id, 1, "")
    with contextlib.closing(SqliteFile(path, old)) as file:
        with file.writing() as connection:
            upgrade = Upgrade(lambda text, values: connection.execute(text, values).fetchall(), OLD)
            convert(upgrade)
            upgrade.finish()
            connection.execute(f"PRAGMA user_version = {LAYOUT.format}")
        file.forget_log()
    return True


def _append_entry(connection: sqlite3.Connection, chain: AuditChain, event: AuditEvent, counts: Counts) -> None:
    """Write an event behind the last entry of the audit log."""
    last = connection.execute("SELECT sequence, digest FROM audit ORDER BY sequence DESC LIMIT 1").fetchone()
    values = row_of_entry(chain.following(event, counts, last))
    connection.execute(f"INSERT INTO audit ({AUDIT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def _next_version(connection: sqlite3.Connection, number: int) -> int:
    """Raise the version of an application, and return it."""
    connection.execute("UPDATE applications SET version = version + 1 WHERE id = ?", (number,))
    query = "SELECT version FROM applications WHERE id = ?"
    return int(connection.execute(query, (number,)).fetchone()[0])


def _refuse_revoked(connection: sqlite3.Connection, number: int, references: Sequence[Reference]) -> None:
    """Raise `RevokedError` where a record has a tombstone."""
    records = {reference.record: reference.subject_id for reference in references}
    query = "SELECT record FROM tombstones WHERE application = ? AND record BETWEEN ? AND ?"
    for (record,) in connection.execute(query, (number, min(records), max(records))):
        if record in records:
            raise RevokedError(f"record {record} was revoked; it is never used again", subject_id=records[record])


def _slots_taken(connection: sqlite3.Connection, number: int, references: Sequence[Reference]) -> dict[str, set[int]]:
    """Slots of the valid references of the subjects of `references`."""
    query = "SELECT slot FROM reference_codes WHERE application = ? AND subject = ?"
    return {
        subject: {row[0] for row in connection.execute(query, (number, subject))}
        for subject in {reference.subject_id for reference in references}
    }


def _subjects_in(connection: sqlite3.Connection, table: str, number: int, subjects: Sequence[str]) -> list[str]:
    """Those of some subjects that have a row in a table."""
    found = []
    for part in _parts(subjects):
        found += connection.execute(
            f"SELECT DISTINCT subject FROM {table} WHERE application = ? AND subject IN ({_marks(part)})",
            (number, *part),
        ).fetchall()
    return [row[0] for row in found]


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _VALUES_A_QUERY):
        yield values[start : start + _VALUES_A_QUERY]


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
