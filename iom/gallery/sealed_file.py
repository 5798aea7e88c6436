"""An append-only file of sealed entries: each encrypted, in order, none taken out unnoticed.

A line of JSON (the header) and then entries: length (4 bytes, big endian), nonce (12) and an
AES-256-GCM ciphertext with its tag. Associated data of an entry are the header, its number and the
tag of the entry before, so that entries that were changed, reordered or taken out of the middle do
not open. A crash while appending leaves an incomplete last entry, which was never acknowledged and
is cut off; that whole entries are missing at the end is for the record store to notice.
"""

import contextlib
import fcntl
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from iom.errors import StoreError, StoreNotFoundError, missing_extra
from iom.files import atomic_path

FORMAT = "iom-keys"
VERSION = 1
_LENGTH_BYTES, _NONCE_BYTES, _TAG_BYTES = 4, 12, 16
_LONGEST_HEADER = 1024
_LONGEST_ENTRY = 1 << 28


class SealedFile:
    """Entries are JSON values. One process appends at a time; the others see it when they read.

    Args:
        path: The file.
        header: What its first line holds, see `read_header`.
        key: 32 bytes.
    """

    def __init__(self, path: Path, header: dict[str, Any], key: bytes) -> None:
        self.path = path
        self._header = header
        self._key = key
        self._forget()

    def _forget(self) -> None:
        self._inode, self._offset = 0, 0
        self.count = int(self._header["start"])
        self._tag = b""

    def new_entries(self) -> tuple[bool, list[Any]]:
        """What was appended since the last call, by anybody.

        Returns:
            Whether the file was written anew, so that everything is read again; and the entries.

        Raises:
            StoreError: Damaged, or the key does not open it.
        """
        with self._reading() as stream:
            return self._take(stream)

    def is_current(self) -> bool:
        """Whether nothing was appended since the last read; costs one call of the system."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        return (status.st_ino, status.st_size) == (self._inode, self._offset)

    @contextlib.contextmanager
    def appending(self) -> Iterator[tuple[bool, list[Any], Callable[[Any], None]]]:
        """Hold the file; gives what `new_entries` gives, and a function that appends one entry."""
        with self._holding() as stream:
            again, entries = self._take(stream)
            if os.fstat(stream.fileno()).st_size > self._offset:
                stream.truncate(self._offset)  # an incomplete entry of a process that was killed
            yield again, entries, lambda value: self._append(stream, value)

    def rewrite(self, entries_after: Callable[[bool, list[Any]], list[Any]]) -> None:
        """Replace all entries by others, atomically; their number goes on counting.

        Args:
            entries_after: Takes what `new_entries` gives, returns what the file is to hold.
        """
        with self._holding() as stream:
            entries = entries_after(*self._take(stream))
            header = {**self._header, "start": self.count}
            with atomic_path(self.path) as temporary:
                write_new(temporary, header, self._key, entries, replace=True)
            self.path.chmod(0o600)

    @contextlib.contextmanager
    def _holding(self) -> Iterator[Any]:
        """The file, locked against other writers."""
        with self._explained(), _HELD:
            while True:
                with self.path.open("r+b", buffering=0) as stream:
                    fcntl.flock(stream, fcntl.LOCK_EX)
                    if os.fstat(stream.fileno()).st_ino != self.path.stat().st_ino:
                        continue  # it was written anew while we waited
                    yield stream
                    return

    def _append(self, stream: Any, value: Any) -> None:
        frame, tag = seal(self._key, self._header, self.count, self._tag, value)
        try:
            if os.pwrite(stream.fileno(), frame, self._offset) != len(frame):
                raise OSError(28, "No space left on device")
            os.fsync(stream.fileno())
        except OSError:
            stream.truncate(self._offset)
            raise
        self._offset += len(frame)
        self._tag, self.count = tag, self.count + 1

    def _take(self, stream: Any) -> tuple[bool, list[Any]]:
        inode, again = os.fstat(stream.fileno()).st_ino, False
        size = os.fstat(stream.fileno()).st_size
        if inode != self._inode or size < self._offset:
            again = self._inode != 0
            self._header = _header_of(stream, self.path)
            self._forget()
            self._inode, self._offset = inode, stream.tell()
        stream.seek(self._offset)
        data, place, entries = stream.read(), 0, []
        while place + _LENGTH_BYTES <= len(data):
            length = int.from_bytes(data[place : place + _LENGTH_BYTES], "big")
            if not _NONCE_BYTES + _TAG_BYTES <= length <= _LONGEST_ENTRY:
                raise self._damaged()
            end = place + _LENGTH_BYTES + length
            if end > len(data):
                break
            frame = data[place + _LENGTH_BYTES : end]
            entries.append(self._unseal(frame))
            self._tag, self.count = frame[-_TAG_BYTES:], self.count + 1
            place = end
        self._offset += place
        return again, entries

    def _unseal(self, frame: bytes) -> Any:
        bound = _bound(self._header, self.count, self._tag)
        try:
            text = _cipher(self._key).decrypt(frame[:_NONCE_BYTES], frame[_NONCE_BYTES:], bound)
        except Exception as error:
            if type(error).__name__ != "InvalidTag":
                raise
            raise self._damaged() from None
        return json.loads(text)

    def _damaged(self) -> StoreError:
        if self.count == self._header["start"]:
            return StoreError(
                f"{self.path}: wrong passphrase or key, or the start of the file is damaged"
            )
        return StoreError(
            f"{self.path}: entry {self.count} is damaged or was changed; take the key store from a "
            "backup"
        )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        with self._explained(), _HELD, self.path.open("rb", buffering=0) as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            yield stream

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"key store {self.path}: {error.strerror}") from error


_HELD = threading.RLock()  # the lock of a file is the process's, not the thread's


def write_new(
    path: Path, header: dict[str, Any], key: bytes, entries: list[Any], *, replace: bool = False
) -> None:
    """Make a file with some entries.

    Raises:
        StoreError: It is there already, or cannot be written.
    """
    line = json.dumps(header, separators=(",", ":")).encode() + b"\n"
    tag, frames = b"", [line]
    for number, value in enumerate(entries, int(header["start"])):
        frame, tag = seal(key, header, number, tag, value)
        frames.append(frame)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if replace else os.O_EXCL)
        with os.fdopen(os.open(path, flags, 0o600), "wb") as stream:
            stream.write(b"".join(frames))
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError as error:
        raise StoreError(f"{path}: there is a key store already; nothing was changed") from error
    except OSError as error:
        raise StoreError(f"cannot make the key store {path}: {error.strerror}") from error


def read_header(path: Path) -> dict[str, Any]:
    """The header of a file.

    Raises:
        StoreError: The file is missing or is no key store of this version.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            return _header_of(stream, path)
    except FileNotFoundError as error:
        raise StoreNotFoundError(
            f"no key store at {path}; make one with: iom init", place=str(path)
        ) from error
    except OSError as error:
        raise StoreError(f"cannot read the key store {path}: {error.strerror}") from error


