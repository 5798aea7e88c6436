"""Key store: keys for labels, masks and revoked records, apart from the record store.

Keys come from a source (`iom.gallery.key_source`), whose master never leaves it: one that is sealed in the file of the
key store by a passphrase or a key in another file, or one outside of it, or several that are joined. The file is of
SQLite, and its rows are sealed with AES-256-GCM under a key of the source. The associated data of a row are the header
of the file and the kind and number of the row (of a mask: application and record), so that rows cannot be exchanged.
Rows of `entries` are never deleted; the one row of `state` has their count and chains their tags, so that none can be
removed or put back. Masks are deleted with their records.
"""

import contextlib
import dataclasses
import functools
import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, cast

from iom._untrusted import parse_json
from iom.errors import KeyMaterialError, StoreError
from iom.gallery.key_source import JoinedSource, KeyPart, KeySource, MasterSource, PassphraseSource, Seal, read_key
from iom.gallery.key_url import parse_key_url
from iom.gallery.models import Application, AuditChain, AuditEntry, Tombstone
from iom.gallery.stores.sqlite_file import Layout, SqliteFile, make_sqlite_file
from iom.keys import TransformKey, derivation_label

SEAL_BYTES = 16
MAX_RECORD = 2**62
LEGACY_START = b'{"format":"iom-keys"'
_NONCE_BYTES = 12
_IDENTITY = b"iom/key-store/identity/v1"
DERIVATION = 2
"""Way in which new key stores derive the keys of their own: by HMAC. Way 1 is `TransformKey.stream` of the master."""

LAYOUT = Layout(noun="key store", application_id=0x696F6D6B, format=2)  # "iomk"
_SCHEMA = """
CREATE TABLE header (one INTEGER PRIMARY KEY CHECK (one = 1), text TEXT NOT NULL);
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL, sealed BLOB NOT NULL);
CREATE TABLE entries (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, sealed BLOB NOT NULL);
CREATE TABLE masks (
    application TEXT NOT NULL, record INTEGER NOT NULL, created INTEGER NOT NULL,
    sealed BLOB NOT NULL, PRIMARY KEY (application, record)) WITHOUT ROWID;
"""


# One statement, so that state and entries are those of one moment.
_CHANGES = (
    "SELECT 0, number, '', sealed FROM state "
    "UNION ALL SELECT 1, number, kind, sealed FROM entries WHERE number > ? ORDER BY 1, 2"
)
_STATE = "SELECT number, sealed FROM state"
_HEADER = "SELECT text FROM header"
_MASKS_IN_RANGE = "SELECT record, sealed FROM masks WHERE application = ? AND record BETWEEN ? AND ?"
_MASKS_IN_LIST = "SELECT record, sealed FROM masks WHERE application = ? AND record IN (SELECT value FROM json_each(?))"

READS = {"header": _HEADER, "state": _STATE, "changes": _CHANGES, "range": _MASKS_IN_RANGE, "list": _MASKS_IN_LIST}
"""Statements that read a key store, by name; all that they find is sealed, but for numbers, names and times."""


