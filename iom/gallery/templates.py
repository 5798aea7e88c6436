"""Templates: embeddings become sealed references under the keys of their records, and comparable codes again."""

import dataclasses
import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from iom._registry import lookup
from iom.codes.packing import PackedCodes, code_bytes, encoding_id, encoding_shape, pack, plane_count, word_count
from iom.errors import EnrolmentError, RevokedError, StoreError
from iom.gallery.key_store import KeyStore
from iom.gallery.models import UNSLOTTED, Application, Reference, Tombstone
from iom.gallery.stores.base import RecordStore
from iom.keys import TransformKey, check_key_kind, part_of
from iom.metrics.template_pooling import majority_codes, mean_vectors
from iom.models.face_hasher import FaceHasher, ForwardingFaceHasher, Keys

Rows = NDArray[np.float32]


class MajorityHasher(ForwardingFaceHasher):
    """A hasher of rows `(N, k D)`, the images of a subject side by side, that votes at each position.

    All images are hashed under the key of the record; the most frequent symbol of each position counts, the lowest of
    equally frequent ones.
    """

    def hash(self, embeddings: Rows, keys: Keys) -> NDArray[np.uint8]:
        """Codes `(N, M)` of rows `(N, k D)`."""
        rows = np.asarray(embeddings, np.float32)
        images, rest = divmod(rows.shape[1], self.embedding_size)
        if rest or not images:
            raise EnrolmentError(
                f"expected rows of whole embeddings of size {self.embedding_size}, received {rows.shape}"
            )
        if images == 1:
            return self._hasher.hash(rows, keys)
        if not isinstance(keys, TransformKey):
            keys = [key for key in keys for _ in range(images)]
        codes = self._hasher.hash(rows.reshape(-1, self.embedding_size), keys)
        return majority_codes(codes, np.repeat(np.arange(len(rows)), images), self.alphabet_size)


_FUSIONS: dict[str, Callable[[Rows], Rows]] = {
    "none": lambda rows: rows,
    "centroid": lambda rows: mean_vectors(rows, np.zeros(len(rows), np.int64)).astype(np.float32),
    "majority": lambda rows: rows.reshape(1, -1),
}
"""Rows for `Gallery.enroll` from the images of a subject: each image, their mean, or all in one row for a gallery with
a `MajorityHasher`."""


def fuse(embeddings: NDArray[Any], how: str) -> Rows:
    """Rows to enrol for the images of one subject, `(k, D)` of unit length, by a name of `FUSIONS`."""
    return lookup(_FUSIONS, how, "fusion")(rows_of(embeddings))


def check_hasher(application: Application, hasher: FaceHasher | None) -> FaceHasher:
    """The hasher, if it makes the codes of the application; warns of keys that hide little."""
    if hasher is None:
        raise EnrolmentError("this gallery was opened without a hasher: it cannot take embeddings")
    encoding = encoding_id(hasher.code_length, hasher.alphabet_size)
    if encoding != application.encoding:
        raise EnrolmentError(
            f"application {application.name} holds codes {application.encoding}, this hasher makes "
            f"{encoding}; use the hasher it was made with, or make a new application"
        )
    if hasher.fingerprint != application.model:
        raise EnrolmentError(
            f"application {application.name} belongs to the model {application.model[:12]}..., "
            f"received {hasher.fingerprint[:12]}...; codes of two models never compare"
        )
    check_key_kind(hasher.key_kind, application=application.name, masked=application.masked)
    return hasher


def rows_of(embeddings: NDArray[Any]) -> NDArray[np.float32]:
    """Finite embeddings `(N, D)` of one `(D,)` or several."""
    rows = np.atleast_2d(np.asarray(embeddings, np.float32))
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise EnrolmentError(
            f"embeddings: expected finite values of shape (D,) or (N, D), received shape {np.shape(embeddings)}"
            + ("" if not rows.size else " or values that are not finite")
        )
    return rows


