"""Rows of the SQLite store, changed in a transaction."""

import sqlite3
from collections.abc import Sequence

from iom.errors import RevokedError
from iom.gallery.audit import ROOT, AuditEvent, chained
from iom.gallery.record import Reference, Tombstone
from iom.gallery.rows import already_enrolled, row_of_entry

NUMBERS_A_QUERY = 500  # SQLite allows a limited number of values in a statement


def slots_taken(
    connection: sqlite3.Connection, number: int, references: Sequence[Reference]
) -> dict[str, set[int]]:
    """Slots of the valid references of the subjects of `references`."""
    query = "SELECT slot FROM reference_codes WHERE application = ? AND subject = ?"
    return {
        subject: {row[0] for row in connection.execute(query, (number, subject))}
        for subject in {reference.subject_id for reference in references}
    }


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
    connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row_of_entry(entry))


def next_version(connection: sqlite3.Connection, number: int) -> int:
    """Raise the version of an application, and return it."""
    connection.execute("UPDATE applications SET version = version + 1 WHERE id = ?", (number,))
    query = "SELECT version FROM applications WHERE id = ?"
    return int(connection.execute(query, (number,)).fetchone()[0])


def refuse_enrolled(
    connection: sqlite3.Connection, number: int, references: Sequence[Reference]
) -> None:
    """Raise `AlreadyEnrolledError` where a subject has a valid reference."""
    subjects = sorted({reference.subject_id for reference in references})
    for start in range(0, len(subjects), NUMBERS_A_QUERY):
        part = subjects[start : start + NUMBERS_A_QUERY]
        known = connection.execute(
            "SELECT subject FROM reference_codes WHERE application = ? "
            f"AND subject IN ({', '.join('?' * len(part))}) LIMIT 1",
            (number, *part),
        ).fetchone()
        if known:
            raise already_enrolled(known[0])


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
