"""Integrity of a gallery: agreement of record store and key store, and repair after a crash."""

import dataclasses
import hmac
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from iom.errors import StoreError
from iom.gallery.audit import AuditEntry, AuditEvent
from iom.gallery.keys.key_store import Anchor, KeyStore, RevokedRecord
from iom.gallery.models import Application, Reference, Tombstone
from iom.gallery.stores.base import RecordStore
from iom.gallery.templates import (
    check_seal,
    holds_application_seal,
    holds_tombstone_seal,
    sealed_application,
    tombstone_of,
)

_LOOKS, _SECONDS_A_LOOK = 20, 0.1


EventMaker = Callable[[str, str, Sequence[str]], AuditEvent]
"""`Gallery.event`, of action, application and subjects."""


def check_application(keys: KeyStore, application: Application, known: Application | None) -> None:
    """Refuse settings that were not written by this gallery, or are not the newest.

    `known` was read from the key store before the record store was; another process may have changed both since.
    """
    problem = _application_problem(keys, application, known)
    if problem:
        raise StoreError(f"{problem}; see iom check, and take the record store from a backup")


def _application_problem(keys: KeyStore, application: Application, known: Application | None) -> str:
    if not holds_application_seal(keys, application):
        return (
            f"application {application.name}: its settings (threshold, key epoch, masking, ...) "
            "were changed outside of the gallery"
        )
    if known is not None and application.revision < known.revision:
        return (
            f"application {application.name}: its settings were set back to those of revision "
            f"{application.revision}; the key store knows revision {known.revision}"
        )
    return ""


def reconcile(store: RecordStore, keys: KeyStore, event: EventMaker, *, now: int) -> None:
    """Make the two stores agree after a crash, or after an older record store was put back.

    A revocation is written to the record store first, to the key store after it: a crash in between leaves a tombstone
    that the key store does not know. A revoked record without a tombstone means that an older copy of the record store
    was put back: its code is deleted again, and applications get their newest settings. Tombstones without an authentic
    seal are left to `problems`.
    """
    head = store.audit_head()
    is_older = not holds_anchor(store, keys.anchor())
    if is_older:
        keys.note_rollback(head, now=now)
    for application in store.applications():
        name = application.name
        last = store.audit_head(name)
        if last is None or not store.chain.holds(last):
            continue  # its log was emptied or forged, which `problems` reports
        known = keys.known(name).settings
        if is_older and known is not None and application.revision < known.revision:
            newest = dataclasses.replace(known, revision=known.revision + 1)
            changed = sealed_application(keys, newest)
            store.update_application(changed, event("restore", name, ()))
            keys.settle(store.audit_head(name), changed)
        revoked = keys.revoked(name)
        unknown = [
            RevokedRecord(tombstone.subject_id, tombstone.record, tombstone.epoch)
            for tombstone in store.tombstones(name)
            if tombstone.record not in revoked and holds_tombstone_seal(keys, name, tombstone)
        ]
        if unknown:
            keys.revoke(name, unknown)
        revived = store.by_record(name, list(revoked))
        if revived:
            subjects = [reference.subject_id for reference in revived]
            tombstones = [tombstone_of(keys, reference) for reference in revived]
            store.revoke(name, tombstones, event("revoke", name, subjects))
        _settle_rest(store, keys, application)


def _settle_rest(store: RecordStore, keys: KeyStore, application: Application) -> None:
    """Settings and counts that a killed process has not written to the key store."""
    head = store.audit_head(application.name)
    if head is None or not store.chain.holds(head):
        return
    anchor, known = keys.anchor(), keys.known(application.name).settings
    stored = store.application(application.name)
    is_new = (known is None or known.revision < stored.revision) and holds_application_seal(keys, stored)
    if is_new or anchor is None or head.sequence > anchor.sequence:
        keys.settle(head, stored if is_new else None)


def holds_anchor(store: RecordStore, anchor: Anchor | None) -> bool:
    """Whether the log has the entry that the key store remembers, read before this call; else it is older or cut."""
    if anchor is None:
        return True
    entries = store.audit(after=anchor.sequence - 1, limit=1)
    return bool(entries) and hmac.compare_digest(entries[0].digest, anchor.digest)


