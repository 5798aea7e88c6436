"""Audit log of a server for other programs: who asked for what and when, in a file that only grows.

Each entry is chained to the one before by an HMAC, as the audit log of a gallery is; labels appear as pseudonyms under
another key. Without the key no entry can be changed, removed from the middle or appended; entries removed at the end
are not noticed by the file alone.
"""

import contextlib
import dataclasses
import hmac
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from iom._files import SECRET_MODE, Journal
from iom.errors import DataError, StoreError
from iom.gallery.models import AuditChain, AuditEntry, AuditEvent, Counts, pseudonyms

_SETTINGS = {"kind": "iom-audit", "format": 1}


@dataclasses.dataclass(frozen=True)
class AuditRecord:
    """An entry: who did what at a Unix time, on how many labels, and their pseudonyms."""

    time: int
    caller: str
    action: str
    count: int
    labels: tuple[bytes, ...]


class AuditLog(contextlib.AbstractContextManager["AuditLog"]):
    """An audit log in a file, which is made with mode 0600 where it is missing; threads may share it.

    An entry is on the disk when `add` returns; entries of several threads get there together. After an error of the
    disk no more are taken until the log is opened again. One process at a time holds the file. `key` is of 32 bytes.

    Raises:
        StoreError: The file is another's, is held by another process, or its chain is broken.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path
        self._chain = AuditChain(hmac.digest(key, b"iom/audit-log/chain/v1", "sha256"))
        self._key = hmac.digest(key, b"iom/audit-log/pseudonyms/v1", "sha256")
        self._lock, self._sync_lock = threading.Lock(), threading.Lock()
        self._last: tuple[int, bytes] | None = None
        self._synced, self._is_broken = 0, False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(SECRET_MODE)
            self._journal = Journal(path, _SETTINGS)
        except (OSError, DataError) as error:
            raise StoreError(f"audit log {path}: {error}") from error
        try:
            for entry in self._entries():
                self._last = (entry.sequence, entry.digest)
        except BaseException as error:
            self._journal.close()
            if isinstance(error, DataError):  # a line that is no JSON
                raise self._broken(self._last) from None
            raise

    def add(self, caller: str, action: str, labels: Sequence[bytes] = ()) -> None:
        """Append an entry; durable when it returns."""
        hidden = pseudonyms(self._key, caller, [label.hex() for label in labels])
        event = AuditEvent(action, caller, len(labels), hidden, time=int(time.time()))
        with self._explained(), self._lock:
            entry = self._chain.following(event, Counts(), self._last)
            line = [event.time, caller, action, len(labels), b"".join(hidden).hex(), entry.digest.hex()]
            self._journal.add({"entry": line})
            self._last = (entry.sequence, entry.digest)
        with self._explained(), self._sync_lock:
            if self._synced < entry.sequence:
                newest = self._last[0]
                self._journal.sync()
                self._synced = newest

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Refuse for good what cannot be written: the next entry would follow a cut one."""
        if self._is_broken:
            raise StoreError(f"audit log {self._path}: could not be written before; start this program again")
        try:
            yield
        except OSError as error:
            self._is_broken = True
            raise StoreError(f"audit log {self._path}: cannot be written: {error.strerror}") from error

    def records(self) -> Iterator[AuditRecord]:
        """All entries, checked."""
        with self._lock:
            found = [AuditRecord(e.time, e.application, e.action, e.count, e.subjects) for e in self._events()]
        yield from found

    def close(self) -> None:
        """Let another process hold the file."""
        self._journal.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _events(self) -> Iterator[AuditEvent]:
        return (entry.event for entry in self._entries())

    def _entries(self) -> Iterator[AuditEntry]:
        last: tuple[int, bytes] | None = None
        for _, content in self._journal.entries():
            try:
                event, digest = _parsed(content)
            except (ValueError, TypeError, KeyError):
                raise self._broken(last) from None
            entry = self._chain.following(event, Counts(), last)
            if not hmac.compare_digest(entry.digest, digest):
                raise self._broken(last)
            last = (entry.sequence, entry.digest)
            yield entry

    def _broken(self, last: tuple[int, bytes] | None) -> StoreError:
        return StoreError(
            f"audit log {self._path}: entry {(last or (0, b''))[0] + 1} was changed or is damaged, or the log was "
            "written under another key; move it away, keep it, and start a new one"
        )


def _parsed(content: dict[str, Any]) -> tuple[AuditEvent, bytes]:
    seconds, caller, action, count, labels, digest = content["entry"]
    hidden = bytes.fromhex(labels)
    size = len(hidden) // count if count else 16
    parts = tuple(hidden[start : start + size] for start in range(0, len(hidden), size))
    return AuditEvent(action, caller, count, parts, time=seconds), bytes.fromhex(digest)
