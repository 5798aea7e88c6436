"""The key store in a file, sealed by a passphrase, a key in another file, or an external master."""

import base64
import hashlib
import secrets
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from iom.errors import KeyMaterialError, StoreError
from iom.gallery.key_store import (
    Anchor,
    KeyStore,
    PassphraseSource,
    RevokedRecord,
    parse_place,
    read_master,
)
from iom.gallery.sealed_file import FORMAT, VERSION, SealedFile, read_header, write_new
from iom.keys import TransformKey

SCRYPT_COST = 1 << 17
"""128 MB and a few tenths of a second for each guess of a passphrase."""
_LARGEST_COST = 1 << 20
_SCRYPT_BLOCK = 8
SHORTEST_PASSPHRASE = 8


def open_url(url: str, *, create: bool, passphrase: PassphraseSource | None) -> "KeyFile":
    """Store of `file:PATH` (passphrase) or `file:PATH?key-file=PATH`.

    A key file is made with the store where it is not there yet.
    """
    place, key_file = parse_place(url, "key-file")
    if not place:
        raise StoreError("key store: expected file:PATH")
    if not create:
        read_header(Path(place))  # nobody should be asked for the passphrase of a missing file
    if key_file:
        return KeyFile.with_key(Path(place), _wrapping_key(Path(key_file), create), create=create)
    if passphrase is None:
        raise StoreError(f"key store {place}: expected a passphrase, received none")
    return KeyFile.with_passphrase(Path(place), passphrase(), create=create)


class KeyFile(KeyStore):
    """See `KeyStore`; masks and the list are held in memory and read again when others write.

    Args:
        sealed: The file.
        master: A master from outside; else the file holds one.
    """

    def __init__(self, sealed: SealedFile, *, master: TransformKey | None = None) -> None:
        self._sealed = sealed
        self._external = master
        self._lock = threading.RLock()
        self._is_closed = False
        self._forget()
        self._refresh()

    @classmethod
    def with_passphrase(
        cls, path: Path, passphrase: str, *, create: bool = False, cost: int = SCRYPT_COST
    ) -> "KeyFile":
        """Open or make a file that is sealed by a passphrase (scrypt, RFC 7914).

        Raises:
            KeyMaterialError: A new passphrase has fewer than 8 characters.
            StoreError: See `open_key_store`.
        """
        if create:
            if len(passphrase) < SHORTEST_PASSPHRASE:
                raise KeyMaterialError(
                    f"passphrase: expected at least {SHORTEST_PASSPHRASE} characters, received "
                    f"{len(passphrase)}"
                )
            header = _new_header("passphrase", cost=cost)
            return cls._made(path, header, _stretched(passphrase, header, path))
        header = _header(path, "passphrase")
        return cls(SealedFile(path, header, _stretched(passphrase, header, path)))

    @classmethod
    def with_key(cls, path: Path, key: bytes, *, create: bool = False) -> "KeyFile":
        """Open or make a file that is sealed by 32 bytes."""
        if create:
            return cls._made(path, _new_header("key"), key)
        return cls(SealedFile(path, _header(path, "key"), key))

    @classmethod
    def with_master(cls, path: Path, master: TransformKey, *, create: bool = False) -> "KeyFile":
        """Open or make a file beside a master that comes from outside and seals it."""
        key = master.stream("gallery-key-file", 32)
        if create:
            write_new(path, header := _new_header("external"), key, [{"external": True}])
            return cls(SealedFile(path, header, key), master=master)
        return cls(SealedFile(path, _header(path, "external"), key), master=master)

    @classmethod
    def _made(cls, path: Path, header: dict[str, Any], key: bytes) -> "KeyFile":
        write_new(path, header, key, [{"master": TransformKey.generate().to_text()}])
        return cls(SealedFile(path, header, key))

    def master(self) -> TransformKey:
        """See `KeyStore.master`."""
        self._check_open()
        if self._external is not None:
            return self._external
        if self._master is None:
            raise StoreError(f"{self._sealed.path}: holds no master key; take it from a backup")
        return self._master

    def entries(self) -> int:
        """See `KeyStore.entries`."""
        self._refresh()
        return self._sealed.count

    def put_masks(self, application: str, masks: Mapping[int, bytes]) -> None:
        """See `KeyStore.put_masks`."""
        self._check_open()
        with self._lock, self._sealed.appending() as (again, entries, append):
            self._apply(again, entries)
            used = self._masks.get(application, {}), self._revoked.get(application, {})
            if any(record in known for record in masks for known in used):
                raise KeyMaterialError("a record has a mask already; a mask is used once")
            append(entry := {"masks": {application: _mask_text(masks)}})
            self._apply(False, [entry])

    def masks(self, application: str, records: Sequence[int]) -> list[bytes]:
        """See `KeyStore.masks`."""
        self._refresh()
        known = self._masks.get(application, {})
        missing = sum(record not in known for record in records)
        if missing:
            raise StoreError(
                f"{self._sealed.path}: {missing} records have no mask here; this key store is "
                "older than the record store. Take it from a backup"
            )
        return [known[record] for record in records]

    def masked_records(self, application: str) -> set[int]:
        """See `KeyStore.masked_records`."""
        self._refresh()
        return set(self._masks.get(application, {}))

    def revoke(
        self, application: str, records: Sequence[RevokedRecord], anchor: Anchor | None
    ) -> None:
        """See `KeyStore.revoke`."""
        entry: dict[str, Any] = {
            "revoked": {application: [[entry.subject_id, entry.record] for entry in records]}
        }
        if anchor is not None:
            entry["anchor"] = [anchor.sequence, anchor.digest.hex()]
        self._check_open()
        with self._lock, self._sealed.appending() as (again, entries, append):
            self._apply(again, entries)
            append(entry)
            self._apply(False, [entry])

    def revoked(self, application: str) -> Mapping[int, str]:
        """See `KeyStore.revoked`."""
        self._refresh()
        return self._revoked.get(application, {})

    def anchors(self) -> Sequence[Anchor]:
        """See `KeyStore.anchors`."""
        self._refresh()
        return self._anchors

    def erase(self) -> None:
        """See `KeyStore.erase`."""
        with self._lock:
            self._sealed.rewrite(self._held_after)
            self._refresh()

    def _held_after(self, again: bool, entries: Sequence[Any]) -> list[Any]:
        """What a new file has to hold, after `entries` that others appended."""
        self._apply(again, entries)
        held: list[Any] = [{"master": self._master.to_text()} if self._master else {}]
        for application, masks in self._masks.items():
            held.append({"masks": {application: _mask_text(masks)}})
        for application, revoked in self._revoked.items():
            pairs = [[subject, record] for record, subject in revoked.items()]
            held.append({"revoked": {application: pairs}})
        held += [{"anchor": [place.sequence, place.digest.hex()]} for place in self._anchors]
        return held

    def close(self) -> None:
        """See `KeyStore.close`."""
        self._is_closed = True
        self._external = None
        self._forget()

    def _forget(self) -> None:
        self._master: TransformKey | None = None
        self._masks: dict[str, dict[int, bytes]] = {}
        self._revoked: dict[str, dict[int, str]] = {}
        self._anchors: list[Anchor] = []

    def _check_open(self) -> None:
        if self._is_closed:  # an empty list of what is revoked would let everything in
            raise StoreError(f"{self._sealed.path}: the key store is closed")

    def _refresh(self) -> None:
        self._check_open()
        if self._sealed.is_current():
            return
        with self._lock:
            self._apply(*self._sealed.new_entries())

    def _apply(self, again: bool, entries: Sequence[Any]) -> None:
        if again:
            self._forget()
        for entry in entries:
            if "master" in entry:
                self._master = read_master(entry["master"], str(self._sealed.path))
            for application, masks in entry.get("masks", {}).items():
                known = self._masks.setdefault(application, {})
                known.update({int(record): base64.b64decode(masks[record]) for record in masks})
            for application, pairs in entry.get("revoked", {}).items():
                for subject, record in pairs:
                    self._revoked.setdefault(application, {})[record] = subject
                    self._masks.get(application, {}).pop(record, None)
            if "anchor" in entry:
                sequence, digest = entry["anchor"]
                self._anchors.append(Anchor(sequence, bytes.fromhex(digest)))


