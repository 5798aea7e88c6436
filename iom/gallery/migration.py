"""Migration of galleries of format 1: a sealed log as key store, a record store without seals."""

import base64
import dataclasses
import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from iom._untrusted import parse_json
from iom.errors import StoreError, StoreNotFoundError
from iom.gallery.audit import AuditChain, AuditEvent
from iom.gallery.gallery import Gallery
from iom.gallery.keys.key_sources import EXTERNAL, read_master
from iom.gallery.keys.key_store import (
    LARGEST_RECORD,
    LAYOUT,
    KeyContent,
    KeyStore,
    PassphraseSource,
    RevokedRecord,
    external_wrapping_key,
    key_opener,
    make_key_file,
    read_wrapping_key,
    stretched,
)
from iom.gallery.models import Application, check_subject_id
from iom.gallery.stores.store import open_store, upgrade_store
from iom.gallery.stores.upgrade import Upgrade
from iom.gallery.templates import check_seal, sealed_application, tombstone_seal
from iom.keys import TransformKey

_FORMAT, _VERSION = "iom-keys", 1
_LENGTH_BYTES, _NONCE_BYTES, _TAG_BYTES = 4, 12, 16
_LONGEST_HEADER = 1024
_LONGEST_ENTRY = 1 << 28
_NEVER_KEYED = 2**62


@dataclasses.dataclass(frozen=True)
class Migration:
    """What was converted.

    Attributes:
        key_file: The new key store; the old one lies where it was.
        applications: Applications.
        references: Their valid references.
        revoked: Revoked records.
        odd_subjects: Subjects whose ids are not in NFC: they are found by identification, but not
            by their id, until they are enrolled anew.
    """

    key_file: Path
    applications: int
    references: int
    revoked: int
    odd_subjects: tuple[str, ...] = ()


def migrate(
    gallery_url: str, keys_url: str, *, new_key_file: Path | None = None, passphrase: PassphraseSource | None = None
) -> Migration:
    """Convert a gallery of format 1: a new key store beside the old one, the record store in place.

    What was interrupted is done again. Other processes that use the gallery have to be stopped.

    Args:
        gallery_url: Of the record store.
        keys_url: Of the old key store.
        new_key_file: The new key store's file; `None` adds `.v2` to the old one's name. It is
            sealed by the same passphrase, key or master.
        passphrase: Asked where one is needed.

    Raises:
        StoreError: Damaged, not opened, or the result does not hold what the old stores did; the
            old stores are then as they were.
    """
    old_path, sealing = _sealing(keys_url, passphrase)
    new_path = new_key_file or old_path.with_name(old_path.name + ".v2")
    old = _read_legacy(old_path, sealing)
    was_old = upgrade_store(gallery_url, lambda upgrade: _convert(upgrade, old, new_path))
    if not was_old and not new_path.exists():
        raise StoreError(
            f"record store: is of format {LAYOUT.format} already, but there is no key store at "
            f"{new_path}; name it with --new-keys"
        )
    with Gallery(open_store(gallery_url), _open_new(old, new_path)) as gallery:
        _check_content(gallery.keys, old)
        problems = gallery.check()
        if problems:
            raise StoreError(f"the converted gallery has problems: {'; '.join(problems[:3])}")
        stats = [counts for _, counts in gallery.stats().values()]
        return Migration(
            new_path,
            len(stats),
            sum(each.references for each in stats),
            sum(each.revoked for each in stats),
            tuple(_odd_subjects(gallery)),
        )


@dataclasses.dataclass(frozen=True)
class _Legacy:
    """A key store of format 1."""

    path: Path
    key: bytes = dataclasses.field(repr=False)
    header: Mapping[str, Any]
    master: TransformKey = dataclasses.field(repr=False)
    masks: Mapping[str, Mapping[int, bytes]] = dataclasses.field(repr=False)
    revoked: Mapping[str, Mapping[int, str]]
    entries: int

    @property
    def is_external(self) -> bool:
        return bool(self.header["sealed_by"] == "external")


Sealing = Callable[[Mapping[str, Any]], tuple[bytes, TransformKey | None]]


