"""Templates: embeddings become sealed references under the keys of their records, and comparable codes again."""

import dataclasses
import hmac
import json
import secrets
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from iom._registry import DEVICE_MODES, lookup
from iom.codes.packing import (
    PackedCodes,
    code_bytes,
    encoding_id,
    encoding_shape,
    pack,
    plane_count,
    unpack,
    word_count,
)
from iom.errors import CodeError, EnrolmentError, RevokedError, StoreError, TokenError, UnmaskedWarning
from iom.gallery.key_store import KeyStore
from iom.gallery.models import UNSLOTTED, Application, Reference, Tombstone
from iom.keys import SubjectToken, TransformKey, check_key_kind, part_of
from iom.metrics.template_pooling import majority_codes, mean_vectors
from iom.models.face_hasher import FaceHasher, ForwardingFaceHasher, Keys

if TYPE_CHECKING:
    from iom.gallery.stores.base import RecordStore

Rows = NDArray[np.float32]


class MajorityHasher(ForwardingFaceHasher):
    """A hasher of rows `(N, k D)`, the images of a subject side by side, that votes at each position.

    All images are hashed under the key of the record; the most frequent symbol of each position counts, the lowest of
    equally frequent ones.
    """

    def _hash_embeddings(self, embeddings: Rows, keys: Keys) -> NDArray[np.uint8]:
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


def warn_unmasked(application: Application) -> None:
    """Warn of codes under a common key without masks; the text is the same each time, so that it is shown once."""
    if application.key_mode == "application" and not application.masked:
        warnings.warn(
            f"application {application.name}: one key serves all records and their codes have no masks: whoever has "
            "the record store opens them without the key, knowing none to ten of the enrolled faces, or about fifty "
            f"where keys are orthogonal; mask them with: iom migrate --mask --application {application.name}",
            UnmaskedWarning,
            stacklevel=1,
        )


def check_hasher(application: Application, hasher: FaceHasher) -> FaceHasher:
    """The hasher, if it makes the codes of the application; warns of keys that hide little, and of missing masks."""
    if application.key_mode == "share":
        raise EnrolmentError(
            f"application {application.name} holds shares of a split gallery: enrol and verify through both of its "
            "servers (split://...)"
        )
    if application.key_mode in DEVICE_MODES:
        raise EnrolmentError(
            f"application {application.name} holds codes that devices make under keys of their own: enrol and verify "
            "on the device (iom serve --on-device)"
        )
    shape = hasher.code_length, hasher.alphabet_size
    if shape != application.shape:
        raise EnrolmentError(
            f"application {application.name} holds codes {application.encoding}, this hasher makes "
            f"{encoding_id(*shape)}; use the hasher it was made with, or make a new application"
        )
    if hasher.fingerprint != application.model:
        raise EnrolmentError(
            f"application {application.name} belongs to the model {application.model[:12]}..., "
            f"received {hasher.fingerprint[:12]}...; codes of two models never compare"
        )
    check_key_kind(hasher.key_kind, application=application.name, masked=application.masked)
    warn_unmasked(application)
    return hasher


def check_token(subject_id: str, references: Sequence[Reference], token: SubjectToken | None) -> None:
    """Raise `TokenError` unless all references of a subject need this token, or none needs one and none is given."""
    given = token.identifier if token is not None else ""
    if all(hmac.compare_digest(each.token.encode(), given.encode()) for each in references):
        return
    if token is None:
        told = "was enrolled with a token: give it"
    elif any(each.token for each in references):
        told = "was enrolled with another token; where that is lost, a renewal makes a new one"
    else:
        told = "was enrolled without a token: give none; a renewal makes one"
    raise TokenError(f"subject {subject_id!r} {told}", subject_id=subject_id)


def with_token(keys: Keys, token: SubjectToken | None) -> Keys:
    """Keys of records that need a token, too."""
    if token is None:
        return keys
    return keys.with_token(token) if isinstance(keys, TransformKey) else [key.with_token(token) for key in keys]


def rows_of(embeddings: NDArray[Any]) -> NDArray[np.float32]:
    """Finite embeddings `(N, D)` of one `(D,)` or several."""
    try:
        rows = np.atleast_2d(np.asarray(embeddings, np.float32))
    except (TypeError, ValueError) as error:
        raise EnrolmentError(
            f"expected a picture, a list of pictures or embeddings (D,) or (N, D), received {type(embeddings).__name__}"
        ) from error
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise EnrolmentError(
            f"embeddings: expected finite values of shape (D,) or (N, D), received shape {np.shape(embeddings)}"
            + ("" if not rows.size else " or values that are not finite")
        )
    return rows