def _header_of(stream: Any, path: Path) -> dict[str, Any]:
    stream.seek(0)
    line, separator, _ = stream.read(_LONGEST_HEADER).partition(b"\n")
    try:
        header = json.loads(line) if separator else None
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise StoreError(f"{path}: is no key store, or its start is damaged")
    if header.get("version") != VERSION or not isinstance(header.get("start"), int):
        raise StoreError(
            f"{path}: expected a key store of version {VERSION}; use the program that wrote it"
        )
    stream.seek(len(line) + 1)
    return header


def seal(
    key: bytes, header: dict[str, Any], number: int, previous: bytes, value: Any
) -> tuple[bytes, bytes]:
    """`(frame, tag)` of one entry."""
    # A counter as the nonce would be used twice after an older copy of the file was put back.
    nonce = secrets.token_bytes(_NONCE_BYTES)
    text = json.dumps(value, separators=(",", ":")).encode()
    sealed = nonce + _cipher(key).encrypt(nonce, text, _bound(header, number, previous))
    return len(sealed).to_bytes(_LENGTH_BYTES, "big") + sealed, sealed[-_TAG_BYTES:]


def _bound(header: dict[str, Any], number: int, previous: bytes) -> bytes:
    line = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return line + number.to_bytes(8, "big") + previous


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError as error:
        raise missing_extra("a key store", "gallery", cause=error) from error
    return AESGCM(key)