def _sealing(url: str, passphrase: PassphraseSource | None) -> tuple[Path, Sealing]:
    """The old file, and what gives its wrapping key and external master by its header."""
    path, _ = key_opener(url, passphrase=passphrase)
    scheme, _, rest = url.partition(":")
    if scheme in EXTERNAL:
        master = EXTERNAL[scheme](rest.partition("?file=")[0])
        return path, lambda header: (external_wrapping_key(master), master)
    wrap = rest.partition("?key-file=")[2]
    if wrap:
        return path, lambda header: (read_wrapping_key(Path(wrap)), None)

    def asked(header: Mapping[str, Any]) -> tuple[bytes, TransformKey | None]:
        if passphrase is None:
            raise StoreError(f"key store {path}: expected a passphrase, received none")
        return stretched(passphrase(), header, path), None

    return path, asked


def _convert(upgrade: Upgrade, old: _Legacy, new_path: Path) -> None:
    """Make the new key store, and seal the record store with it; within its transaction."""
    head, chain = None, AuditChain(b"", _NEVER_KEYED)
    entries = list(upgrade.audit())
    for problem in chain.problems(entries):
        raise StoreError(f"the gallery was changed or is damaged: {problem}; nothing was converted")
    head = entries[-1] if entries else None
    if head is not None and old.entries < head.event.key_entries:
        raise StoreError(
            f"{old.path}: has {old.entries} entries, the audit log knows of "
            f"{head.event.key_entries}: its end is missing. Take it from a backup"
        )
    applications = upgrade.applications()
    content = _content(upgrade, applications, old, keyed_from=len(entries) + 1)
    if not new_path.exists():
        make_key_file(new_path, _new_header(old), old.key, content)
    with _open_new(old, new_path) as keys:
        if upgrade.owner() not in ("", keys.identity()):
            raise StoreError("this key store does not belong to this record store: another master")
        if keys.keyed_from() != content.keyed_from:
            raise StoreError(f"{new_path}: was made for another state of the gallery; move it away and start again")
        _check_content(keys, old)
        chain = AuditChain(keys.chain_key(), keys.keyed_from())
        for application, _ in applications:
            _seal(upgrade, keys, application, chain)


def _seal(upgrade: Upgrade, keys: KeyStore, application: Application, chain: AuditChain) -> None:
    name, count = application.name, 0
    for reference in upgrade.references(name):
        check_seal(keys, reference)
        count += 1
    tombstones = []
    for stone in upgrade.tombstones(name):
        # The epoch was not kept: the newest it can have been.
        of_epoch = dataclasses.replace(stone, epoch=application.epoch)
        seal = tombstone_seal(keys, name, of_epoch)
        tombstones.append(dataclasses.replace(of_epoch, seal=seal))
    sealed = sealed_application(keys, dataclasses.replace(application, revision=1))
    event = AuditEvent("migrate", name, key_entries=keys.entries(), time=int(time.time()))
    upgrade.write(sealed, tombstones, count, chain, event)


def _content(
    upgrade: Upgrade, applications: Sequence[tuple[Application, int]], old: _Legacy, *, keyed_from: int
) -> KeyContent:
    epochs = {application.name: application.epoch for application, _ in applications}
    following = {application.name: number for application, number in applications}
    revoked: dict[str, dict[int, str]] = {name: dict(of) for name, of in old.revoked.items()}
    for name, number in following.items():
        if type(number) is not int or not 0 <= number <= LARGEST_RECORD:
            raise _changed(name, "its next record number is out of range")
        for stone in upgrade.tombstones(name):  # a crash may have kept it from the key store
            if not 0 <= stone.record < number:
                raise _changed(name, f"a tombstone of record {stone.record}, which was never given out")
            subject_id = revoked.setdefault(name, {}).setdefault(stone.record, stone.subject_id)
            if subject_id != stone.subject_id:
                raise _changed(name, f"the tombstone of record {stone.record} has another subject")
    names = {*following, *revoked, *old.masks}
    return KeyContent(
        master=None if old.is_external else old.master,
        masks={
            name: {record: mask for record, mask in of.items() if record not in revoked.get(name, {})}
            for name, of in old.masks.items()
        },
        revoked={
            name: [RevokedRecord(subject_id, record, epochs.get(name, 0)) for record, subject_id in of.items()]
            for name, of in revoked.items()
        },
        next_records={
            name: max(following.get(name, 0), 1 + max([-1, *revoked.get(name, {}), *old.masks.get(name, {})]))
            for name in names
        },
        keyed_from=keyed_from,
    )