def record_keys(keys: KeyStore, application: Application, references: Sequence[tuple[str, int, int]]) -> Keys:
    """Key of each `(subject_id, record, epoch)`; a single one where they share it."""
    if application.key_mode == "application":
        epochs = {epoch for _, _, epoch in references}
        shared = dict(zip(epochs, keys.application_keys(application.name, list(epochs)), strict=True))
        return shared[epochs.pop()] if len(epochs) == 1 else [shared[epoch] for _, _, epoch in references]
    return keys.record_keys(application.name, [(subject, record) for subject, record, _ in references])


def reserve_records(
    store: "RecordStore",
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

    def parts_of(records: Sequence[tuple[str, int]]) -> list[int]:
        return [part_of(key, parts) for key in keys.record_keys(name, records)]

    def wanted(subject_id: str) -> int:
        gone = revoked.get(subject_id, set()) | {each.record for each in store.tombstones(name, subject_id=subject_id)}
        valid = [each.record for each in store.references(name, subject_id) if each.record not in gone]
        if valid and not renewed:
            return parts_of([(subject_id, valid[0])])[0]
        used = set(parts_of([(subject_id, record) for record in [*gone, *valid]]))
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
    records: dict[int, int] = {}
    while missing := [row for row in range(len(subject_ids)) if row not in records]:
        new = keys.reserve(name, len(missing))
        found = parts_of([(subject_ids[row], record) for row, record in zip(missing, new, strict=True)])
        for row, record, part in zip(missing, new, found, strict=True):
            if part == targets[subject_ids[row]]:
                records[row] = record
    return [records[row] for row in range(len(subject_ids))]


def make_references(
    keys: KeyStore,
    hasher: FaceHasher,
    application: Application,
    rows: Sequence[tuple[str, int, str]],
    embeddings: NDArray[np.float32],
    *,
    created: int,
    token: SubjectToken | None = None,
) -> list[Reference]:
    """Hash, mask and seal new templates; their masks are in the key store when this returns.

    `rows` has subject, record number and metadata for each of `embeddings` `(N, D)`.
    """
    places = [(subject, record, application.epoch) for subject, record, _ in rows]
    codes = hasher.hash(embeddings, with_token(record_keys(keys, application, places), token))
    return references_of(keys, application, rows, pack(codes, hasher.alphabet_size), created=created)


def references_of(
    keys: KeyStore, application: Application, rows: Sequence[tuple[str, int, str]], codes: PackedCodes, *, created: int
) -> list[Reference]:
    """Mask and seal new codes, as `make_references` does."""
    planes = codes.planes
    if application.masked:
        planes = planes ^ _new_masks(keys, application, [record for _, record, _ in rows])
    references = []
    for (subject, record, metadata), plane in zip(rows, planes.astype("<u8", copy=False), strict=True):
        code, epoch = plane.tobytes(), application.epoch
        seal = keys.seal(_message(application.name, subject, record, epoch, created, metadata, code))
        references.append(Reference(application.name, subject, UNSLOTTED, record, epoch, code, seal, metadata, created))
    return references


def _new_masks(keys: KeyStore, application: Application, records: Sequence[int]) -> NDArray[np.uint64]:
    """Random masks `(N, planes, words)` of records that have none, which are in the key store when this returns."""
    size, (code_length, _) = code_bytes(application.encoding), encoding_shape(application.encoding)
    masks = _planes(application, [secrets.token_bytes(size) for _ in records])
    if code_length % 64:  # zero behind the last position, as codes are
        masks[:, :, -1] &= np.uint64((1 << code_length % 64) - 1)
    keys.put_masks(application.name, {record: mask.tobytes() for record, mask in zip(records, masks, strict=True)})
    return masks


def masks_for(keys: KeyStore, application: Application, records: Sequence[int]) -> dict[int, bytes]:
    """Masks by record: those in the key store, and new ones of records that have none, which are then there, too."""
    known = keys.find_masks(application.name, records)
    missing = [record for record in records if record not in known]
    if missing:
        made = _new_masks(keys, application, missing).astype("<u8", copy=False)
        known |= {record: mask.tobytes() for record, mask in zip(missing, made, strict=True)}
    return known


def under_masks(keys: KeyStore, application: Application, references: Sequence[Reference]) -> list[Reference]:
    """References whose codes have no masks, with their codes under masks, and new seals.

    A record that has a mask in the key store already, of a call that was interrupted, gets the same one.
    """
    for reference in references:
        check_seal(keys, reference)
    known = masks_for(keys, application, [each.record for each in references])
    masks = _planes(application, [known[each.record] for each in references])
    planes = (_planes(application, [each.code for each in references]) ^ masks).astype("<u8", copy=False)
    new = []
    for r, plane in zip(references, planes, strict=True):
        code = plane.tobytes()
        message = _message(application.name, r.subject_id, r.record, r.epoch, r.created, r.metadata, code)
        new.append(r.changed(code=code, seal=keys.seal(message)))
    return new


def unmasked(keys: KeyStore, application: Application, references: Sequence[Reference]) -> PackedCodes:
    """Codes of stored references without their masks."""
    codes = [reference.code for reference in references]
    size = code_bytes(application.encoding)
    if any(len(code) != size for code in codes):
        raise StoreError(f"application {application.name}: a code has a wrong length; run iom check")
    planes = _planes(application, codes)
    if application.masked and codes:
        planes ^= _planes(application, keys.masks(application.name, [each.record for each in references]))
    return PackedCodes(planes, *encoding_shape(application.encoding))


def packed_code(application: Application, code: bytes, *, share: bool = False) -> PackedCodes:
    """The code of the application, or the `share` of one, that some bytes are, in the form in which codes are stored.

    Raises:
        CodeError: Another length, ones behind the last position, or a symbol that is not in the alphabet, which those
            of a share need not be.
    """
    size = code_bytes(application.encoding)
    if len(code) != size:
        raise CodeError(f"code: expected {size} bytes ({application.encoding}), received {len(code)}")
    found = PackedCodes(_planes(application, [code]), *encoding_shape(application.encoding))
    if not share:
        unpack(found)  # which finds symbols out of range
    return found


def _planes(application: Application, codes: Sequence[bytes]) -> NDArray[np.uint64]:
    """Planes `(N, planes, words)` of stored codes or masks."""
    code_length, alphabet_size = encoding_shape(application.encoding)
    shape = (len(codes), plane_count(alphabet_size), word_count(code_length))
    return np.frombuffer(b"".join(codes), "<u8").astype(np.uint64).reshape(shape)


Record = Application | Reference | Tombstone
Sealed = TypeVar("Sealed", Application, Reference, Tombstone)


def _message(
    application: str, subject_id: str, record: int, epoch: int, created: int, metadata: str, code: bytes
) -> bytes:
    """The sealed fields of a reference."""
    # Neither names nor JSON hold a zero character, so that fields cannot run into each other.
    return f"{application}\0{subject_id}\0{record}\0{epoch}\0{created}\0{metadata}\0".encode() + code


def _seal_of(keys: KeyStore, application: str, record: Record) -> bytes:
    """Authentication tag of all fields but the slot and the tag itself."""
    if isinstance(record, Reference):
        r = record
        return keys.seal(_message(application, r.subject_id, r.record, r.epoch, r.created, r.metadata, r.code))
    if isinstance(record, Application):
        kind, values = "application", [*(record.fields() | {"masked": int(record.masked)}).values()]
    else:
        kind, values = "tombstone", [application, record.subject_id, record.record, record.epoch]
    # No name is empty, so that this is never the message of a reference.
    return keys.seal(f"\0{kind}\0{json.dumps(values, separators=(',', ':'))}".encode())


def sealed(keys: KeyStore, application: str, record: Sealed) -> Sealed:
    """The settings of an application, a reference or a tombstone, with an authentication tag."""
    return dataclasses.replace(record, seal=_seal_of(keys, application, record))


def holds_seal(keys: KeyStore, application: str, record: Record) -> bool:
    """Whether a record of an application was written by a gallery with these keys."""
    return hmac.compare_digest(_seal_of(keys, application, record), record.seal)


def check_seal(keys: KeyStore, reference: Reference) -> None:
    """Raise `StoreError` if a reference was not written by a gallery with these keys."""
    if not holds_seal(keys, reference.application, reference):
        raise StoreError(
            f"application {reference.application}: record {reference.record} was changed outside "
            "of the gallery, or is damaged; revoke it and enrol the subject again"
        )


def tombstone_of(keys: KeyStore, reference: Reference) -> Tombstone:
    """The sealed tombstone of a reference."""
    bare = Tombstone(reference.subject_id, reference.record, reference.epoch)
    return sealed(keys, reference.application, bare)
