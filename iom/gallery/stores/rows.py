"""What stores in SQL have in common: columns, rows as objects, slots, and what is refused."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from iom.errors import AlreadyEnrolledError, EnrolmentError, RevokedError, StoreError, UnknownApplicationError
from iom.gallery.audit import PSEUDONYM_BYTES, AuditEntry, AuditEvent, Counts
from iom.gallery.models import UNSLOTTED, Application, Reference, Tombstone

APPLICATION_COLUMNS = "name, encoding, model, threshold, key_mode, masked, epoch, created, revision, seal"
REFERENCE_COLUMNS = "subject, slot, record, epoch, code, seal, metadata, created"
"""In the order of the fields of `Reference`."""
TOMBSTONE_COLUMNS = "subject, record, epoch, seal, version"
"""In the order of the fields of `Tombstone`."""
AUDIT_COLUMNS = (
    "sequence, time, action, application, count, subjects, key_entries, valid, revoked, revision, previous, digest"
)
_FIXED = ("encoding", "model", "key_mode", "masked")
_APPLICATION = (str, str, str, int, str, bool, int, int, int, bytes)
_REFERENCE = (str, int, int, int, bytes, bytes, str, int)
_TOMBSTONE = (str, int, int, bytes, int)
_ENTRY = (int, int, str, str, int, bytes, int, int, int, int, bytes, bytes)
"""Types of the columns: SQLite keeps any in any column."""


def application_of_row(row: Sequence[Any]) -> Application:
    """Application of a row of `APPLICATION_COLUMNS`.

    Raises:
        StoreError: A value of another type, or out of its range.
    """
    values = [*row[:5], bool(row[5]), *row[6:]]
    try:
        return Application(*_checked(values, _APPLICATION, "application"))
    except EnrolmentError as error:
        raise StoreError(
            f"the record store was changed outside of the gallery, or is damaged: {error}. Take it from a backup"
        ) from error


def row_of_application(application: Application) -> list[Any]:
    """Values of an application in the order of `APPLICATION_COLUMNS`."""
    values = dataclasses.asdict(application)
    return [values[name] for name in APPLICATION_COLUMNS.split(", ")]


def reference_of_row(application: str, row: Sequence[object]) -> Reference:
    """Reference of a row of `REFERENCE_COLUMNS`; see `application_of_row`."""
    return Reference(application, *_checked(row, _REFERENCE, "reference"))


def tombstone_of_row(row: Sequence[object]) -> Tombstone:
    """Tombstone of a row of `TOMBSTONE_COLUMNS`; see `application_of_row`."""
    return Tombstone(*_checked(row, _TOMBSTONE, "tombstone"))


def row_of_reference(reference: Reference) -> tuple[object, ...]:
    """Values of a reference in the order of the table's columns, between its two outer ones."""
    r = reference
    return (r.record, r.subject_id, r.slot, r.epoch, r.code, r.seal, r.metadata, r.created)


def entry_of_row(row: Sequence[Any]) -> AuditEntry:
    """Audit entry of a row of `AUDIT_COLUMNS`; see `application_of_row`."""
    row = _checked(row, _ENTRY, "audit entry")
    sequence, time, action, application, count, joined, key_entries, *counts = row[:10]
    starts = range(0, len(joined), PSEUDONYM_BYTES)
    subjects = tuple(joined[start : start + PSEUDONYM_BYTES] for start in starts)
    event = AuditEvent(action, application, count, subjects, key_entries, time)
    return AuditEntry(sequence, event, Counts(*counts), *row[10:])


def row_of_entry(entry: AuditEntry) -> tuple[object, ...]:
    """Values of an audit entry in the order of `AUDIT_COLUMNS`."""
    event = entry.event
    return (
        *(entry.sequence, event.time, event.action, event.application, event.count),
        *(b"".join(event.subjects), event.key_entries, *dataclasses.astuple(entry.counts)),
        *(entry.previous, entry.digest),
    )


def version_of(value: object) -> int:
    """Version of an application; see `application_of_row`."""
    return int(_checked((value,), (int,), "version")[0])


def _checked(row: Sequence[Any], types: tuple[type, ...], noun: str) -> Sequence[Any]:
    if tuple(map(type, row)) != types:
        found = next(
            type(value).__name__ for value, expected in zip(row, types, strict=True) if type(value) is not expected
        )
        raise StoreError(
            f"the record store holds a value of a wrong type ({found}) in a row ({noun}): it was "
            "changed outside of the gallery, or is damaged. Take it from a backup"
        )
    return row


def unknown_application(application: str) -> UnknownApplicationError:
    """The error for a name that is not there."""
    return UnknownApplicationError(
        f"no application {application[:64]!a}; see iom stats, or iom init", application=application
    )


def already_enrolled(subject_id: str) -> AlreadyEnrolledError:
    """The error for a subject with a valid reference."""
    return AlreadyEnrolledError(
        f"subject {subject_id!r} is enrolled already; renew it, or add another reference", subject_id=subject_id
    )


def revoked_subject(subject_id: str) -> RevokedError:
    """The error for a subject that was revoked and has no valid reference."""
    return RevokedError(f"subject {subject_id!r} was revoked; renew it to bring it back", subject_id=subject_id)


def revoked_epoch(subject_id: str, application: str) -> RevokedError:
    """The error for a template that would be made under the key of a revoked one."""
    return RevokedError(
        f"subject {subject_id!r} was revoked under the key that application {application} has for "
        "all: rotate it first, or the new template is the revoked one",
        subject_id=subject_id,
    )


def outdated_epoch(application: str) -> EnrolmentError:
    """The error for references that were made before the key of an application was rotated."""
    return EnrolmentError(
        f"application {application}: its key was rotated in the meantime; nothing was written. Try again"
    )


def refuse_other(known: Application, application: Application) -> None:
    """Raise `EnrolmentError` where a change of an application would touch what codes depend on."""
    for name in _FIXED:
        if getattr(known, name) != getattr(application, name):
            raise EnrolmentError(
                f"application {known.name}: its {name} cannot be changed; make a new application and enrol again"
            )
    if application.revision <= known.revision:
        raise EnrolmentError(
            f"application {known.name} was changed by another process in the meantime; nothing was written. Try again"
        )
    if application.epoch < known.epoch:
        raise EnrolmentError(
            f"application {known.name}: expected key epoch {known.epoch} or later, received {application.epoch}"
        )


def with_slots(references: Sequence[Reference], taken: Mapping[str, set[int]]) -> list[Reference]:
    """References with the lowest free slot of their subject where they have none.

    Args:
        references: Of one application.
        taken: Slots of its valid references, by subject.
    """
    used = {subject: set(slots) for subject, slots in taken.items()}
    placed = []
    for reference in references:
        slots = used.get(reference.subject_id)
        if slots is None:
            slots = used[reference.subject_id] = set()
        if reference.slot == UNSLOTTED:
            slot = 0
            while slot in slots:
                slot += 1
            reference = reference.in_slot(slot)
        slots.add(reference.slot)
        placed.append(reference)
    return placed
