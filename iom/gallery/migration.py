"""Migration of galleries of format 1: their key store is an append-only log, their record store has no seals.

Each change of the format of the tables has its conversion here, within `RecordStore.converting`.
"""

import base64
import contextlib
import dataclasses
import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from iom._untrusted import parse_json
from iom.errors import StoreError, StoreNotFoundError
from iom.gallery.gallery import Gallery
from iom.gallery.key_source import KeyPart, MasterSource, PassphraseSource, Seal, SourceOpener, read_key
from iom.gallery.key_store import LAYOUT, MAX_RECORD, KeyStore, KeyWrite, identity_of, legacy_rows_key, make_key_file
from iom.gallery.key_url import parse_key_url
from iom.gallery.models import Application, AuditChain, AuditEvent, Counts, Tombstone, check_subject_id, tampered
from iom.gallery.stores.base import APPLICATIONS, AUDIT, TOMBSTONES, RecordStore, open_store
from iom.gallery.templates import check_seal, sealed
from iom.keys import TransformKey

_FORMAT, _VERSION = "iom-keys", 1
_LENGTH_BYTES, _NONCE_BYTES, _TAG_BYTES = 4, 12, 16
_MAX_HEADER_BYTES = 1024
_MAX_ENTRY_BYTES = 1 << 28
_NEVER_KEYED = 2**62


@dataclasses.dataclass(frozen=True)
class MigrationSummary:
    """Counts of a migration; the old key store is left as it was.

    `odd_subjects` have ids that are not in NFC: until they are enrolled again, identification finds them, verification
    does not.
    """

    key_file: Path
    applications: int
    references: int
    revoked: int
    odd_subjects: tuple[str, ...] = ()


def migrate(
    gallery_url: str, keys_url: str, *, new_key_file: Path | None = None, passphrase: PassphraseSource | None = None
) -> MigrationSummary:
    """Convert a gallery of format 1: a new key store beside the old one, the record store in place.

    An interrupted conversion can be repeated; other processes that use the gallery must be stopped. `new_key_file` is
    sealed by the same passphrase, key or master; `None` adds `.v2` to the name of the old one. If the result does not
    hold the content of the old stores, a `StoreError` leaves them as they were.
    """
    found = parse_key_url(keys_url, passphrase)
    old_path = found.path
    new_path = new_key_file or old_path.with_name(old_path.name + ".v2")
    old = _read_legacy(old_path, found.parts)
    was_old = _convert_records(gallery_url, old, new_path)
    if not was_old and not new_path.exists():
        raise StoreError(
            f"record store: is of format {LAYOUT.format} already, but there is no key store at "
            f"{new_path}; name it with --new-keys"
        )
    with old.open_new(new_path) as keys, Gallery(open_store(gallery_url), keys) as gallery:
        problems = gallery.check()
        if problems:
            raise StoreError(f"the converted gallery has problems: {'; '.join(problems[:3])}")
        stats = [counts for _, counts in gallery.stats().values()]
        pages = (page for each in gallery.store.applications() for page in gallery.store.pages(each.name))
        subjects = {reference.subject_id for page in pages for reference in page}
        return MigrationSummary(
            new_path,
            len(stats),
            sum(each.references for each in stats),
            sum(each.revoked for each in stats),
            tuple(sorted(each for each in subjects if check_subject_id(each) != each)),
        )


@dataclasses.dataclass(frozen=True)
class _Legacy:
    """Content of a key store of format 1; its `master` is in it, or comes from outside (`external`)."""

    path: Path
    key: bytes = dataclasses.field(repr=False)
    header: Mapping[str, Any]
    master: TransformKey | None = dataclasses.field(repr=False)
    external: SourceOpener | None
    masks: Mapping[str, Mapping[int, bytes]] = dataclasses.field(repr=False)
    revoked: Mapping[str, Mapping[int, str]]
    entries: int

    @property
    def new_header(self) -> dict[str, Any]:
        """The same salt and cost, so that the same passphrase gives the same wrapping key."""
        return {name: self.header[name] for name in ("sealed_by", "salt", "cost") if name in self.header}

    @contextlib.contextmanager
    def open_new(self, path: Path) -> Iterator[KeyStore]:
        """The new key store at `path`; a `StoreError` unless it holds what this one does."""
        source = self.external.open(False) if self.external else None
        with KeyStore(path, self.key, self.new_header, source=source) as keys:
            same = self.master is None or keys.identity() == identity_of(MasterSource(self.master))
            for name, subjects in self.revoked.items():
                known = keys.revoked(name)
                same &= subjects.items() <= {(record, each.subject_id) for record, each in known.items()}
            for name, masks in self.masks.items():
                kept = [record for record in masks if record not in keys.revoked(name)]
                found = zip(keys.masks(name, kept), kept, strict=True)
                same &= all([hmac.compare_digest(mask, masks[record]) for mask, record in found])
            if not same:
                raise StoreError(f"{path}: does not hold what {self.path} holds; move it away and start again")
            yield keys


