"""Key store: master key, masks and revoked records, apart from the record store.

A SQLite file whose rows are sealed with AES-256-GCM under a wrapping key, which comes from a passphrase, a key in
another file, or a master from outside. The associated data of a row are the salt of the file and the kind and number of
the row (of a mask: application and record), so that rows cannot be exchanged. Rows of `entries` are never deleted; the
one row of `state` has their count and chains their tags, so that none can be removed or put back. Masks are deleted
with their records.
"""

import contextlib
import dataclasses
import functools
import hashlib
import hmac
import json
import os
import secrets
import shlex
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from iom._files import write_secret
from iom._registry import did_you_mean, with_scheme
from iom._untrusted import parse_json
from iom.errors import KeyMaterialError, StoreError
from iom.gallery.models import Application, AuditChain, AuditEntry, Tombstone
from iom.gallery.stores.sqlite_file import Layout, SqliteFile, make_sqlite_file
from iom.keys import TransformKey

SEAL_BYTES = 16
SCRYPT_COST = 1 << 17
"""N of scrypt: 128 MB and some tenths of a second for each guess of a passphrase."""
MIN_PASSPHRASE_LENGTH = 8
COMMAND_SECONDS = 60
MAX_RECORD = 2**62
LEGACY_START = b'{"format":"iom-keys"'
_MAX_COST = 1 << 20
_SCRYPT_BLOCK = 8
_NONCE_BYTES = 12

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

PassphraseSource: TypeAlias = str | Callable[[], str]
PASSPHRASE_VARIABLE = "IOM_PASSPHRASE"  # noqa: S105 - its name


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
    master: TransformKey | None = dataclasses.field(default=None, repr=False)
    revoked: Mapping[str, Mapping[int, Tombstone]] = dataclasses.field(default_factory=dict)
    epochs: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    rollbacks: tuple[tuple[int, int], ...] = ()

    def known(self, application: str) -> KnownApplication:
        """Newest known state of an application."""
        return self.applications.get(application, KnownApplication())


class KeyStore(contextlib.AbstractContextManager["KeyStore"]):
    """Secrets of one gallery. Writes are durable when the call returns; threads may share it.

    A read returns one whole state: that after the last write of any process that returned before the call. No secret is
    in a `repr`, a log or an error. `key` is the wrapping key of 32 bytes, `master` one from outside.

    Raises:
        StoreError: The file is damaged, or not opened by this key.
    """

    def __init__(
        self,
        path: Path,
        key: bytes,
        header: Mapping[str, Any],
        *,
        master: TransformKey | None = None,
        read_only: bool = False,
    ) -> None:
        self._cipher = _Cipher(key, header)
        self._external = master
        self._lock = threading.RLock()
        self._file = SqliteFile(path, LAYOUT, read_only=read_only)
        self._state = KeyState()
        try:
            self.state()
        except BaseException:
            self._file.close()
            raise

    @classmethod
    def open(cls, path: Path, seal: "Seal", *, create: bool = False, read_only: bool = False) -> "KeyStore":
        """Open or make the file of a seal, as `open_key_store` does."""
        if create:
            header = {"sealed_by": seal.kind, "salt": secrets.token_hex(16), **seal.settings}
            key = seal.wrapping_key(header, True)
            make_key_file(path, header, key, None if seal.master else TransformKey.generate())
        else:
            header = read_header(path, seal.kind)
            key = seal.wrapping_key(header, False)
        return cls(path, key, header, master=seal.master, read_only=read_only)

    def master(self) -> TransformKey:
        """The master key, which never changes."""
        master = self._external or self._state.master or self.state().master
        if master is None:
            raise StoreError(f"{self._file.path}: holds no master key; take it from a backup")
        return master

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
        query = "SELECT record, sealed FROM masks WHERE application = ? AND record IN (SELECT value FROM json_each(?))"
        found = self._file.rows(query, (application, json.dumps([int(record) for record in records])))
        kind, problem = _mask_kind(application), "the mask of record {} of {} is damaged or was changed"
        return {
            record: self._opened(sealed, kind, record, problem.format(record, application)) for record, sealed in found
        }

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
        """Public identifier of the master, by which a record store recognizes its key store."""
        return hmac.digest(self.master().secret, b"iom/key-store/identity/v1", "sha256").hex()[:32]

    def audit_key(self) -> bytes:
        """Key of the pseudonyms in the audit log."""
        return self.master().stream("gallery-audit", 32)

    def chain(self) -> AuditChain:
        """The chain of the audit log, under a key of its own."""
        return AuditChain(self.master().stream("gallery-audit-chain", 32), self.state().keyed_from)

    def record_key(self, application: str, subject_id: str, record: int) -> TransformKey:
        """Key of one record, in key mode `subject`."""
        return self.master().derive(application=application, subject=subject_id, record=record)

    def application_key(self, application: str, epoch: int) -> TransformKey:
        """Key of all records of an epoch, in key mode `application`; no subject has an empty id."""
        return self.master().derive(application=application, subject="", record=epoch)

    def seal(self, message: bytes) -> bytes:
        """Authentication tag of a record, `SEAL_BYTES` long."""
        mac = self._seal_mac.copy()  # half the time of a new one
        mac.update(message)
        return mac.digest()[:SEAL_BYTES]

    @functools.cached_property
    def _seal_mac(self) -> hmac.HMAC:
        return hmac.new(self.master().stream("gallery-seal", 32), digestmod="sha256")

    def close(self) -> None:
        """Forget all secrets and close the file; a second call does nothing."""
        self._external = None
        self._state = KeyState()
        self.__dict__.pop("_seal_mac", None)
        self._file.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def state(self) -> KeyState:
        """The newest state, read again where a process has written since; a `StoreError` if the store is closed."""
        self._file.check_place()
        known = self._state
        if self._file.rows("SELECT number, sealed FROM state") == [(known.position, known.sealed)]:
            return known
        with self._lock, self._file.reading() as connection:
            self._state = self._read(connection, self._state)
            return self._state

    def _read(self, connection: sqlite3.Connection, known: KeyState) -> KeyState:
        """`known` with all later writes, in the transaction of `connection`."""
        rows = connection.execute("SELECT number, sealed FROM state").fetchall()
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
        found = connection.execute(
            "SELECT number, kind, sealed FROM entries WHERE number > ? ORDER BY number", (known.count,)
        ).fetchall()
        digest, opened, place = known.digest, [], known.count
        for entry, kind, blob in found:
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
                self._state = self._read(connection, self._state)
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

    def _place(self, kind: str, number: int) -> bytes:
        return self._bound + kind.encode() + b"\0" + str(number).encode()


