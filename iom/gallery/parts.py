"""Record numbers for keys of kind `part`: a renewed template must live in a part that is fresh."""

from collections.abc import Sequence

from iom.errors import RevokedError
from iom.gallery.key_store import KeyStore
from iom.gallery.record import Application
from iom.gallery.store import RecordStore
from iom.keys import part_of


def records_in_parts(
    store: RecordStore,
    keys: KeyStore,
    application: Application,
    subject_ids: Sequence[str],
    *,
    parts: int,
    above: int,
    fresh: bool,
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
        above: Numbers are larger than this.
        fresh: Whether the valid references are being renewed.

    Raises:
        RevokedError: Every part of a subject is used up.
    """
    revoked: dict[str, set[int]] = {}
    for record, subject_id in keys.revoked(application.name).items():
        revoked.setdefault(subject_id, set()).add(record)

    def lives_in(subject_id: str, record: int) -> int:
        return part_of(keys.record_key(application.name, subject_id, record), parts)

    def wanted(subject_id: str) -> int:
        buried = set(revoked.get(subject_id, ()))
        stones = store.tombstones(application.name, subject_id=subject_id)
        buried.update(stone.record for stone in stones)
        valid = [
            each.record
            for each in store.references(application.name, subject_id)
            if each.record not in buried
        ]
        if valid and not fresh:
            return lives_in(subject_id, valid[0])
        used = {lives_in(subject_id, record) for record in [*buried, *valid]}
        left = [part for part in range(parts) if part not in used]
        if not left:
            raise RevokedError(
                f"subject {subject_id!r} has used up all {parts} parts of the embedding: what "
                "leaked of one template tells of any further one. Enrol the subject with another "
                "embedder, or in an application whose keys are of another kind"
            )
        return left[0]

    targets = {subject_id: wanted(subject_id) for subject_id in set(subject_ids)}
    records = dict.fromkeys(range(len(subject_ids)), -1)
    missing = list(records)
    while missing:
        still = []
        numbers = store.reserve(application.name, len(missing), above=above)
        for row, record in zip(missing, numbers, strict=True):
            subject_id = subject_ids[row]
            if lives_in(subject_id, record) == targets[subject_id]:
                records[row] = record
            else:
                still.append(row)
        missing = still
    return list(records.values())