def _convert_records(url: str, old: _Legacy, new_path: Path) -> bool:
    """Make the new key store and convert the record store in one transaction; whether the latter was of format 1."""
    with contextlib.suppress(StoreError), open_store(url):
        return False
    with open_store(url, format=1) as store, store.converting() as connection:
        for table, *names in (
            (APPLICATIONS, "revision", "seal"),
            (TOMBSTONES, "epoch", "seal"),
            (AUDIT, "valid", "revoked", "revision"),
        ):
            for name in names:
                kind = table.c[name].type.compile(connection.dialect)
                default = "0" if name != "seal" else "x''" if connection.dialect.name == "sqlite" else "''"
                connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {name} {kind} NOT NULL DEFAULT {default}")
        connection.exec_driver_sql("CREATE INDEX audit_applications ON audit (application, sequence)")
        _convert(store, connection, old, new_path)
        connection.exec_driver_sql("ALTER TABLE applications DROP COLUMN next_record")
    return True


def _convert(store: RecordStore, connection: sa.Connection, old: _Legacy, new_path: Path) -> None:
    entries = list(store.whole_audit())
    for problem in AuditChain(b"", _NEVER_KEYED).problems(entries):
        raise StoreError(f"the gallery was changed or is damaged: {problem}; nothing was converted")
    head = entries[-1] if entries else None
    if head is not None and old.entries < head.event.key_entries:
        raise StoreError(
            f"{old.path}: has {old.entries} entries, the audit log knows of "
            f"{head.event.key_entries}: its end is missing. Take it from a backup"
        )
    fill = _content(store, connection, old)
    if not new_path.exists():
        make_key_file(new_path, old.new_header, old.key, keyed_from=len(entries) + 1, fill=fill)
    with old.open_new(new_path) as keys:
        if store.owner() not in ("", keys.identity()):
            raise StoreError("this key store does not belong to this record store: another master")
        if keys.state().keyed_from != len(entries) + 1:
            raise StoreError(f"{new_path}: was made for another state of the gallery; move it away and start again")
        store.chain = keys.chain()
        for application in store.applications():
            _seal(store, connection, keys, application)


def _seal(store: RecordStore, connection: sa.Connection, keys: KeyStore, application: Application) -> None:
    """Seal an application and its tombstones, and write an audit entry with its counts."""
    name, count = application.name, 0
    for page in store.pages(name):
        for reference in page:
            check_seal(keys, reference)
        count += len(page)
    tombstones = store.tombstones(name)
    for tombstone in tombstones:
        # Format 1 did not keep the epoch: this is the newest it can have been.
        of_epoch = sealed(keys, name, dataclasses.replace(tombstone, epoch=application.epoch))
        connection.execute(
            sa.update(TOMBSTONES)
            .where(TOMBSTONES.c.application == store.application_id(name), TOMBSTONES.c.record == tombstone.record)
            .values(epoch=of_epoch.epoch, seal=of_epoch.seal)
        )
    new = sealed(keys, name, dataclasses.replace(application, revision=1))
    connection.execute(sa.update(APPLICATIONS).where(APPLICATIONS.c.name == name).values(revision=1, seal=new.seal))
    event = AuditEvent("migrate", name, key_entries=keys.state().position, time=int(time.time()))
    store.append(connection, event, Counts(count, len(tombstones), 1))


def _content(store: RecordStore, connection: sa.Connection, old: _Legacy) -> Callable[[KeyWrite], None]:
    """What writes the content of both old stores to the new key store."""
    epochs = {application.name: application.epoch for application in store.applications()}
    rows = connection.execute(sa.text("SELECT name, next_record FROM applications"))
    following = {name: number for name, number in rows}
    revoked: dict[str, dict[int, str]] = {name: dict(of) for name, of in old.revoked.items()}
    for name, number in following.items():
        if type(number) is not int or not 0 <= number <= MAX_RECORD:
            raise tampered(f"application {name}: its next record number is out of range")
        for tombstone in store.tombstones(name):  # the key store may lack it after a crash
            if not 0 <= tombstone.record < number:
                raise tampered(
                    f"application {name}: a tombstone of record {tombstone.record}, which was never given out"
                )
            subject_id = revoked.setdefault(name, {}).setdefault(tombstone.record, tombstone.subject_id)
            if subject_id != tombstone.subject_id:
                raise tampered(f"application {name}: the tombstone of record {tombstone.record} has another subject")

    def fill(write: KeyWrite) -> None:
        write.append("master", {"master": old.master.to_text()} if old.master else {})
        for name in {**following, **revoked, **old.masks}:
            gone, masks, epoch = revoked.get(name, {}), old.masks.get(name, {}), epochs.get(name, 0)
            if gone:
                write.revoke(name, [Tombstone(subject_id, record, epoch) for record, subject_id in gone.items()])
            write.know(name, next_record=max(following.get(name, 0), 1 + max([-1, *gone, *masks])))
            write.put_masks(name, {record: mask for record, mask in masks.items() if record not in gone})

    return fill