@dataclasses.dataclass(frozen=True)
class Seal:
    """Secret that seals a key store: kind (in its header), `(header, is_new)` to 32 bytes, master from outside."""

    kind: str
    wrapping_key: Callable[[Mapping[str, Any], bool], bytes] = dataclasses.field(repr=False)
    master: TransformKey | None = dataclasses.field(default=None, repr=False)
    settings: Mapping[str, int] = dataclasses.field(default_factory=dict)


def passphrase_seal(read: PassphraseSource | None, cost: int = 0) -> Seal:
    """The seal of a passphrase, which is asked for when it is needed; `None` takes it from the environment."""

    def wrapping_key(header: Mapping[str, Any], is_new: bool) -> bytes:
        passphrase = read if isinstance(read, str) else read() if read else os.environ.get(PASSPHRASE_VARIABLE)
        if passphrase is None:
            raise StoreError(
                "key store: expected a passphrase, received none: give passphrase=..., or set the environment "
                f"variable {PASSPHRASE_VARIABLE}"
            )
        if is_new and len(passphrase) < MIN_PASSPHRASE_LENGTH:
            raise KeyMaterialError(
                f"passphrase: expected at least {MIN_PASSPHRASE_LENGTH} characters, received {len(passphrase)}"
            )
        n, salt = header.get("cost"), header.get("salt")
        if not isinstance(n, int) or not 2 <= n <= _MAX_COST or n & (n - 1) or not isinstance(salt, str):
            raise StoreError("key store: its header is damaged; take it from a backup")
        memory = 128 * _SCRYPT_BLOCK * (n + 64)
        return hashlib.scrypt(
            passphrase.encode(), salt=salt.encode(), n=n, r=_SCRYPT_BLOCK, p=1, maxmem=memory, dklen=32
        )

    return Seal("passphrase", wrapping_key, settings={"cost": cost or SCRYPT_COST})


def key_file_seal(path: Path) -> Seal:
    """The seal of a key in a file, which is made with a new key store where it is missing."""

    def wrapping_key(header: Mapping[str, Any], is_new: bool) -> bytes:
        try:
            if is_new:
                with contextlib.suppress(FileExistsError):
                    write_secret(path, TransformKey.generate().to_text() + "\n")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise StoreError(f"key file {path}: cannot be read or made: {error.strerror}") from error
        except UnicodeDecodeError:  # its text holds a byte of the file
            raise StoreError(f"key file {path}: is no text of a key") from None
        return read_master(text, str(path)).stream("gallery-wrapping-key", 32)

    return Seal("key", wrapping_key)


def read_master(text: str, source: str) -> TransformKey:
    """A master key from its text; an error names the source alone, never the text."""
    try:
        return TransformKey.from_text(text)
    except KeyMaterialError as error:
        raise KeyMaterialError(f"master key from {source}: {error}") from error


def from_environment(name: str) -> TransformKey:
    """The master key in an environment variable."""
    text = os.environ.get(name)
    if text is None:
        raise StoreError(f"key store: the environment variable {name} is not set")
    return read_master(text, f"the environment variable {name}")


