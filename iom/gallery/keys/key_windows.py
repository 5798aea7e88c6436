"""Key windows: record numbers whose key of kind `part` lives in the part that it should."""

from collections.abc import Callable, Sequence

from iom.errors import RevokedError
from iom.gallery.keys.key_store import KeyStore
from iom.gallery.models import Application
from iom.gallery.stores.store import RecordStore
from iom.keys import part_of


def records_in_parts(
    store: RecordStore, keys: KeyStore, application: Application, subject_ids: Sequence[str], *, parts: int, fresh: bool
) -> list[int]:
    """Reserve a record number for each new template, whose key lives in the part it should.

    A subject's first template takes part 0 in every application, so that another part is left
    everywhere; further references join the part of those that are valid; a renewed template takes
    the lowest part that no template of the subject, valid or revoked, has lived in. The key of a
    record follows from its number: numbers whose key lives elsewhere are lost.

    Args:
        store: The record store.
        keys: Its key store.
        application: With a key for each record.
        subject_ids: Of the new templates; one may come several times.
        parts: Of the hasher, at least two.
        fresh: Whether the valid references are being renewed.

    Raises:
        RevokedError: Every part of a subject is used up.
    """
    revoked: dict[str, set[int]] = {}
    for each in keys.revoked(application.name).values():
        revoked.setdefault(each.subject_id, set()).add(each.record)

    def lives_in(subject_id: str, record: int) -> int:
        return part_of(keys.record_key(application.name, subject_id, record), parts)

    def wanted(subject_id: str) -> int:
        gone = set(revoked.get(subject_id, ()))
        tombstones = store.tombstones(application.name, subject_id=subject_id)
        gone.update(tombstone.record for tombstone in tombstones)
        valid = [each.record for each in store.references(application.name, subject_id) if each.record not in gone]
        if valid and not fresh:
            return lives_in(subject_id, valid[0])
        used = {lives_in(subject_id, record) for record in [*gone, *valid]}
        left = [part for part in range(parts) if part not in used]
        if not left:
            raise RevokedError(
                f"subject {subject_id!r} has used up all {parts} parts of the embedding: what "
                "leaked of one template tells of any further one. Enrol the subject with another "
                "embedder, or in an application whose keys are of another kind",
                subject_id=subject_id,
            )
        return left[0]

    targets = {subject_id: wanted(subject_id) for subject_id in set(subject_ids)}

    def fits(row: int, record: int) -> bool:
        return lives_in(subject_ids[row], record) == targets[subject_ids[row]]

    return _reserved(keys, application.name, len(subject_ids), fits)


def _reserved(keys: KeyStore, application: str, count: int, fits: Callable[[int, int], bool]) -> list[int]:
    """A record number for each of `count` rows, that fits it."""
    records = dict.fromkeys(range(count), -1)
    missing = list(records)
    while missing:
        still = []
        for row, record in zip(missing, keys.reserve(application, len(missing)), strict=True):
            if fits(row, record):
                records[row] = record
            else:
                still.append(row)
        missing = still
    return list(records.values())