def record_keys(
    keys: KeyStore, application: Application, references: Sequence[tuple[str, int, int]]
) -> list[TransformKey]:
    """Key of each `(subject_id, record, epoch)`."""
    if application.key_mode == "application":
        epochs = {epoch for _, _, epoch in references}
        shared = {epoch: keys.application_key(application.name, epoch) for epoch in epochs}
        return [shared[epoch] for _, _, epoch in references]
    return [keys.record_key(application.name, subject, record) for subject, record, _ in references]


def reserve_records(
    store: RecordStore,
    keys: KeyStore,
    application: Application,
    subject_ids: Sequence[str],
    *,
    parts: int,
    renewed: bool,
) -> Sequence[int]:
    """Record numbers of new templates, which decide their keys.

    Keys of kind `part` keep one part of the embedding, and a part must not serve a subject again after a revocation.
    The first template of a subject uses part 0 in every application, so that the other parts are unused everywhere;
    further references use the part of the valid ones; a renewed template the lowest part that no template of the
    subject, valid or revoked, has used (a `RevokedError` where none is left). Numbers whose key has another part are
    skipped.
    """
    name = application.name
    if parts == 1:
        return keys.reserve(name, len(subject_ids))
    revoked: dict[str, set[int]] = {}
    for each in keys.revoked(name).values():
        revoked.setdefault(each.subject_id, set()).add(each.record)

    def part(subject_id: str, record: int) -> int:
        return part_of(keys.record_key(name, subject_id, record), parts)

    def wanted(subject_id: str) -> int:
        gone = revoked.get(subject_id, set()) | {each.record for each in store.tombstones(name, subject_id=subject_id)}
        valid = [each.record for each in store.references(name, subject_id) if each.record not in gone]
        if valid and not renewed:
            return part(subject_id, valid[0])
        used = {part(subject_id, record) for record in [*gone, *valid]}
        left = [number for number in range(parts) if number not in used]
        if not left:
            raise RevokedError(
                f"subject {subject_id!r} has used up all {parts} parts of the embedding: a template that leaked tells "
                "of every further one. Enrol the subject with another embedder, or in an application whose keys are "
                "of another kind",
                subject_id=subject_id,
            )
        return left[0]

    targets = {subject_id: wanted(subject_id) for subject_id in set(subject_ids)}
    records = dict.fromkeys(range(len(subject_ids)), -1)
    missing = list(records)
    while missing:
        rejected = []
        for row, record in zip(missing, keys.reserve(name, len(missing)), strict=True):
            if part(subject_ids[row], record) == targets[subject_ids[row]]:
                records[row] = record
            else:
                rejected.append(row)
        missing = rejected
    return list(records.values())


def make_references(
    keys: KeyStore,
    hasher: FaceHasher,
    application: Application,
    rows: Sequence[tuple[str, int, str]],
    embeddings: NDArray[np.float32],
    *,
    created: int,
) -> list[Reference]:
    """Hash, mask and seal new templates; their masks are in the key store when this returns.

    `rows` has subject, record number and metadata for each of `embeddings` `(N, D)`.
    """
    places = [(subject, record, application.epoch) for subject, record, _ in rows]
    if application.key_mode == "application":
        codes = hasher.hash(embeddings, keys.application_key(application.name, application.epoch))
    else:
        codes = hasher.hash(embeddings, record_keys(keys, application, places))
    planes = pack(codes, hasher.alphabet_size).planes
    if application.masked:
        masks = _draw_masks(application, len(rows))
        keys.put_masks(
            application.name, {record: mask.tobytes() for (_, record, _), mask in zip(rows, masks, strict=True)}
        )
        planes = planes ^ masks
    stored, size = planes.astype("<u8", copy=False).tobytes(), code_bytes(application.encoding)
    name, epoch = application.name, application.epoch
    references = []
    for place, (subject, record, metadata) in enumerate(rows):
        code = stored[place * size : (place + 1) * size]
        seal = _seal(keys, name, subject, record, epoch, created, metadata, code)
        references.append(Reference(name, subject, UNSLOTTED, record, epoch, code, seal, metadata, created))
    return references


