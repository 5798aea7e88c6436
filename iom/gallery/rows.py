"""What stores in SQL have in common: columns, rows as objects, slots, and what is refused."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from iom.errors import AlreadyEnrolledError, EnrolmentError, UnknownApplicationError
from iom.gallery.audit import PSEUDONYM_BYTES, AuditEntry, AuditEvent
from iom.gallery.record import UNSLOTTED, Application, Reference

APPLICATION_COLUMNS = "name, encoding, model, threshold, key_mode, masked, epoch, created"
REFERENCE_COLUMNS = "subject, slot, record, epoch, code, seal, metadata, created"
"""In the order of the fields of `Reference`."""
AUDIT_COLUMNS = (
    "sequence, time, action, application, count, subjects, key_entries, previous, digest"
)
_FIXED = ("encoding", "model", "key_mode", "masked")


def application_of_row(row: Sequence[object]) -> Application:
    """Application of a row of `APPLICATION_COLUMNS`."""
    values = dict(zip(APPLICATION_COLUMNS.split(", "), row, strict=True))
    return Application(**{**values, "masked": bool(values["masked"])})  # type: ignore[arg-type]


def row_of_application(application: Application) -> list[Any]:
    """Values of an application in the order of `APPLICATION_COLUMNS`."""
    values = dataclasses.asdict(application)
    return [values[name] for name in APPLICATION_COLUMNS.split(", ")]


def reference_of_row(application: str, row: Sequence[object]) -> Reference:
    """Reference of a row of `REFERENCE_COLUMNS`."""
    return Reference(application, *row)  # type: ignore[arg-type]


def row_of_reference(reference: Reference) -> tuple[object, ...]:
    """Values of a reference in the order of the table's columns, between its two outer ones."""
    r = reference
    return (r.record, r.subject_id, r.slot, r.epoch, r.code, r.seal, r.metadata, r.created)


def entry_of_row(row: tuple[int, int, str, str, int, bytes, int, bytes, bytes]) -> AuditEntry:
    """Audit entry of a row of `AUDIT_COLUMNS`."""
    sequence, time, action, application, count, joined, key_entries, previous, digest = row
    starts = range(0, len(joined), PSEUDONYM_BYTES)
    subjects = tuple(joined[start : start + PSEUDONYM_BYTES] for start in starts)
    event = AuditEvent(action, application, count, subjects, key_entries, time)
    return AuditEntry(sequence, event, previous, digest)


def row_of_entry(entry: AuditEntry) -> tuple[object, ...]:
    """Values of an audit entry in the order of `AUDIT_COLUMNS`."""
    event = entry.event
    return (
        *(entry.sequence, event.time, event.action, event.application, event.count),
        *(b"".join(event.subjects), event.key_entries, entry.previous, entry.digest),
    )


def unknown_application(application: str) -> UnknownApplicationError:
    """The error for a name that is not there."""
    return UnknownApplicationError(
        f"no application {application[:64]!a}; see iom stats, or iom init", application=application
    )


def already_enrolled(subject_id: str) -> AlreadyEnrolledError:
    """The error for a subject that has a valid reference."""
    return AlreadyEnrolledError(
        f"subject {subject_id!r} is enrolled already; renew it, or ask for another reference",
        subject_id=subject_id,
    )


def refuse_other(known: Application, application: Application) -> None:
    """Raise `EnrolmentError` where a change of an application would touch what codes depend on."""
    for name in _FIXED:
        if getattr(known, name) != getattr(application, name):
            raise EnrolmentError(
                f"application {known.name}: its {name} cannot be changed; make a new "
                "application and enrol again"
            )
    if application.epoch < known.epoch:
        raise EnrolmentError(
            f"application {known.name}: expected key epoch {known.epoch} or later, "
            f"received {application.epoch}"
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


def with_slots_of(old: Sequence[Reference], new: Sequence[Reference]) -> list[Reference]:
    """References of `new` that have no slot take those of `old`, in turn."""
    slots = iter([reference.slot for reference in old])
    return [
        reference.in_slot(next(slots, UNSLOTTED)) if reference.slot == UNSLOTTED else reference
        for reference in new
    ]
