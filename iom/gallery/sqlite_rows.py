"""Rows of the SQLite store: as the objects they stand for, and changed in a transaction."""

import dataclasses
import sqlite3
from collections.abc import Sequence

from iom.errors import EnrolmentError, RevokedError
from iom.gallery.audit import PSEUDONYM_BYTES, ROOT, AuditEntry, AuditEvent, chained
from iom.gallery.record import UNSLOTTED, Application, Reference, Tombstone

APPLICATION_COLUMNS = "name, encoding, model, threshold, key_mode, masked, epoch, created"
REFERENCE_COLUMNS = "subject, slot, record, epoch, code, seal, metadata, created"
"""In the order of the fields of `Reference`."""
NUMBERS_A_QUERY = 500  # SQLite allows a limited number of values in a statement


def with_slots(
    connection: sqlite3.Connection,
    number: int,
    references: Sequence[Reference],
    *,
    new_subjects: bool,
) -> list[Reference]:
    """References with the lowest free slot of their subject where they have none."""
    taken: dict[str, set[int]] = {}
    query = "SELECT slot FROM reference_codes WHERE application = ? AND subject = ?"
    placed = []
    for reference in references:
        subject = reference.subject_id
        slots = taken.get(subject)
        if slots is None:
            rows = [] if new_subjects else connection.execute(query, (number, subject)).fetchall()
            slots = taken[subject] = {row[0] for row in rows}
        if reference.slot == UNSLOTTED:
            slot = next(slot for slot in range(len(slots) + 1) if slot not in slots)
            reference = dataclasses.replace(reference, slot=slot)
        slots.add(reference.slot)
        placed.append(reference)
    return placed


def refuse_revoked(
    connection: sqlite3.Connection, number: int, references: Sequence[Reference]
) -> None:
    """Raise `RevokedError` where a record has a tombstone."""
    records = {reference.record for reference in references}
    query = "SELECT record FROM tombstones WHERE application = ? AND record BETWEEN ? AND ?"
    for (record,) in connection.execute(query, (number, min(records), max(records))):
        if record in records:
            raise RevokedError(f"record {record} was revoked; it is never used again")


def append_event(connection: sqlite3.Connection, event: AuditEvent) -> None:
    """Write an event behind the last entry of the audit log."""
    last = connection.execute(
        "SELECT sequence, digest FROM audit ORDER BY sequence DESC LIMIT 1"
    ).fetchone()
    sequence, previous = last or (0, ROOT)
    entry = chained(event, sequence + 1, previous)
    connection.execute(
        "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(entry.sequence, event.time, event.action, event.application, event.count),
            *(b"".join(event.subjects), event.key_entries, entry.previous, entry.digest),
        ),
    )


def entry_of_row(row: tuple[int, int, str, str, int, bytes, int, bytes, bytes]) -> AuditEntry:
    """Audit entry of a row."""
    sequence, time, action, application, count, joined, key_entries, previous, digest = row
    starts = range(0, len(joined), PSEUDONYM_BYTES)
    subjects = tuple(joined[start : start + PSEUDONYM_BYTES] for start in starts)
    event = AuditEvent(action, application, count, subjects, key_entries, time)
    return AuditEntry(sequence, event, previous, digest)


def application_of_row(row: Sequence[object]) -> Application:
    """Application of a row of `APPLICATION_COLUMNS`."""
    values = dict(zip(APPLICATION_COLUMNS.split(", "), row, strict=True))
    return Application(**{**values, "masked": bool(values["masked"])})  # type: ignore[arg-type]


def reference_of_row(application: str, row: Sequence[object]) -> Reference:
    """Reference of a row of `REFERENCE_COLUMNS`."""
    return Reference(application, *row)  # type: ignore[arg-type]


def unknown_application(application: str) -> EnrolmentError:
    """The error for a name that is not there."""
    return EnrolmentError(f"no application {application[:64]!a}; see iom stats, or iom init")


def row_of_reference(reference: Reference) -> tuple[object, ...]:
    """Values of a reference in the order of the table's columns, between its two outer ones."""
    r = reference
    return (r.record, r.subject_id, r.slot, r.epoch, r.code, r.seal, r.metadata, r.created)


def next_version(connection: sqlite3.Connection, number: int) -> int:
    """Raise the version of an application, and return it."""
    connection.execute("UPDATE applications SET version = version + 1 WHERE id = ?", (number,))
    query = "SELECT version FROM applications WHERE id = ?"
    return int(connection.execute(query, (number,)).fetchone()[0])


def refuse_enrolled(
    connection: sqlite3.Connection, number: int, references: Sequence[Reference]
) -> None:
    """Raise `EnrolmentError` where a subject has a valid reference."""
    subjects = sorted({reference.subject_id for reference in references})
    for start in range(0, len(subjects), NUMBERS_A_QUERY):
        part = subjects[start : start + NUMBERS_A_QUERY]
        known = connection.execute(
            "SELECT subject FROM reference_codes WHERE application = ? "
            f"AND subject IN ({', '.join('?' * len(part))}) LIMIT 1",
            (number, *part),
        ).fetchone()
        if known:
            raise EnrolmentError(
                f"subject {known[0]!r} is enrolled already; renew it, or ask for another reference"
            )


def bury(connection: sqlite3.Connection, number: int, records: Sequence[int]) -> list[Tombstone]:
    """Delete valid records and leave tombstones; raises the version."""
    version = next_version(connection, number)
    buried = []
    for record in map(int, records):
        row = connection.execute(
            "DELETE FROM reference_codes WHERE application = ? AND record = ? RETURNING subject",
            (number, record),
        ).fetchone()
        if row is None:
            raise RevokedError(f"record {record} is not valid any more; nothing was changed")
        buried.append(Tombstone(row[0], record, version))
        connection.execute(
            "INSERT INTO tombstones VALUES (?, ?, ?, ?)", (number, record, row[0], version)
        )
    return buried