def unmasked(keys: KeyStore, application: Application, references: Sequence[Reference]) -> PackedCodes:
    """Codes of stored references without their masks."""
    codes = [reference.code for reference in references]
    code_length, alphabet_size = encoding_shape(application.encoding)
    size = code_bytes(application.encoding)
    if any(len(code) != size for code in codes):
        raise StoreError(f"application {application.name}: a code has a wrong length; run iom check")
    shape = (len(codes), plane_count(alphabet_size), word_count(code_length))
    planes = np.frombuffer(b"".join(codes), "<u8").astype(np.uint64).reshape(shape)
    if application.masked and codes:
        masks = keys.masks(application.name, [each.record for each in references])
        planes ^= np.frombuffer(b"".join(masks), "<u8").astype(np.uint64).reshape(shape)
    return PackedCodes(planes, code_length, alphabet_size)


def _seal(
    keys: KeyStore, application: str, subject_id: str, record: int, epoch: int, created: int, metadata: str, code: bytes
) -> bytes:
    """Authentication tag of all fields of a reference but its slot and the tag itself."""
    # Neither names nor JSON hold a zero character, so that fields cannot run into each other.
    fields = f"{application}\0{subject_id}\0{record}\0{epoch}\0{created}\0{metadata}\0"
    return keys.seal(fields.encode() + code)


def check_seal(keys: KeyStore, reference: Reference) -> None:
    """Raise `StoreError` if a reference was not written by a gallery with these keys."""
    r = reference
    expected = _seal(keys, r.application, r.subject_id, r.record, r.epoch, r.created, r.metadata, r.code)
    if not hmac.compare_digest(expected, r.seal):
        raise StoreError(
            f"application {r.application}: record {r.record} was changed outside "
            "of the gallery, or is damaged; revoke it and enrol the subject again"
        )


Sealed = TypeVar("Sealed", Application, Tombstone)


def _seal_of(keys: KeyStore, application: str, record: Application | Tombstone) -> bytes:
    if isinstance(record, Application):
        kind, fields = "application", [*(record.fields() | {"masked": int(record.masked)}).values()]
    else:
        kind, fields = "tombstone", [application, record.subject_id, record.record, record.epoch]
    # No name is empty, so that this is never the message of a reference.
    return keys.seal(f"\0{kind}\0{json.dumps(fields, separators=(',', ':'))}".encode())


def sealed(keys: KeyStore, application: str, record: Sealed) -> Sealed:
    """The settings of an application, or one of its tombstones, with an authentication tag."""
    return dataclasses.replace(record, seal=_seal_of(keys, application, record))


def holds_seal(keys: KeyStore, application: str, record: Application | Tombstone) -> bool:
    """Whether settings or a tombstone of an application were written by a gallery with these keys."""
    return hmac.compare_digest(_seal_of(keys, application, record), record.seal)


def tombstone_of(keys: KeyStore, reference: Reference) -> Tombstone:
    """The sealed tombstone of a reference."""
    bare = Tombstone(reference.subject_id, reference.record, reference.epoch)
    return sealed(keys, reference.application, bare)


def _draw_masks(application: Application, count: int) -> NDArray[np.uint64]:
    """Random planes `(N, planes, words)`, zero behind the last position as codes are."""
    code_length, alphabet_size = encoding_shape(application.encoding)
    shape = (count, plane_count(alphabet_size), word_count(code_length))
    drawn = secrets.token_bytes(8 * int(np.prod(shape)))
    masks = np.frombuffer(drawn, "<u8").astype(np.uint64).reshape(shape)
    if code_length % 64:
        masks[:, :, -1] &= np.uint64((1 << code_length % 64) - 1)
    return masks
