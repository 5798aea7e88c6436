"""From embeddings to stored templates and back to something that can be compared."""

import dataclasses
import hmac
import json
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.codes.packing import PackedCodes, pack, plane_count, word_count
from iom.errors import EnrolmentError, StoreError
from iom.gallery.keys.key_store import KeyStore
from iom.gallery.models import UNSLOTTED, Application, Reference, Tombstone, code_bytes, encoding_id, encoding_shape
from iom.keys import TransformKey, check_key_kind
from iom.models.face_hasher import FaceHasher


def check_hasher(application: Application, hasher: FaceHasher | None) -> FaceHasher:
    """The hasher, if the codes of the application are its own; warns of keys that hide little.

    Raises:
        EnrolmentError: There is none, or it makes codes of another form or model.
    """
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
    """Embeddings `(N, D)` of one `(D,)` or several.

    Raises:
        EnrolmentError: Another shape, none at all, or values that are not finite.
    """
    rows = np.atleast_2d(np.asarray(embeddings, np.float32))
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise EnrolmentError(
            "embeddings: expected finite values of shape (D,) or (N, D), received shape "
            f"{np.shape(embeddings)}" + ("" if not rows.size else " or values that are not finite")
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

    Args:
        keys: The key store.
        hasher: Of this application.
        application: Where they belong.
        rows: Subject, record number and metadata of each.
        embeddings: `(N, D)`.
        created: For their records.
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
    """Codes of stored references, ready to be compared.

    Raises:
        StoreError: A code of a wrong length, or its mask is missing.
    """
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


def seal_of(keys: KeyStore, reference: Reference) -> bytes:
    """Authentication tag of all of a reference but its slot and the tag itself."""
    r = reference
    return _seal(keys, r.application, r.subject_id, r.record, r.epoch, r.created, r.metadata, r.code)


def _seal(
    keys: KeyStore, application: str, subject_id: str, record: int, epoch: int, created: int, metadata: str, code: bytes
) -> bytes:
    # Neither names nor JSON hold a zero character, so that fields cannot run into each other.
    fields = f"{application}\0{subject_id}\0{record}\0{epoch}\0{created}\0{metadata}\0"
    return keys.seal(fields.encode() + code)


def check_seal(keys: KeyStore, reference: Reference) -> None:
    """Refuse a reference that was not written by a gallery with these keys.

    Raises:
        StoreError: It was changed, or its code was put under another subject.
    """
    if not hmac.compare_digest(seal_of(keys, reference), reference.seal):
        raise StoreError(
            f"application {reference.application}: record {reference.record} was changed outside "
            "of the gallery, or is damaged; revoke it and enrol the subject again"
        )


def sealed_application(keys: KeyStore, application: Application) -> Application:
    """The application with its authentication tag."""
    return dataclasses.replace(application, seal=_application_seal(keys, application))


def holds_application_seal(keys: KeyStore, application: Application) -> bool:
    """Whether the settings of an application were written by a gallery with these keys."""
    return hmac.compare_digest(_application_seal(keys, application), application.seal)


def _application_seal(keys: KeyStore, application: Application) -> bytes:
    a = application
    # No name is empty, so that this is never the message of a reference.
    fields = [a.name, a.encoding, a.model, a.threshold, a.key_mode, int(a.masked)]
    fields += [a.epoch, a.created, a.revision]
    return keys.seal(b"\0application\0" + json.dumps(fields, separators=(",", ":")).encode())


def tombstone_of(keys: KeyStore, reference: Reference) -> Tombstone:
    """What is to be left of a reference, sealed."""
    bare = Tombstone(reference.subject_id, reference.record, reference.epoch)
    seal = tombstone_seal(keys, reference.application, bare)
    return dataclasses.replace(bare, seal=seal)


def tombstone_seal(keys: KeyStore, application: str, tombstone: Tombstone) -> bytes:
    """Authentication tag of a tombstone."""
    fields = [application, tombstone.subject_id, tombstone.record, tombstone.epoch]
    return keys.seal(b"\0tombstone\0" + json.dumps(fields, separators=(",", ":")).encode())


def holds_tombstone_seal(keys: KeyStore, application: str, tombstone: Tombstone) -> bool:
    """Whether a tombstone was written by a gallery with these keys."""
    return hmac.compare_digest(tombstone_seal(keys, application, tombstone), tombstone.seal)


def _draw_masks(application: Application, count: int) -> NDArray[np.uint64]:
    """Random planes `(N, planes, words)`, zero behind the last position as codes are."""
    code_length, alphabet_size = encoding_shape(application.encoding)
    shape = (count, plane_count(alphabet_size), word_count(code_length))
    drawn = secrets.token_bytes(8 * int(np.prod(shape)))
    masks = np.frombuffer(drawn, "<u8").astype(np.uint64).reshape(shape)
    if code_length % 64:
        masks[:, :, -1] &= np.uint64((1 << code_length % 64) - 1)
    return masks
