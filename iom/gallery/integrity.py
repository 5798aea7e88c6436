"""Integrity of a gallery: authentic settings, and agreement of record store and key store."""

import hmac
import time
from collections.abc import Iterator, Sequence

from iom.errors import StoreError
from iom.gallery.key_store import Anchor, KeyState, KeyStore
from iom.gallery.models import Application, Tombstone
from iom.gallery.stores.base import RecordStore
from iom.gallery.templates import check_seal, holds_seal

_LOOKS, _SECONDS_A_LOOK = 20, 0.1


def check_application(keys: KeyStore, application: Application, known: Application | None) -> None:
    """Refuse settings that were not written by this gallery, or are not the newest.

    `known` was read from the key store before the record store was; another process may have changed both since.
    """
    problem = _application_problem(keys, application, known)
    if problem:
        raise StoreError(f"{problem}; see iom check, and take the record store from a backup")


def _application_problem(keys: KeyStore, application: Application, known: Application | None) -> str:
    if not holds_seal(keys, application.name, application):
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
    # What was settled before the snapshot must be in it; what is in it may be settled only later.
    before = keys.state()
    for each in before.rollbacks:
        found.append(
            f"the record store was an older copy, or its audit log was cut: {each.found} entries "
            f"where the key store remembered {each.known}. Enrolments and changes in between are "
            "lost; where the copy was put back on purpose: iom check --accept"
        )
    with store.snapshot() as still:
        found += still.chain.problems(still.whole_audit())
        if before.anchor is not None and not holds_anchor(still, before.anchor):
            found.append(
                f"audit log: entry {before.anchor.sequence}, which the key store remembers, is missing or "
                "another one: the record store is an older copy, or its log was cut or rewritten"
            )
        applications = still.applications()
        for application in applications:
            found += _problems_of(still, keys, application, before)
        missing = {name for name, known in before.applications.items() if known.is_stored}
        missing -= {application.name for application in applications}
        found += [f"application {name}: the key store knows it, the record store does not" for name in sorted(missing)]
    return found


def _mask_problems(keys: KeyStore, application: str, records: Sequence[int], masked: set[int]) -> Iterator[str]:
    """Masks that are missing or cannot be opened, without those of records that are being revoked."""
    for record in records:
        if record not in masked and record not in keys.revoked(application):
            yield f"application {application}: record {record} has no mask in the key store"
    present = [record for record in records if record in masked]
    try:
        keys.masks(application, present)
    except StoreError:
        for record in present:
            try:
                keys.masks(application, [record])
            except StoreError as error:
                if record not in keys.revoked(application):
                    yield str(error)


def _problems_of(store: RecordStore, keys: KeyStore, application: Application, before: KeyState) -> Iterator[str]:
    name, references = application.name, 0
    problem = _application_problem(keys, application, before.known(name).settings)
    if problem:
        yield problem
    tombstones = store.tombstones(name)
    gone = {tombstone.record for tombstone in tombstones}.union(before.revoked.get(name, ()))
    masked = keys.masked_records(name)
    for page in store.pages(name):
        references += len(page)
        for reference in page:
            place = f"application {name}: record {reference.record}"
            try:
                check_seal(keys, reference)
            except StoreError:
                yield f"{place} was changed outside of the gallery, or is damaged"
            if reference.record in gone:
                yield f"{place} is valid and revoked"
        if application.masked:
            yield from _mask_problems(keys, name, [reference.record for reference in page], masked)
    yield from _tombstone_problems(keys, name, tombstones)
    head = store.audit_head(name)
    if head is None:
        yield f"application {name}: the audit log has no entry about it: it was cut or emptied"
        return
    for noun, expected, number in (
        ("valid references", head.counts.references, references),
        ("tombstones", head.counts.tombstones, len(tombstones)),
    ):
        if expected != number:
            yield (
                f"application {name}: expected {expected} {noun} by the audit log, found {number}: "
                "some were deleted or inserted outside of the gallery"
            )


def _tombstone_problems(keys: KeyStore, name: str, tombstones: Sequence[Tombstone]) -> Iterator[str]:
    forged = [tombstone.record for tombstone in tombstones if not holds_seal(keys, name, tombstone)]
    for record in forged[:20]:
        yield f"application {name}: the tombstone of record {record} was forged or changed"
    authentic = {tombstone.record for tombstone in tombstones}.difference(forged)
    for _ in range(_LOOKS):  # their writer has time to add them to the key store
        unknown = len(authentic.difference(keys.revoked(name)))
        if not unknown:
            return
        time.sleep(_SECONDS_A_LOOK)
    yield f"application {name}: {unknown} revoked records are missing in the key store"