class KeyFile(Protocol):
    """Reads the rows of a key store's file."""

    path: Path

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of one of the statements of `READS`."""
        ...

    def check_place(self) -> None:
        """Raise `StoreError` if the file was moved or replaced since it was opened."""
        ...

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        ...


class Anchor(NamedTuple):
    """Last audit entry that was seen: its sequence number and digest."""

    sequence: int
    digest: bytes


@dataclasses.dataclass(frozen=True)
class KnownApplication:
    """Newest known state of an application: settings without a seal, and the lowest unused record number.

    `is_stored` says whether the present record store has it.
    """

    settings: Application | None = None
    next_record: int = 0
    is_stored: bool = False


@dataclasses.dataclass(frozen=True)
class KeyState:
    """Content of a key store but for masks, after one write; immutable.

    Attributes:
        position: Number of writes so far, by which an older copy is recognized.
        keyed_from: First audit entry with a keyed tag.
        anchor: The newest remembered audit entry.
        applications: Newest known state by name.
        revoked: Revoked records, without their seals, by application and number.
        epochs: Newest key epoch of the revoked records, by application and subject.
        rollbacks: Last audit entry that was known and last one found, when the record store was an older copy or its
            log was cut; without those that were accepted.
    """

    position: int = 0
    sealed: bytes = dataclasses.field(default=b"", repr=False)
    count: int = 0
    digest: bytes = bytes(32)
    keyed_from: int = 1
    anchor: Anchor | None = None
    applications: Mapping[str, KnownApplication] = dataclasses.field(default_factory=dict)
    master: TransformKey | None = dataclasses.field(default=None, repr=False)  # of derivation 1
    revoked: Mapping[str, Mapping[int, Tombstone]] = dataclasses.field(default_factory=dict)
    epochs: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    rollbacks: tuple[tuple[int, int], ...] = ()

    def known(self, application: str) -> KnownApplication:
        """Newest known state of an application."""
        return self.applications.get(application, KnownApplication())


@dataclasses.dataclass(frozen=True)
class _OwnKeys:
    """Keys of a key store for its own use, and the public identifier of its source."""

    identity: str
    rows: bytes = dataclasses.field(repr=False)
    audit: bytes = dataclasses.field(repr=False)
    chain: bytes = dataclasses.field(repr=False)
    seal: bytes = dataclasses.field(repr=False)


class KeyStore(contextlib.AbstractContextManager["KeyStore"]):
    """Secrets of one gallery. Writes are durable when the call returns; threads may share it.

    A read returns one whole state: that after the last write of any process that returned before the call. No secret is
    in a `repr`, a log or an error, and no method gives the master away. `rows` is the key of the file's rows, of 32
    bytes; without a `source` the master is in the file, as in derivation 1. A `file` that is read elsewhere takes no
    writes.

    Raises:
        StoreError: The file is damaged, or not opened by this key.
    """

    def __init__(
        self,
        path: Path,
        rows: bytes,
        header: Mapping[str, Any],
        *,
        source: KeySource | None = None,
        own: _OwnKeys | None = None,
        read_only: bool = False,
        file: KeyFile | None = None,
    ) -> None:
        self._cipher = _Cipher(rows, header)
        self._lock = threading.RLock()
        self._file = SqliteFile(path, LAYOUT, read_only=read_only) if file is None else cast(SqliteFile, file)
        self._state = KeyState()
        self._is_closed = False
        try:
            self.state()
            self._source = source or _source_in(self._state, path)
            self._own = own or _own_keys(self._source, header)
        except BaseException:
            self._file.close()
            raise

    @classmethod
    def open(
        cls, path: Path, *parts: KeyPart, create: bool = False, read_only: bool = False, file: KeyFile | None = None
    ) -> "KeyStore":
        """Open or make the file of some parts, as `open_key_store` does; a `file` is that of `path` elsewhere."""
        sealed_by = "+".join(part.kind for part in parts)
        header = _new_header(path, sealed_by, parts) if create else read_header(path, sealed_by, file)
        if _derivation(header) == 1:
            return cls._open_legacy(path, parts[0], header, read_only, file)
        with contextlib.ExitStack() as opened:
            sources: dict[int, KeySource] = {}
            for place in sorted(range(len(parts)), key=lambda each: isinstance(parts[each], Seal)):
                if create and isinstance(parts[place], Seal):  # its key file is made when the others have answered
                    for source in sources.values():
                        source.derive([_IDENTITY])
                sources[place] = opened.enter_context(_opened_part(path, parts[place], header, create))
            source = sources[0] if len(parts) == 1 else JoinedSource([sources[place] for place in range(len(parts))])
            own = _own_keys(source, header)
            if create:
                header["identity"] = own.identity
                make_key_file(path, header, own.rows)
            elif not hmac.compare_digest(str(header.get("identity")).encode(), own.identity.encode()):
                raise StoreError(
                    f"{path}: belongs to other keys (identity {str(header.get('identity'))[:32]!a}, these keys have "
                    f"{own.identity!r}): wrong passphrase or key, another token, key service or name space of it, or "
                    "joined parts in another order. Nothing was written"
                )
            store = cls(path, own.rows, header, source=source, own=own, read_only=read_only, file=file)
            opened.pop_all()
        return store

    @classmethod
    def _open_legacy(
        cls, path: Path, part: KeyPart, header: Mapping[str, Any], read_only: bool, file: KeyFile | None
    ) -> "KeyStore":
        """A key store of derivation 1."""
        if isinstance(part, Seal):
            return cls(path, part.wrapping_key(header, False), header, read_only=read_only, file=file)
        source = part.open(False)
        return cls(path, legacy_rows_key(source), header, source=source, read_only=read_only, file=file)

    def derive(self, space: str, labels: Sequence[bytes]) -> list[bytes]:
        """Keys of 32 bytes for labels of a name space, which no label of another space, and no other use, gets."""
        name = space.encode()
        start = b"iom/space/v1\0" + len(name).to_bytes(4, "big") + name
        return self._keys().derive([start + label for label in labels])

    def reserve(self, application: str, count: int) -> range:
        """Record numbers that were never given out before, whatever record store was put back; gaps are allowed."""
        with self._writing() as write:
            first = write.state.known(application).next_record
            write.know(application, next_record=first + count)
        return range(first, first + count)

    def claim_records(self, application: str, end: int) -> None:
        """Never give out numbers below `end`, for imported records; a `StoreError` where it is out of range."""
        if not 0 <= end <= MAX_RECORD:
            raise StoreError(f"record number: expected 0 to {MAX_RECORD}, received {end}")
        with self._writing() as write:
            write.know(application, next_record=max(end, write.state.known(application).next_record))

    def put_masks(self, application: str, masks: Mapping[int, bytes]) -> None:
        """Keep masks of new records; a `KeyMaterialError` where one has a mask or was revoked: masks are used once."""
        with self._writing() as write:
            once = "a record has a mask already, or was revoked; a mask is used once"
            if not masks.keys().isdisjoint(write.state.revoked.get(application, {})):
                raise KeyMaterialError(once)
            try:
                write.put_masks(application, masks)
            except sqlite3.IntegrityError as error:
                raise KeyMaterialError(once) from error

    def masks(self, application: str, records: Sequence[int]) -> list[bytes]:
        """Masks of records, in their order; a `StoreError` where a record has none."""
        found = self.find_masks(application, records)
        if missing := sum(record not in found for record in records):
            raise StoreError(
                f"{self._file.path}: {missing} records have no mask here; this key store is older than "
                "the record store. Take it from a backup"
            )
        return [found[record] for record in records]

    def find_masks(self, application: str, records: Sequence[int]) -> dict[int, bytes]:
        """Masks by record, of those among `records` that have one."""
        wanted = {int(record) for record in records}
        if not wanted:
            return {}
        first, last = min(wanted), max(wanted)
        if last - first < 2 * len(wanted):  # as in a page of a search: a range is read twice as fast as a list
            rows = self._file.rows(_MASKS_IN_RANGE, (application, first, last))
        else:
            rows = self._file.rows(_MASKS_IN_LIST, (application, json.dumps(sorted(wanted))))
        found, damaged = self._cipher.open_rows(_mask_kind(application), (row for row in rows if row[0] in wanted))
        if damaged:
            raise self._damaged(f"the mask of record {damaged[0]} of {application} is damaged or was changed")
        return found

    def masked_records(self, application: str, *, before: int = 2**62) -> set[int]:
        """Records with a mask that was made before a second."""
        query = "SELECT record FROM masks WHERE application = ? AND created < ?"
        return {row[0] for row in self._file.rows(query, (application, before))}

    def forget_masks(self, application: str, records: Sequence[int]) -> None:
        """Delete the masks of records that were never stored."""
        if records:
            with self._writing() as write:
                write.forget_masks(application, records)
            self._file.forget_log()

    def revoke(self, application: str, records: Sequence[Tombstone], head: AuditEntry | None = None) -> None:
        """Refuse records for ever, forget their masks, and remember an audit entry as `settle` does; repeatable."""
        with self._writing() as write:
            if records:
                write.revoke(application, records)
            masked = write.forget_masks(application, [each.record for each in records])
            write.settle(head)
        if masked:
            self._file.forget_log()

    def revoked(self, application: str) -> Mapping[int, Tombstone]:
        """Revoked records by number; an immutable snapshot."""
        return self.state().revoked.get(application, MappingProxyType({}))

    def revoked_epochs(self, application: str) -> Mapping[str, int]:
        """Newest key epoch of the revoked records of each subject; an immutable snapshot."""
        return self.state().epochs.get(application, MappingProxyType({}))

    def settle(self, head: AuditEntry | None, application: Application | None = None) -> None:
        """Remember the newest entry of the audit log and new settings of an application, unless newer are known."""
        with self._writing() as write:
            write.settle(head)
            if application is not None:
                known = write.state.known(application.name).settings
                bare = dataclasses.replace(application, seal=b"")
                if known is not None and known.revision > application.revision:
                    bare = known
                write.know(bare.name, settings=bare, is_stored=True)

    def begin_log(self) -> None:
        """Expect a new record store with an empty audit log; record numbers and epochs go on."""
        if self.state().anchor is not None or self.state().keyed_from != 1:
            with self._writing() as write:
                write.change(anchor=None, keyed_from=1)
                for name in write.state.applications:
                    write.know(name, is_stored=False)

    def note_rollback(self, head: AuditEntry | None) -> None:
        """Remember that the record store is older than expected, and go on from its last audit entry."""
        with self._writing() as write:
            known, found = write.state.anchor, head.sequence if head else 0
            entry = {"known": known.sequence if known else 0, "found": found, "time": int(time.time())}
            write.append("rollback", entry)
            write.change(anchor=Anchor(head.sequence, head.digest) if head else None)

    def accept_rollbacks(self) -> None:
        """Accept all noted rollbacks."""
        if self.state().rollbacks:
            with self._writing() as write:
                write.append("accepted", {"rollbacks": len(write.state.rollbacks)})

    def problems(self) -> list[str]:
        """Problems of the file, one line each; empty when there are none."""
        return self._file.problems()

    def erase(self) -> None:
        """Rewrite the file without remains of deleted masks."""
        self._file.vacuum()

    def identity(self) -> str:
        """Public identifier of the keys, by which a record store recognizes its key store."""
        return self._own_open().identity

    def audit_key(self) -> bytes:
        """Key of the pseudonyms in the audit log."""
        return self._own_open().audit

    def chain(self) -> AuditChain:
        """The chain of the audit log, under a key of its own."""
        return AuditChain(self._own_open().chain, self.state().keyed_from)

    def record_keys(self, application: str, records: Sequence[tuple[str, int]]) -> list[TransformKey]:
        """Keys of records, given as `(subject, number)`, in key mode `subject`; one request where keys are remote."""
        labels = [derivation_label(application, subject_id, record) for subject_id, record in records]
        return [TransformKey(key) for key in self._keys().derive(labels)]

    def record_key(self, application: str, subject_id: str, record: int) -> TransformKey:
        """Key of one record, in key mode `subject`."""
        return self.record_keys(application, [(subject_id, record)])[0]

    def application_keys(self, application: str, epochs: Sequence[int]) -> list[TransformKey]:
        """Keys of all records of epochs, in key mode `application`; no subject has an empty id."""
        return self.record_keys(application, [("", epoch) for epoch in epochs])

    def seal(self, message: bytes) -> bytes:
        """Authentication tag of a record, `SEAL_BYTES` long."""
        mac = self._seal_mac.copy()  # half the time of a new one
        mac.update(message)
        return mac.digest()[:SEAL_BYTES]

    @functools.cached_property
    def _seal_mac(self) -> hmac.HMAC:
        return hmac.new(self._own_open().seal, digestmod="sha256")

    def close(self) -> None:
        """Forget all secrets and close the file; a second call does nothing."""
        self._is_closed = True
        self._state, self._own = KeyState(), _OwnKeys("", b"", b"", b"", b"")
        self.__dict__.pop("_seal_mac", None)
        self._source.close()
        self._file.close()

    def _keys(self) -> KeySource:
        self._own_open()
        return self._source

    def _own_open(self) -> _OwnKeys:
        if self._is_closed:
            raise StoreError(f"{self._file.path}: the key store is closed")
        return self._own

    def __exit__(self, *_: object) -> None:
        self.close()

    def state(self) -> KeyState:
        """The newest state, read again where a process has written since; a `StoreError` if the store is closed."""
        self._file.check_place()
        known = self._state
        if self._file.rows(_STATE) == [(known.position, known.sealed)]:
            return known
        with self._lock:
            self._state = self._updated(self._file.rows(_CHANGES, (self._state.count,)), self._state)
            return self._state

    def _updated(self, changes: Sequence[tuple[int, Any, Any, Any]], known: KeyState) -> KeyState:
        """`known` with all later writes."""
        rows = [(number, sealed) for kind, number, _, sealed in changes if not kind]
        if len(rows) != 1 or type(rows[0][0]) is not int:
            raise self._damaged("damaged: its state is missing or has no number")
        ((number, sealed),) = rows
        if (number, sealed) == (known.position, known.sealed):
            return known
        if number <= known.position:
            raise StoreError(
                f"{self._file.path}: an older copy was put back while it was open (write {number}, "
                f"expected {known.position} or later). Start this program again"
            )
        hint = "damaged" if known.position else "wrong passphrase or key, or it is damaged"
        state = json.loads(self._opened(sealed, "state", number, hint))
        digest, opened, place = known.digest, [], known.count
        for entry, kind, blob in (row[1:] for row in changes if row[0]):
            place += 1
            number_in = entry if entry == place else -1
            content = self._opened(blob, kind, number_in, f"entry {place} is damaged, missing or was changed")
            opened.append((kind, json.loads(content)))
            digest = _chained(digest, place, blob)
        if (place, digest.hex()) != (state["count"], state["digest"]):
            raise self._damaged(f"entry {place + 1} is damaged, missing or was changed")
        anchor = state["anchor"]
        return dataclasses.replace(
            _with_entries(known, opened, str(self._file.path)),
            position=number,
            sealed=sealed,
            count=place,
            digest=digest,
            keyed_from=state["keyed_from"],
            anchor=anchor and Anchor(anchor[0], bytes.fromhex(anchor[1])),
            applications=MappingProxyType({name: _known_of(values) for name, values in state["applications"].items()}),
        )

    def _opened(self, sealed: object, kind: object, number: int, problem: str) -> bytes:
        try:
            return self._cipher.open(sealed, kind, number)
        except ValueError:
            raise self._damaged(problem) from None

    def _damaged(self, problem: str) -> StoreError:
        return StoreError(f"{self._file.path}: {problem}; take the key store from a backup")

    @contextlib.contextmanager
    def _writing(self) -> Iterator["KeyWrite"]:
        """A transaction over the newest state, which becomes that of this object when it is committed."""
        with self._lock:
            with self._file.writing() as connection:
                changes = connection.execute(_CHANGES, (self._state.count,)).fetchall()
                self._state = self._updated(changes, self._state)
                write = KeyWrite(connection, self._cipher, self._state)
                yield write
                write.finish()
            self._state = write.state


class KeyWrite:
    """Changes of one transaction; `state` is the content after them."""

    def __init__(self, connection: sqlite3.Connection, cipher: "_Cipher", state: KeyState) -> None:
        self.connection, self.state = connection, state
        self._cipher = cipher

    def change(self, **fields: Any) -> None:
        """Change fields of the state."""
        self.state = dataclasses.replace(self.state, **fields)

    def know(self, application: str, **fields: Any) -> None:
        """Change fields of the known state of an application."""
        known = dataclasses.replace(self.state.known(application), **fields)
        self.change(applications=MappingProxyType({**self.state.applications, application: known}))

    def append(self, kind: str, value: dict[str, Any]) -> None:
        """Write an entry, which is never deleted."""
        number = self.state.count + 1
        sealed = self._cipher.seal(_json(value), kind, number)
        self.connection.execute("INSERT INTO entries VALUES (?, ?, ?)", (number, kind, sealed))
        digest = _chained(self.state.digest, number, sealed)
        self.state = _with_entries(self.state, [(kind, value)], "the key store")
        self.change(count=number, digest=digest)

    def revoke(self, application: str, records: Sequence[Tombstone]) -> None:
        """Refuse records for ever."""
        triples = [[each.subject_id, each.record, each.epoch] for each in records]
        self.append("revoked", {"application": application, "records": triples})

    def put_masks(self, application: str, masks: Mapping[int, bytes]) -> None:
        """Keep masks of records that have none."""
        created, seal, kind = int(time.time()), self._cipher.seal, _mask_kind(application)
        self.connection.executemany(
            "INSERT INTO masks VALUES (?, ?, ?, ?)",
            ((application, record, created, seal(mask, kind, record)) for record, mask in masks.items()),
        )

    def settle(self, head: AuditEntry | None) -> None:
        """Remember an audit entry, unless a newer one is known."""
        anchor = self.state.anchor
        if head is not None and (anchor is None or head.sequence > anchor.sequence):
            self.change(anchor=Anchor(head.sequence, head.digest))

    def forget_masks(self, application: str, records: Sequence[int]) -> int:
        """Delete masks; return how many there were."""
        return self.connection.executemany(
            "DELETE FROM masks WHERE application = ? AND record = ?", [(application, int(record)) for record in records]
        ).rowcount

    def finish(self) -> None:
        """Write the state."""
        number = self.state.position + 1
        anchor, applications = self.state.anchor, self.state.applications
        content = {
            "count": self.state.count,
            "digest": self.state.digest.hex(),
            "keyed_from": self.state.keyed_from,
            "anchor": [anchor.sequence, anchor.digest.hex()] if anchor else None,
            "applications": {
                name: {**vars(known), "settings": known.settings and known.settings.fields()}
                for name, known in applications.items()
            },
        }
        sealed = self._cipher.seal(_json(content), "state", number)
        self.connection.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?)", (number, sealed))
        self.change(position=number, sealed=sealed)


class _Cipher:
    """AES-256-GCM over rows, each bound to its file, kind and number."""

    def __init__(self, key: bytes, header: Mapping[str, Any]) -> None:
        # 0.1 s that a key store only wants when it is opened
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        text = json.dumps(dict(header), sort_keys=True, separators=(",", ":"))
        self._bound = b"iom-keys/2\0" + hashlib.sha256(text.encode()).digest()
        self._aes, self._invalid = AESGCM(key), InvalidTag

    def seal(self, content: bytes, kind: str, number: int) -> bytes:
        # A counter as the nonce would repeat after an older copy of the file was put back.
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._aes.encrypt(nonce, content, self._place(kind, number))

    def open(self, sealed: object, kind: object, number: int) -> bytes:
        """Content of a row; `ValueError` if it was not sealed here."""
        if not isinstance(sealed, bytes) or not isinstance(kind, str):  # SQLite keeps any type in any column
            raise ValueError("not sealed here")
        try:
            return self._aes.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], self._place(kind, number))
        except self._invalid:
            raise ValueError("not sealed here") from None

    def open_rows(self, kind: str, rows: Iterable[tuple[int, object]]) -> tuple[dict[int, bytes], list[int]]:
        """Content of rows `(number, sealed)` by number, and the numbers of those that were not sealed here."""
        place, decrypt = self._place(kind, 0)[:-1], self._aes.decrypt  # half the time of `open` for each
        found, damaged = {}, []
        for number, sealed in rows:
            try:
                if not isinstance(sealed, bytes):
                    raise ValueError("SQLite keeps any type in any column")
                found[number] = decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place + b"%d" % number)
            except (self._invalid, ValueError):
                damaged.append(number)
        return found, damaged

    def _place(self, kind: str, number: int) -> bytes:
        return self._bound + kind.encode() + b"\0" + str(number).encode()


def open_key_store(
    url: str | os.PathLike[str], *, create: bool = False, passphrase: PassphraseSource | None = None
) -> KeyStore:
    """The key store of a path or URL.

    - `file:PATH`, or a text without a colon: the master is in the file, sealed by a passphrase; with
      `file:PATH?key-file=PATH` by a key in another file, which is made with the store where it is missing.
    - `environment:NAME?file=PATH` and `command:PROGRAM ARGUMENTS?file=PATH`: the master is the text of
      `TransformKey.to_text` in a variable, or in the first line that a program prints.
    - `pkcs11:token=NAME;object=NAME?module-path=PATH&pin-source=file:PATH&file=PATH`: the master is a secret in a
      token, which computes the keys and does not let it out; made with the store where it is missing. Needs the extra
      `pkcs11`. Without `pin-source` the PIN is in the environment variable IOM_PKCS11_PIN.
    - `https://HOST:PORT?certificate=PATH&key=PATH&authority=PATH&file=PATH`: the master is that of a key service
      (`iom serve-keys`), which computes the keys; `&name=NAME` is the name in its certificate, else `keys`.
    - Several of these joined by `+`: all of them are needed for every key, in this order.

    Exactly one part names the file, which has the rest: masks, revoked records, state. `&mode=ro` behind any part opens
    it for reading only. A gallery stays with the kind of its key store, since a master never leaves its place.

    Args:
        url: Scheme and place, or a path.
        create: Make a new store, which must not exist.
        passphrase: A text, or a function that returns it where one is needed; by default IOM_PASSPHRASE.

    Raises:
        StoreNotFoundError: The file is missing.
        StoreError: Unknown scheme, or the file exists already, is damaged, of an older format or not opened by this
            passphrase or key; a token or a key service does not answer, or is another one.
        RateLimitError: The key service may be asked again after a time.
    """
    found = parse_key_url(url, passphrase)
    return KeyStore.open(found.path, *found.parts, create=create, read_only=found.read_only)


def _own_keys(source: KeySource, header: Mapping[str, Any]) -> _OwnKeys:
    """All of them in one request."""
    labels = [_IDENTITY, b"iom/key-store/rows/v2\0" + str(header.get("salt")).encode()]
    labels += [b"iom/key-store/audit/v2", b"iom/key-store/audit-chain/v2", b"iom/key-store/seal/v2"]
    identity, rows, audit, chain, seal = source.derive(labels)
    if _derivation(header) == 1 and isinstance(source, MasterSource):
        audit, chain, seal = map(source.stream, ("gallery-audit", "gallery-audit-chain", "gallery-seal"))
    return _OwnKeys(_identity_text(identity), rows, audit, chain, seal)


def identity_of(source: KeySource) -> str:
    """The `identity` of a key store with these keys."""
    return _identity_text(source.derive([_IDENTITY])[0])


def _identity_text(key: bytes) -> str:
    return key.hex()[:32]


def _source_in(state: KeyState, path: Path) -> KeySource:
    if state.master is None:
        raise StoreError(f"{path}: holds no master key; take it from a backup")
    return MasterSource(state.master)


def legacy_rows_key(source: KeySource) -> bytes:
    """The key of the rows where a key store of derivation 1 has its master outside."""
    if not isinstance(source, MasterSource):
        raise StoreError("key store: of derivation 1, expected a master from the environment or a command")
    return source.stream("gallery-key-file")


def _derivation(header: Mapping[str, Any]) -> int:
    found = header.get("derivation", 1)
    if type(found) is not int or not 1 <= found <= DERIVATION:
        raise StoreError(
            f"key store: expected derivation 1 to {DERIVATION} in its header, found {str(found)[:20]!a}; use the "
            "version of iom that made it"
        )
    return found


def _new_header(path: Path, sealed_by: str, parts: Sequence[KeyPart]) -> dict[str, Any]:
    if path.exists():  # before a token or another file gets a new secret
        raise StoreError(f"{path}: there is a file already; nothing was changed")
    settings = {name: value for part in parts if isinstance(part, Seal) for name, value in part.settings.items()}
    return {"sealed_by": sealed_by, "derivation": DERIVATION, "salt": secrets.token_hex(16), **settings}


def _opened_part(path: Path, part: KeyPart, header: dict[str, Any], is_new: bool) -> KeySource:
    """The source of a part; the master of a new file is added to its header."""
    if not isinstance(part, Seal):
        return part.open(is_new)
    if is_new:
        source, header["master"] = part.new_master(header)
        return source
    try:
        return part.read_master(header, header["master"])
    except (KeyError, TypeError, ValueError):
        raise StoreError(
            f"{path}: wrong passphrase or key, or it is damaged; take the key store from a backup"
        ) from None


def read_header(path: Path, sealed_by: str, file: KeyFile | None = None) -> dict[str, Any]:
    """The header of a key store with a kind of seal."""
    if file is not None:
        rows = file.rows(READS["header"])
    else:
        with contextlib.suppress(OSError), path.open("rb") as stream:
            if stream.read(len(LEGACY_START)) == LEGACY_START:
                raise StoreError(
                    f"{path}: expected a key store of format {LAYOUT.format}, found format 1; convert it with: "
                    "iom migrate"
                )
        with contextlib.closing(SqliteFile(path, LAYOUT, read_only=True)) as opened:
            rows = opened.rows(READS["header"])
    try:
        header = parse_json(rows[0][0])
        known = header["sealed_by"]
    except (IndexError, ValueError, TypeError, KeyError):
        raise StoreError(f"{path}: its header is damaged; take it from a backup") from None
    if known != sealed_by:
        raise StoreError(
            f"{path}: is not opened by {sealed_by}; it was made to be opened by: {str(known)[:80]!a}, joined parts in "
            "this order. A gallery cannot move to keys of another kind, since a master never leaves its place: make a "
            "new gallery and enrol anew"
        )
    return dict(header)


def make_key_file(
    path: Path,
    header: Mapping[str, Any],
    rows: bytes,
    *,
    keyed_from: int = 1,
    fill: Callable[[KeyWrite], None] = lambda write: None,
) -> None:
    """Make the file of a key store, which must not exist, complete with what `fill` writes or not at all."""

    def write_rows(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO header VALUES (1, ?)", (json.dumps(dict(header)),))
        write = KeyWrite(connection, _Cipher(rows, header), KeyState(keyed_from=keyed_from))
        fill(write)
        write.finish()
        connection.execute("COMMIT")

    make_sqlite_file(path, LAYOUT, _SCHEMA, write_rows)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _mask_kind(application: str) -> str:
    return f"mask\0{application}"


def _chained(digest: bytes, number: int, sealed: bytes) -> bytes:
    return hashlib.sha256(digest + number.to_bytes(8, "big") + sealed).digest()


def _with_entries(known: KeyState, entries: Sequence[tuple[str, Mapping[str, Any]]], place: str) -> KeyState:
    """A state after entries; only what they touch is copied."""
    master, rollbacks = known.master, known.rollbacks
    more: dict[str, list[Tombstone]] = {}
    for kind, value in entries:
        if kind == "master" and "master" in value:
            master = read_key(value["master"], place)
        elif kind == "rollback":
            rollbacks = (*rollbacks, (value["known"], value["found"]))
        elif kind == "accepted":
            rollbacks = rollbacks[value["rollbacks"] :]
        elif kind == "revoked":
            more.setdefault(value["application"], []).extend(Tombstone(*triple) for triple in value["records"])
    revoked, epochs = dict(known.revoked), dict(known.epochs)
    for name, tombstones in more.items():
        of_records, of_subjects = dict(revoked.get(name, {})), dict(epochs.get(name, {}))
        for each in tombstones:
            of_records.setdefault(each.record, each)
            of_subjects[each.subject_id] = max(each.epoch, of_subjects.get(each.subject_id, 0))
        revoked[name], epochs[name] = MappingProxyType(of_records), MappingProxyType(of_subjects)
    return dataclasses.replace(known, master=master, rollbacks=rollbacks, revoked=revoked, epochs=epochs)


def _known_of(values: Mapping[str, Any]) -> KnownApplication:
    settings = values["settings"] and Application(**values["settings"])
    return KnownApplication(settings, values["next_record"], values["is_stored"])