def _read_legacy(path: Path, parts: Sequence[KeyPart]) -> _Legacy:
    """Read a key store of format 1: a line of JSON, and entries that are each sealed.

    An entry is its length (4 bytes, big endian), a nonce (12) and an AES-256-GCM ciphertext with its tag. Its
    associated data are the header, its number and the tag of the entry before it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StoreNotFoundError(f"no key store at {path}", place=str(path)) from None
    except OSError as error:
        raise StoreError(f"key store {path}: {error.strerror}") from error
    line, _, rest = data.partition(b"\n")
    header = _legacy_header(path, line)
    number = int(header["start"])
    key, external = _legacy_key(parts, header)
    master: TransformKey | None = None
    masks: dict[str, dict[int, bytes]] = {}
    revoked: dict[str, dict[int, str]] = {}
    for entry in _legacy_entries(path, header, key, rest):
        number += 1
        if "master" in entry:
            master = read_key(entry["master"], str(path))
        for name, of in entry.get("masks", {}).items():
            found = {int(record): base64.b64decode(of[record]) for record in of}
            masks.setdefault(name, {}).update(found)
        for name, pairs in entry.get("revoked", {}).items():
            for subject_id, record in pairs:
                revoked.setdefault(name, {})[record] = subject_id
                masks.get(name, {}).pop(record, None)
    if master is None and external is None:
        raise StoreError(f"{path}: holds no master key; take it from a backup")
    return _Legacy(path, key, header, master, external, masks, revoked, number)


def _legacy_key(parts: Sequence[KeyPart], header: Mapping[str, Any]) -> tuple[bytes, SourceOpener | None]:
    """The key of a key store of format 1, and its master where that comes from outside."""
    if len(parts) != 1:
        raise StoreError(f"key store: of format 1, expected one part in its URL, received {len(parts)}")
    if isinstance(parts[0], Seal):
        return parts[0].wrapping_key(header, False), None
    with parts[0].open(False) as source:
        return legacy_rows_key(source), parts[0]


def _legacy_header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        header = parse_json(line, max_bytes=_MAX_HEADER_BYTES)
        if (header["format"], header["version"]) == (_FORMAT, _VERSION) and 0 <= int(header["start"]) <= MAX_RECORD:
            return dict(header)
    except (ValueError, TypeError, KeyError):
        pass
    raise StoreError(
        f"{path}: expected a key store of format 1, found another file. A newer gallery needs no conversion, and none "
        "can move to keys of another kind, since a master never leaves its place: make a new gallery and enrol anew"
    )


def _legacy_entries(path: Path, header: Mapping[str, Any], key: bytes, data: bytes) -> Iterator[dict[str, Any]]:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    bound = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    cipher, place, number, tag = AESGCM(key), 0, int(header["start"]), b""
    while place + _LENGTH_BYTES <= len(data):
        length = int.from_bytes(data[place : place + _LENGTH_BYTES], "big")
        end = place + _LENGTH_BYTES + length
        if not _NONCE_BYTES + _TAG_BYTES <= length <= _MAX_ENTRY_BYTES:
            raise StoreError(f"{path}: entry {number} is damaged; take it from a backup")
        if end > len(data):
            return  # an incomplete last entry was never acknowledged
        frame = data[place + _LENGTH_BYTES : end]
        try:
            text = cipher.decrypt(frame[:_NONCE_BYTES], frame[_NONCE_BYTES:], bound + number.to_bytes(8, "big") + tag)
        except InvalidTag:
            hint = "wrong passphrase or key, or damaged" if not tag else "damaged or changed"
            raise StoreError(f"{path}: entry {number}: {hint}; take it from a backup") from None
        yield json.loads(text)
        tag, number, place = frame[-_TAG_BYTES:], number + 1, end
