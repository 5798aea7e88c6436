"""Sources of keys: 32 bytes for a label, as HMAC-SHA-256 under a master that a source never gives away.

A source may be a master in this process (`MasterSource`), a token (`iom.gallery.pkcs11_source`), another program
(`iom.gallery.remote_source`), or several of them joined, all of which are needed (`JoinedSource`).
"""

import abc
import contextlib
import dataclasses
import hashlib
import hmac
import json
import os
import secrets
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from iom._files import write_secret
from iom.errors import KeyMaterialError, StoreError
from iom.keys import TransformKey

KEY_BYTES = 32
MIN_PASSPHRASE_LENGTH = 8
SCRYPT_COST = 1 << 17
"""N of scrypt: 128 MB and some tenths of a second for each guess of a passphrase."""
COMMAND_SECONDS = 60
_MAX_COST = 1 << 20
_SCRYPT_BLOCK = 8
_NONCE_BYTES = 12
PassphraseSource: TypeAlias = str | Callable[[], str]
PASSPHRASE_VARIABLE = "IOM_PASSPHRASE"  # noqa: S105 - its name


class KeySource(contextlib.AbstractContextManager["KeySource"], abc.ABC):
    """Keys by label. Threads may share it."""

    @abc.abstractmethod
    def derive(self, labels: Sequence[bytes]) -> list[bytes]:
        """Keys of 32 bytes, one for each label; the same label always gives the same key.

        Raises:
            StoreError: The source cannot be reached, refuses, or is closed.
            RateLimitError: It may be asked again after a time.
        """

    def close(self) -> None:
        """Forget secrets and close connections; a second call does nothing."""

    def __exit__(self, *_: object) -> None:
        self.close()


class MasterSource(KeySource):
    """Keys of a master in this process."""

    def __init__(self, master: TransformKey) -> None:
        self._master: TransformKey | None = master

    def derive(self, labels: Sequence[bytes]) -> list[bytes]:
        secret = self._open().secret
        return [hmac.digest(secret, label, "sha256") for label in labels]

    def stream(self, purpose: str) -> bytes:
        """A key of 32 bytes in the way of derivation 1, see `KeyStore`."""
        return self._open().stream(purpose, KEY_BYTES)

    def close(self) -> None:
        self._master = None

    def _open(self) -> TransformKey:
        if self._master is None:
            raise StoreError("the key store is closed")
        return self._master


class JoinedSource(KeySource):
    """Keys of several sources together: without any one of them nothing is known of a key.

    HKDF with SHA-256 (RFC 5869): the keys of all sources for a label, in their order, are the input, the label and the
    number of sources are the info.
    """

    def __init__(self, sources: Sequence[KeySource]) -> None:
        self._sources = tuple(sources)

    def derive(self, labels: Sequence[bytes]) -> list[bytes]:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        start = b"iom/joined-keys/v1\0" + bytes([len(self._sources)])
        parts = zip(*(source.derive(labels) for source in self._sources), strict=True)
        return [
            HKDF(SHA256(), KEY_BYTES, b"iom/joined-keys/v1", start + label).derive(b"".join(part))
            for label, part in zip(labels, parts, strict=True)
        ]

    def close(self) -> None:
        for source in self._sources:
            source.close()


@dataclasses.dataclass(frozen=True)
class SourceOpener:
    """A source that is outside of the file of a key store.

    Attributes:
        kind: Its name in the header of the file.
        open: Opens it; with `True` a new key store is made, and the source may make its master.
    """

    kind: str
    open: Callable[[bool], KeySource]


@dataclasses.dataclass(frozen=True)
class Seal:
    """Secret that seals a master in the file of a key store.

    Attributes:
        kind: Its name in the header of the file.
        wrapping_key: `(header, is_new)` to 32 bytes.
        settings: Entries of the header of a new file.
    """

    kind: str
    wrapping_key: Callable[[Mapping[str, Any], bool], bytes] = dataclasses.field(repr=False)
    settings: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def new_master(self, header: Mapping[str, Any]) -> tuple[KeySource, str]:
        """A new master, and as the text that `read_master` takes, sealed for this header."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        master, nonce = TransformKey.generate(), secrets.token_bytes(_NONCE_BYTES)
        sealed = AESGCM(self.wrapping_key(header, True)).encrypt(nonce, master.secret, _bound(header))
        return MasterSource(master), (nonce + sealed).hex()

    def read_master(self, header: Mapping[str, Any], text: str) -> KeySource:
        """The master of a header; `ValueError` where it was not sealed with this secret for this header."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        sealed = bytes.fromhex(text)
        try:
            secret = AESGCM(self.wrapping_key(header, False)).decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound(header)
            )
        except InvalidTag:
            raise ValueError("not sealed here") from None
        return MasterSource(TransformKey(secret))


KeyPart: TypeAlias = Seal | SourceOpener
"""A part of a key store's keys: a master in its file, or a source outside of it."""


def _bound(header: Mapping[str, Any]) -> bytes:
    """The entries of a header that are known before its master is."""
    known = {name: header[name] for name in ("sealed_by", "derivation", "salt", "cost") if name in header}
    return b"iom-keys/master/v1\0" + json.dumps(known, sort_keys=True, separators=(",", ":")).encode()


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
            passphrase.encode(), salt=salt.encode(), n=n, r=_SCRYPT_BLOCK, p=1, maxmem=memory, dklen=KEY_BYTES
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
        return read_key(text, str(path)).stream("gallery-wrapping-key", KEY_BYTES)

    return Seal("key", wrapping_key)


def read_key(text: str, source: str) -> TransformKey:
    """A key from its text; an error names the source alone, never the text."""
    try:
        return TransformKey.from_text(text)
    except KeyMaterialError as error:
        raise KeyMaterialError(f"master key from {source}: {error}") from error


def from_environment(name: str) -> TransformKey:
    """The master key in an environment variable."""
    text = os.environ.get(name)
    if text is None:
        raise StoreError(f"key store: the environment variable {name} is not set")
    return read_key(text, f"the environment variable {name}")


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
    return read_key(line, "a command")
