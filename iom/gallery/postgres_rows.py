"""Rows of the PostgreSQL store, changed in a transaction that holds the write lock."""

from collections.abc import Sequence
from typing import Any

import psycopg

from iom.errors import EnrolmentError, RevokedError
from iom.gallery.audit import ROOT, AuditEvent, chained
from iom.gallery.record import Reference, Tombstone
from iom.gallery.rows import already_enrolled, row_of_entry, row_of_reference

Connection = psycopg.Connection[Any]
_TYPES = ("int4", "int8", "text", "int4", "int4", "bytea", "bytea", "text", "int8", "int8")


def next_version(connection: Connection, number: int) -> int:
    """Raise the version of an application, and return it."""
    rows = connection.execute(
        "UPDATE applications SET version = version + 1 WHERE id = %s RETURNING version", (number,)
    )
    return int(rows.fetchall()[0][0])


def refuse_revoked(connection: Connection, number: int, references: Sequence[Reference]) -> None:
    """Raise `RevokedError` where a record has a tombstone."""
    found = connection.execute(
        "SELECT record FROM tombstones WHERE application = %s AND record = ANY(%s) LIMIT 1",
        (number, [reference.record for reference in references]),
    ).fetchall()
    if found:
        raise RevokedError(f"record {found[0][0]} was revoked; it is never used again")


def refuse_enrolled(connection: Connection, number: int, references: Sequence[Reference]) -> None:
    """Raise `AlreadyEnrolledError` where a subject has a valid reference."""
    known = connection.execute(
        "SELECT subject FROM reference_codes WHERE application = %s AND subject = ANY(%s) LIMIT 1",
        (number, list({reference.subject_id for reference in references})),
    ).fetchall()
    if known:
        raise already_enrolled(known[0][0])


def slots_taken(
    connection: Connection, number: int, references: Sequence[Reference]
) -> dict[str, set[int]]:
    """Slots of the valid references of the subjects of `references`."""
    taken: dict[str, set[int]] = {}
    for subject, slot in connection.execute(
        "SELECT subject, slot FROM reference_codes WHERE application = %s AND subject = ANY(%s)",
        (number, list({reference.subject_id for reference in references})),
    ):
        taken.setdefault(subject, set()).add(slot)
    return taken


def copy_in(
    connection: Connection, number: int, references: Sequence[Reference], version: int
) -> None:
    """Write references as one stream.

    Raises:
        EnrolmentError: A slot or a record number is taken.
    """
    statement = "COPY reference_codes FROM STDIN (FORMAT BINARY)"
    try:
        with connection.cursor() as cursor, cursor.copy(statement) as stream:
            stream.set_types(_TYPES)
            for reference in references:
                stream.write_row((number, *row_of_reference(reference), version))
    except psycopg.errors.UniqueViolation:
        raise EnrolmentError("a slot or a record number is taken already") from None


def append_event(connection: Connection, event: AuditEvent) -> None:
    """Write an event behind the last entry of the audit log."""
    last = connection.execute(
        "SELECT sequence, digest FROM audit ORDER BY sequence DESC LIMIT 1"
    ).fetchone()
    sequence, previous = last or (0, ROOT)
    entry = chained(event, sequence + 1, previous)
    connection.execute(
        "INSERT INTO audit VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)", row_of_entry(entry)
    )


def bury(connection: Connection, number: int, records: Sequence[int]) -> list[Tombstone]:
    """Delete valid records and leave tombstones; raises the version."""
    version = next_version(connection, number)
    wanted = list(map(int, records))
    subjects = dict(
        connection.execute(
            "DELETE FROM reference_codes WHERE application = %s AND record = ANY(%s) "
            "RETURNING record, subject",
            (number, wanted),
        ).fetchall()
    )
    missing = [record for record in wanted if record not in subjects]
    if missing or len(subjects) != len(wanted):
        record = missing[0] if missing else wanted[0]
        raise RevokedError(f"record {record} is not valid any more; nothing was changed")
    connection.execute(
        "INSERT INTO tombstones SELECT %s, record, subject, %s "
        "FROM unnest(%s::bigint[], %s::text[]) AS dead (record, subject)",
        (number, version, list(subjects), list(subjects.values())),
    )
    return [Tombstone(subjects[record], record, version) for record in wanted]
