"""Bearer tokens: each for one application and one role; the file holds only their hashes."""

import contextlib
import dataclasses
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iom._files import write_secret
from iom._registry import ROLES, lookup
from iom._untrusted import read_json
from iom.errors import ConfigError, DataError, EnrolmentError
from iom.gallery.models import check_application_name

FORMAT = 1
PREFIX = "iom_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Token:
    """A stored token as its SHA-256: 256 random bits need no slow hash. `expires` is Unix time, 0 for never."""

    name: str
    application: str
    role: str
    digest: str = dataclasses.field(repr=False)
    expires: int = 0

    def __post_init__(self) -> None:
        check_application_name(self.application)
        lookup(ROLES, self.role, "role")
        if _NAME.fullmatch(self.name) is None or _DIGEST.fullmatch(self.digest) is None:
            raise ConfigError("token: expected a name of 1 to 64 letters, digits and '_.-', and a SHA-256")

    def allows(self, action: str, application: str | None = None) -> bool:
        """Whether it opens `action`, of `application` if one is concerned."""
        return action in ROLES[self.role] and application in (None, self.application)


class TokenFile:
    """The tokens of a file, which is read again when it changes, so that a token can be taken back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._mark = file_mark(path)
        self._tokens = read_tokens(path)

    def find(self, text: str) -> Token | None:
        """The presented token, unless unknown or expired; every stored hash is compared, each in constant time."""
        with self._lock:
            mark = file_mark(self._path)
            if mark != self._mark:
                # A damaged file must not keep a token alive that was to be taken back.
                self._tokens = []
                self._tokens = read_tokens(self._path)
                self._mark = mark
            tokens = self._tokens
        digest = _digest(text)
        found = [token for token in tokens if hmac.compare_digest(token.digest, digest)]
        return found[-1] if found and not 0 < found[-1].expires <= time.time() else None


def read_tokens(path: Path) -> list[Token]:
    """The tokens of a file."""
    try:
        content = read_json(path)
        if content["format"] != FORMAT:
            raise DataError(f"{path}: expected format {FORMAT}, received {content['format']!r}")
        return [Token(**entry) for entry in content["tokens"]]
    except OSError as error:
        raise DataError(f"{path}: cannot read the tokens ({error.strerror}); make one with iom make-token") from error
    except ValueError as error:
        raise DataError(f"{path}: expected the JSON of a token file: {error}") from error
    except (TypeError, KeyError, ConfigError, EnrolmentError) as error:
        raise DataError(f"{path}: a damaged token file") from error


def add_token(path: Path, *, name: str, application: str, role: str, days: float | None = None) -> str:
    """Make a token and add it to a file, which is made if missing; return the token, which is stored nowhere.

    `name` is for logs and for taking it back; `role` is a name of `ROLES`; `days` until it expires, `None` is never.
    """
    text = PREFIX + secrets.token_urlsafe(32)
    expires = 0 if days is None else int(time.time() + days * 86400)
    token = Token(name, application, role, _digest(text), expires)
    with _locked(path):
        tokens = read_tokens(path) if path.exists() else []
        if any(each.name == name for each in tokens):
            raise ConfigError(f"{path}: there is a token {name} already; take another name")
        _write(path, [*tokens, token])
    return text


def remove_token(path: Path, name: str) -> None:
    """Take a token back; a running service notices."""
    with _locked(path):
        tokens = read_tokens(path)
        kept = [token for token in tokens if token.name != name]
        if len(kept) == len(tokens):
            raise ConfigError(f"{path}: there is no token {name}")
        _write(path, kept)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time: the lock is on the folder, since each write replaces the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, tokens: list[Token]) -> None:
    content = {"format": FORMAT, "tokens": [dataclasses.asdict(each) for each in tokens]}
    write_secret(path, json.dumps(content, indent=2) + "\n", replace=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_mark(path: Path) -> Any:
    """What changes with a file: its times, size and inode; `None` where it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