def problems(store: RecordStore, keys: KeyStore) -> list[str]:
    """All problems of both stores, one line each; empty when there are none."""
    found = [*store.check(), *keys.problems()]
    if found:
        return found  # the content of a damaged medium proves nothing
    for each in keys.rollbacks():
        found.append(
            f"the record store was an older copy, or its audit log was cut: {each.found} entries "
            f"where the key store remembered {each.known}. Enrolments and changes in between are "
            "lost; where the copy was put back on purpose: iom check --accept"
        )
    # What was settled before the snapshot must be in it; what is in it may be settled only later.
    anchor = keys.anchor()
    before = {name: _Settled(keys.known(name).settings, keys.revoked(name)) for name in keys.known_names()}
    with store.snapshot() as still:
        found += still.chain.problems(still.whole_audit())
        if anchor is not None and not holds_anchor(still, anchor):
            found.append(
                f"audit log: entry {anchor.sequence}, which the key store remembers, is missing or "
                "another one: the record store is an older copy, or its log was cut or rewritten"
            )
        applications = still.applications()
        for application in applications:
            settled = before.get(application.name, _Settled(None, {}))
            found += _problems_of(still, keys, application, settled)
        missing = set(before) - {application.name for application in applications}
        found += [f"application {name}: the key store knows it, the record store does not" for name in sorted(missing)]
    return found


class _Settled(NamedTuple):
    """Settings and counts of an application that the key store had before a snapshot was taken."""

    application: Application | None
    revoked: Mapping[int, RevokedRecord]


def _mask_problems(keys: KeyStore, application: str, records: Sequence[int]) -> Iterator[str]:
    """Masks that cannot be opened, without those of records that are being revoked."""
    try:
        keys.masks(application, records)
    except StoreError:
        for record in records:
            try:
                keys.masks(application, [record])
            except StoreError as error:
                if record not in keys.revoked(application):
                    yield str(error)


def _problems_of(store: RecordStore, keys: KeyStore, application: Application, settled: _Settled) -> Iterator[str]:
    name, references = application.name, 0
    problem = _application_problem(keys, application, settled.application)
    if problem:
        yield problem
    tombstones = store.tombstones(name)
    gone = {tombstone.record for tombstone in tombstones}
    masked, revoked = keys.masked_records(name), keys.revoked(name)
    for page in store.pages(name):
        references += len(page)
        for reference in page:
            yield from _reference_problems(keys, reference, gone, settled)
        if application.masked:
            unmasked = [r.record for r in page if r.record not in masked and r.record not in revoked]
            yield from (f"application {name}: record {record} has no mask in the key store" for record in unmasked)
            yield from _mask_problems(keys, name, [r.record for r in page if r.record in masked])
    yield from _tombstone_problems(keys, name, tombstones)
    yield from _count_problems(store.audit_head(name), name, references, len(tombstones))


def _reference_problems(keys: KeyStore, reference: Reference, gone: set[int], settled: _Settled) -> Iterator[str]:
    place = f"application {reference.application}: record {reference.record}"
    try:
        check_seal(keys, reference)
    except StoreError:
        yield f"{place} was changed outside of the gallery, or is damaged"
    if reference.record in settled.revoked or reference.record in gone:
        yield f"{place} is valid and revoked"


def _tombstone_problems(keys: KeyStore, name: str, tombstones: Sequence[Tombstone]) -> Iterator[str]:
    forged = [tombstone.record for tombstone in tombstones if not holds_tombstone_seal(keys, name, tombstone)]
    for record in forged[:20]:
        yield f"application {name}: the tombstone of record {record} was forged or changed"
    sealed = {tombstone.record for tombstone in tombstones}.difference(forged)
    for _ in range(_LOOKS):  # their writer has time to add them to the key store
        unknown = len(sealed.difference(keys.revoked(name)))
        if not unknown:
            return
        time.sleep(_SECONDS_A_LOOK)
    yield f"application {name}: {unknown} revoked records are missing in the key store"


def _count_problems(head: AuditEntry | None, name: str, references: int, tombstones: int) -> Iterator[str]:
    if head is None:
        yield f"application {name}: the audit log has no entry about it: it was cut or emptied"
        return
    for what, expected, number in (
        ("valid references", head.counts.references, references),
        ("tombstones", head.counts.tombstones, tombstones),
    ):
        if expected != number:
            yield (
                f"application {name}: expected {expected} {what} by the audit log, found {number}: "
                "some were deleted or inserted outside of the gallery"
            )