def _mask_text(masks: Mapping[int, bytes]) -> dict[str, str]:
    return {str(record): base64.b64encode(mask).decode() for record, mask in masks.items()}


def _new_header(sealed_by: str, **settings: Any) -> dict[str, Any]:
    salt = secrets.token_hex(16)
    common = {"format": FORMAT, "version": VERSION, "start": 0, "sealed_by": sealed_by}
    return {**common, "salt": salt, **settings}


def _header(path: Path, sealed_by: str) -> dict[str, Any]:
    header = read_header(path)
    if header.get("sealed_by") != sealed_by:
        raise StoreError(
            f"{path}: is not opened by {sealed_by}; it was made to be opened by: "
            f"{str(header.get('sealed_by'))[:20]!a}"
        )
    return header


def _stretched(passphrase: str, header: dict[str, Any], path: Path) -> bytes:
    cost, salt = header.get("cost"), header.get("salt")
    if (
        not isinstance(cost, int)
        or not 2 <= cost <= _LARGEST_COST
        or cost & (cost - 1)
        or not isinstance(salt, str)
    ):
        raise StoreError(f"{path}: its start is damaged; take the key store from a backup")
    return hashlib.scrypt(
        passphrase.encode(),
        salt=salt.encode(),
        n=cost,
        r=_SCRYPT_BLOCK,
        p=1,
        maxmem=128 * _SCRYPT_BLOCK * (cost + 64),
        dklen=32,
    )


def _wrapping_key(path: Path, create: bool) -> bytes:
    """32 bytes from a file that holds a key as text; made where it may be."""
    if create and not path.exists():
        from iom.files import write_text

        write_text(path, "")
        path.chmod(0o600)
        write_text(path, TransformKey.generate().to_text() + "\n")
        path.chmod(0o600)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"key file {path}: cannot be read") from error
    return read_master(text, str(path)).stream("gallery-wrapping-key", 32)