def _changed(application: str, problem: str) -> StoreError:
    return StoreError(
        f"application {application}: {problem}: the record store was changed outside of the "
        "gallery. Take it from a backup"
    )


def _new_header(old: _Legacy) -> dict[str, Any]:
    """The same salt and cost, so that the same passphrase gives the same wrapping key."""
    return {name: old.header[name] for name in ("sealed_by", "salt", "cost") if name in old.header}


def _open_new(old: _Legacy, path: Path) -> KeyStore:
    return KeyStore(path, old.key, _new_header(old), master=old.master if old.is_external else None)


def _check_content(keys: KeyStore, old: _Legacy) -> None:
    """Refuse a new key store that lacks anything of the old one."""
    same = keys.master() == old.master
    for name, revoked in old.revoked.items():
        known = keys.revoked(name)
        same &= all(
            record in known and known[record].subject_id == subject_id for record, subject_id in revoked.items()
        )
    for name, masks in old.masks.items():
        kept = [record for record in masks if record not in keys.revoked(name)]
        for mask, record in zip(keys.masks(name, kept), kept, strict=True):
            same &= hmac.compare_digest(mask, masks[record])
    if not same:
        raise StoreError(f"{keys.path}: does not hold what {old.path} holds; move it away and start again")


def _odd_subjects(gallery: Gallery) -> list[str]:
    odd = set()
    for application in gallery.store.applications():
        after = -1
        while page := gallery.store.scan(application.name, after=after):
            after = page[-1].record
            odd |= {each.subject_id for each in page if check_subject_id(each.subject_id) != each.subject_id}
    return sorted(odd)


def _read_legacy(path: Path, sealing: Sealing) -> _Legacy:
    """Read a key store of format 1: a line of JSON, and entries that are each sealed.

    An entry is its length (4 bytes, big endian), a nonce (12) and an AES-256-GCM ciphertext with
    its tag. Its associated data are the header, its number and the tag of the entry before it.

    Raises:
        StoreNotFoundError: The file is missing.
        StoreError: Damaged, or not opened by this passphrase or key.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StoreNotFoundError(f"no key store at {path}", place=str(path)) from None
    except OSError as error:
        raise StoreError(f"key store {path}: {error.strerror}") from error
    line, _, rest = data.partition(b"\n")
    try:
        header = parse_json(line, max_bytes=_LONGEST_HEADER)
        is_known = header["format"] == _FORMAT and header["version"] == _VERSION
        number = int(header["start"])
        is_known &= 0 <= number <= LARGEST_RECORD
    except (ValueError, TypeError, KeyError):
        is_known = False
    if not is_known:
        raise StoreError(f"{path}: expected a key store of format 1, found another file")
    key, master = sealing(header)
    masks: dict[str, dict[int, bytes]] = {}
    revoked: dict[str, dict[int, str]] = {}
    for entry in _legacy_entries(path, header, key, rest):
        number += 1
        if "master" in entry:
            master = read_master(entry["master"], str(path))
        for name, of in entry.get("masks", {}).items():
            found = {int(record): base64.b64decode(of[record]) for record in of}
            masks.setdefault(name, {}).update(found)
        for name, pairs in entry.get("revoked", {}).items():
            for subject_id, record in pairs:
                revoked.setdefault(name, {})[record] = subject_id
                masks.get(name, {}).pop(record, None)
    if master is None:
        raise StoreError(f"{path}: holds no master key; take it from a backup")
    return _Legacy(path, key, header, master, masks, revoked, number)


def _legacy_entries(path: Path, header: Mapping[str, Any], key: bytes, data: bytes) -> Iterator[dict[str, Any]]:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    bound = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    cipher, place, number, tag = AESGCM(key), 0, int(header["start"]), b""
    while place + _LENGTH_BYTES <= len(data):
        length = int.from_bytes(data[place : place + _LENGTH_BYTES], "big")
        end = place + _LENGTH_BYTES + length
        if not _NONCE_BYTES + _TAG_BYTES <= length <= _LONGEST_ENTRY:
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