def from_command(command: str) -> TransformKey:
    """The master key in the first line that a command prints; it runs without a shell, its errors are not shown."""
    try:
        done = subprocess.run(  # noqa: S603 - whoever starts this program chooses the command
            shlex.split(command), capture_output=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise StoreError(
            f"key store: the command for the master key could not be run: {type(error).__name__}"
        ) from None
    if done.returncode:
        raise StoreError(f"key store: the command for the master key ended with code {done.returncode}")
    line = done.stdout.decode("utf-8", "replace").strip().split("\n")[0]
    return read_master(line, "a command")


EXTERNAL: dict[str, Callable[[str], TransformKey]] = {"environment": from_environment, "command": from_command}
"""Reader of a master key from outside, by the scheme of a URL."""


def open_key_store(
    url: str | os.PathLike[str], *, create: bool = False, passphrase: PassphraseSource | None = None
) -> KeyStore:
    """The key store of a path or URL.

    `file:PATH`, or a text without a colon, is opened by a passphrase, `file:PATH?key-file=PATH` by a key in another
    file, which is made with the store where it is missing. With `environment:NAME?file=PATH` and
    `command:PROGRAM ARGUMENTS?file=PATH` the master comes from outside, as the text of `TransformKey.to_text`, and the
    file has the rest. `?mode=ro` (or `&mode=ro`) behind it opens it for reading only.

    Args:
        url: Scheme and place, or a path.
        create: Make a new store, which must not exist.
        passphrase: A text, or a function that returns it where one is needed; by default IOM_PASSPHRASE.

    Raises:
        StoreNotFoundError: The file is missing.
        StoreError: Unknown scheme, or the file exists already, is damaged, of an older format or not opened by this
            passphrase or key.
    """
    path, seal, read_only = parse_key_url(url, passphrase)
    return KeyStore.open(path, seal, create=create, read_only=read_only)


def parse_key_url(url: str | os.PathLike[str], passphrase: PassphraseSource | None) -> tuple[Path, Seal, bool]:
    """File and seal of a URL, and whether it is for reading only."""
    url = with_scheme(url, "file:")
    scheme, separator, rest = url.partition(":")
    schemes = ("file", *EXTERNAL)
    if not separator or scheme not in schemes:
        raise StoreError(
            f"key store: expected a URL {':..., '.join(schemes)}:..., received the scheme "
            f"'{scheme if separator else ''}'{did_you_mean(scheme, schemes)}"
        )
    read_only = rest.endswith(("?mode=ro", "&mode=ro"))
    rest = rest[: -len("?mode=ro")] if read_only else rest
    place, _, value = rest.partition("?key-file=" if scheme == "file" else "?file=")
    if scheme != "file":
        if not place or not value:
            raise StoreError(f"key store: expected {scheme}:...?file=PATH, where PATH is the file for the rest")
        master = EXTERNAL[scheme](place)
        seal = Seal("external", lambda header, is_new: master.stream("gallery-key-file", 32), master)
        return Path(value), seal, read_only
    if not place:
        raise StoreError("key store: expected file:PATH")
    return Path(place), key_file_seal(Path(value)) if value else passphrase_seal(passphrase), read_only


def read_header(path: Path, sealed_by: str) -> dict[str, Any]:
    """The header of a key store with a kind of seal."""
    with contextlib.suppress(OSError), path.open("rb") as stream:
        if stream.read(len(LEGACY_START)) == LEGACY_START:
            raise StoreError(
                f"{path}: expected a key store of format {LAYOUT.format}, found format 1; convert it with: iom migrate"
            )
    with contextlib.closing(SqliteFile(path, LAYOUT, read_only=True)) as file:
        rows = file.rows("SELECT text FROM header")
    try:
        header = parse_json(rows[0][0])
        known = header["sealed_by"]
    except (IndexError, ValueError, TypeError, KeyError):
        raise StoreError(f"{path}: its header is damaged; take it from a backup") from None
    if known != sealed_by:
        raise StoreError(f"{path}: is not opened by {sealed_by}; it was made to be opened by: {str(known)[:20]!a}")
    return dict(header)


def make_key_file(
    path: Path,
    header: Mapping[str, Any],
    key: bytes,
    master: TransformKey | None,
    *,
    keyed_from: int = 1,
    fill: Callable[[KeyWrite], None] = lambda write: None,
) -> None:
    """Make the file of a key store, which must not exist, complete with what `fill` writes or not at all."""

    def write_rows(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO header VALUES (1, ?)", (json.dumps(dict(header)),))
        write = KeyWrite(connection, _Cipher(key, header), KeyState(keyed_from=keyed_from))
        write.append("master", {"master": master.to_text()} if master else {})
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
            master = read_master(value["master"], place)
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
