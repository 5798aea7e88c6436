"""Do the record store and the key store tell the same story? What a crash left is mended."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from iom.errors import StoreError
from iom.gallery.audit import AuditEntry, AuditEvent, chain_problems
from iom.gallery.key_store import KeyStore, RevokedRecord
from iom.gallery.record import Application
from iom.gallery.store import RecordStore
from iom.gallery.templates import check_seal


class EventMaker(Protocol):
    """Makes audit events; `Gallery.event`."""

    def __call__(self, action: str, application: str, subject_ids: Sequence[str], /) -> AuditEvent:
        """The event, as of now."""
        ...


def reconcile(store: RecordStore, keys: KeyStore, event: EventMaker) -> None:
    """Revoke in each store what is revoked in the other.

    A revocation is written to the record store first and to the key store after it: a crash between
    the two leaves a tombstone without an entry in the key store. An entry without a tombstone means
    that an older copy of the record store was put back: its code is deleted again.
    """
    for application in store.applications():
        name, revoked = application.name, keys.revoked(application.name)
        unknown = [
            RevokedRecord(stone.subject_id, stone.record)
            for stone in store.tombstones(name)
            if stone.record not in revoked
        ]
        if unknown:
            keys.revoke(name, unknown, None)
        risen = store.by_record(name, list(revoked))
        if risen:
            subjects = [reference.subject_id for reference in risen]
            records = [reference.record for reference in risen]
            store.revoke(name, records, event("revoke", name, subjects))


def problems(store: RecordStore, keys: KeyStore) -> list[str]:
    """All problems of both stores, one line each; empty when there are none."""
    found = store.check()
    if found:
        return found  # what a damaged medium holds says nothing
    anchors = {anchor.sequence: anchor.digest for anchor in keys.anchors()}
    kept: set[int] = set()

    def noting(entry: AuditEntry) -> None:
        if anchors.get(entry.sequence) == entry.digest:
            kept.add(entry.sequence)

    found += chain_problems(_audit(store, noting))
    lost = len(set(anchors) - kept)
    if lost:
        found.append(
            f"audit log: {lost} entries that the key store remembers are missing or others: the "
            "record store is an older copy, or its log was rewritten"
        )
    for application in store.applications():
        found += _application_problems(store, keys, application)
    return found


def _audit(store: RecordStore, noting: Callable[[AuditEntry], None]) -> Iterator[AuditEntry]:
    after = 0
    while entries := store.audit(after=after):
        for entry in entries:
            noting(entry)
            yield entry
        after = entries[-1].sequence


def _application_problems(
    store: RecordStore, keys: KeyStore, application: Application
) -> Iterator[str]:
    name, after = application.name, -1
    revoked, masked = keys.revoked(name), keys.masked_records(name)
    buried = {stone.record for stone in store.tombstones(name)}
    while page := store.scan(name, after=after):
        after = page[-1].record
        for reference in page:
            place = f"application {name}: record {reference.record}"
            try:
                check_seal(keys, reference)
            except StoreError:
                yield f"{place} was changed outside of the gallery, or is damaged"
            if reference.record in revoked or reference.record in buried:
                yield f"{place} is valid and revoked"
            if application.masked and reference.record not in masked:
                yield f"{place} has no mask in the key store"
    unknown = len(buried - set(revoked))
    if unknown:
        yield f"application {name}: {unknown} revoked records are missing in the key store"
