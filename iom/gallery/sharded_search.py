"""Search over shards: processes that hold parts of a gallery in memory, and a head that merges their answers.

A shard opens the record store and the key store itself, and holds its blocks of records (`Shard`). The
head hashes a probe under the common key of each epoch and sends it to all shards. Requests and answers are sealed with
AES-256-GCM under a key of the key store, so that what carries them (`iom.gallery.ray_search`) sees no code, no key and
no result. Answers count only where all shards give one, from the same version of the record store, which the head has
read at the start of the search or later: what was written before is in them.
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import secrets
import threading
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iom._registry import with_scheme
from iom.codes.asymmetric import SYMBOLS, CodeVectors
from iom.codes.packing import PackedCodes, encoding_shape, plane_count, word_count
from iom.errors import ConfigError, DataError, IomError, StoreError, WorkerError
from iom.gallery.key_relay import Relay, RelayedFile
from iom.gallery.key_source import PASSPHRASE_VARIABLE
from iom.gallery.key_store import KeyStore
from iom.gallery.key_url import parse_key_url
from iom.gallery.models import Application, Shard
from iom.gallery.search import Found, Hit, Probe, Searcher, best_hits, make_probes
from iom.models.face_hasher import FaceHasher

if TYPE_CHECKING:
    from iom.gallery.stores.base import RecordStore

MAX_SHARDS = 4096
SECONDS = 60.0
"""Time after which a search that lacks an answer fails."""
FOLLOW_SECONDS = 10.0
_SECONDS_TO_END = 5.0
PASSPHRASE_FILE = "IOM_PASSPHRASE_FILE"  # noqa: S105 - the name of an environment variable
_FORM = "ray, ray://local or ray://HOST:PORT, with ?shards=N&seconds=N&passphrase-file=PATH behind it"
_HOST = re.compile(r"[A-Za-z0-9_.:\[\]-]+:[0-9]{1,5}")
_NONCE_BYTES = 12
_SPACE = "iom/search-shards/v1"


@dataclasses.dataclass(frozen=True)
class SearchUrl:
    """Where shards run.

    Attributes:
        address: HOST:PORT of a Ray cluster; `local` starts Ray on this machine, an empty one takes RAY_ADDRESS, else
            `local`.
        shards: Number of shards; 0 takes one for each machine of a cluster, and two on this one.
        seconds: Time after which a search that lacks an answer fails.
        passphrase_file: File on each machine whose first line opens the key store.
    """

    address: str = ""
    shards: int = 0
    seconds: float = SECONDS
    passphrase_file: str = ""

    @classmethod
    def parse(cls, text: str) -> "SearchUrl":
        """The form `ray`, `ray://local` or `ray://HOST:PORT`, with options behind `?`.

        Raises:
            ConfigError: Another form, an unknown option, or a number out of range.
        """
        front, _, query = text.partition("?")
        scheme, separator, address = front.partition("://")
        options = urllib.parse.parse_qsl(query, keep_blank_values=True)
        values = dict(options)
        is_known = values.keys() <= {"shards", "seconds", "passphrase-file"} and len(values) == len(options)
        if scheme != "ray" or not is_known or not (address == "local" or _HOST.fullmatch(address) or not separator):
            raise ConfigError(f"search: expected {_FORM}, received {text[:200]!r}")
        try:
            shards, seconds = int(values.get("shards", 0)), float(values.get("seconds", SECONDS))
        except ValueError:
            shards = -1
        if not (0 <= shards <= MAX_SHARDS and ("shards" not in values or shards) and 0 < seconds < 1e6):
            raise ConfigError(
                f"search: expected 1 to {MAX_SHARDS} shards and a time above 0 s, received "
                f"{values.get('shards', '')!r} and {values.get('seconds', '')!r}"
            )
        return cls(address, shards, seconds, values.get("passphrase-file", ""))


@dataclasses.dataclass(frozen=True)
class ShardPlace:
    """What a shard needs to open the stores; it holds no secret.

    Attributes:
        store: Path or URL of the record store, without a password.
        keys: Path or URL of the key store.
        session: Public name of the head, of which the key of the messages is derived.
        record_file, key_file: `file_identity` of the files on the machine of the head; of a record store that is no
            file, an empty one.
        key_path: The file of the key store there.
        folder: Working directory of the head, for relative paths.
        version: That of the package.
    """

    store: str
    keys: str
    session: str
    record_file: str
    key_file: str
    key_path: str
    folder: str
    version: str

    @classmethod
    def of(cls, store: str | os.PathLike[str], keys: str | os.PathLike[str]) -> "ShardPlace":
        """The place of a gallery that is open in this process.

        Raises:
            ConfigError: The URL of the record store holds a password.
        """
        from iom import __version__

        url = with_scheme(store, "sqlite:///")
        if _has_password(url):
            raise ConfigError(
                "search: expected a record store without a password in its URL, since Ray shows what actors are made "
                "with; give each machine a password file of PostgreSQL (PGPASSFILE, or ~/.pgpass)"
            )
        key_url = with_scheme(keys, "file:")
        key_path = parse_key_url(key_url, "").path
        return cls(
            store=url,
            keys=key_url,
            session=secrets.token_hex(16),
            record_file=file_identity(path) if (path := _sqlite_path(url)) else "",
            key_file=file_identity(key_path),
            key_path=str(key_path.absolute()),
            folder=str(Path.cwd()),
            version=__version__,
        )


class Shards(Protocol):
    """All shards of a head."""

    @property
    def count(self) -> int:
        """Number of shards."""
        ...

    def ask(self, request: bytes, seconds: float) -> list[bytes]:
        """The answers of all shards, in their order.

        Raises:
            WorkerError: Not all of them answered within some seconds.
        """
        ...

    def close(self) -> None:
        """End them; a second call does nothing."""
        ...


class ShardedSearcher(Searcher):
    """Searches through shards the applications with one key an epoch; those with a key a record, in this process.

    Args:
        store: Record store.
        keys: Its key store.
        shards: Shards of the `session`.
        session: See `ShardPlace`.
        seconds: Time after which a search that lacks an answer fails.
        follow: Seconds between requests by which shards load what was written, or all if they were started anew, also
            while there is no search.
    """

    def __init__(
        self,
        store: "RecordStore",
        keys: KeyStore,
        shards: Shards,
        session: str,
        *,
        seconds: float = SECONDS,
        follow: float = FOLLOW_SECONDS,
    ) -> None:
        super().__init__(store, keys)
        self._shards = shards
        self._seal = _Seal(keys, session)
        self._seconds, self._follow_seconds = seconds, follow
        self._searched: dict[str, tuple[Application, CodeVectors | None]] = {}
        self._is_closed = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="iom-follow-shards", daemon=True)
        self._epochs: dict[str, frozenset[int]] = {}
        self._vectors: tuple[CodeVectors | None, str] = (None, "")

    def search(
        self,
        application: Application,
        hasher: FaceHasher,
        embedding: NDArray[np.float32],
        *,
        top: int,
        threshold: int | None,
    ) -> list[Hit]:
        if application.key_mode != "application":
            return super().search(application, hasher, embedding, top=top, threshold=threshold)
        name, deadline = application.name, time.monotonic() + self._seconds
        epochs = self._epochs.get(name, frozenset())
        while True:
            version = self._store.version(name)
            probes = make_probes(self._keys, application, hasher, embedding, epochs or {application.epoch})
            vectors = None if application.comparison == SYMBOLS else hasher.vectors
            self._note(application, vectors)
            request = {
                "application": application.fields(),
                "version": version,
                "probes": {str(epoch): _text_of(probe) for epoch, probe in probes.items()},
                "vectors": self._digest_of(vectors),
                "top": top,
                "threshold": threshold,
            }
            found = [_found_of(each) for each in self._answers(request, deadline, vectors)]
            epochs = frozenset().union(*(each.epochs for each in found))
            versions = {each.version for each in found}
            if len(versions) == 1 and min(versions) >= version and epochs <= probes.keys():
                break
            if time.monotonic() > deadline:
                raise WorkerError(
                    f"search: the shards had no common state for {self._seconds:g} s, since the gallery is being "
                    "written to all the time; try again",
                    timed_out=True,
                )
        self._epochs[name] = epochs
        if self._is_masked_now(application):
            return self.search(self._store.application(name), hasher, embedding, top=top, threshold=threshold)
        return best_hits([hit for each in found for hit in each.hits], top, threshold)

    def close(self) -> None:
        self._is_closed.set()
        super().close()
        self._shards.close()
        if self._follower.is_alive():
            self._follower.join(_SECONDS_TO_END)

    def _note(self, application: Application, vectors: CodeVectors | None) -> None:
        """Have the shards follow an application, from its first search on."""
        with self._lock:
            self._searched[application.name] = application, vectors
            if self._follower.ident is None and not self._is_closed.is_set():
                self._follower.start()

    def _follow(self) -> None:
        while not self._is_closed.wait(self._follow_seconds):
            for application, vectors in list(self._searched.values()):
                with contextlib.suppress(IomError):  # the next search tells
                    request = {
                        "application": application.fields(),
                        "version": self._store.version(application.name),
                        "probes": {},
                        "vectors": self._digest_of(vectors),
                        "top": 1,
                        "threshold": None,
                    }
                    self._answers(request, time.monotonic() + self._seconds, vectors)

    def _answers(
        self, request: Mapping[str, Any], deadline: float, vectors: CodeVectors | None
    ) -> list[dict[str, Any]]:
        """The answers of all shards; those that lack the code vectors get them first."""
        answers = self._ask(request, deadline)
        while vectors is not None and any("hits" not in each for each in answers):
            shape = {"rows": vectors.row_size, "alphabet_size": vectors.alphabet_size}
            self._ask({"kernel": _text(vectors.kernel), **shape}, deadline)
            answers = self._ask(request, deadline)
        return answers

    def _ask(self, request: Mapping[str, Any], deadline: float) -> list[dict[str, Any]]:
        number = secrets.token_bytes(16)
        sealed = number + self._seal.close(request, b"request" + number)
        answers = self._shards.ask(sealed, max(deadline - time.monotonic(), 0.01))
        if len(answers) != self._shards.count:
            raise WorkerError(f"search: expected answers of {self._shards.count} shards, received {len(answers)}")
        return [self._seal.open(each, _answer_to(number, shard)) for shard, each in enumerate(answers)]

    def _digest_of(self, vectors: CodeVectors | None) -> str:
        known, digest = self._vectors
        if known is not vectors:
            digest = "" if vectors is None else _digest(vectors)
            self._vectors = vectors, digest
        return digest


class SearchShard:
    """One shard: opens the stores when it is first asked, and follows what is written to the record store.

    Args:
        place: Stores and session.
        shard: The records that it holds.
        passphrase_file: See `SearchUrl`.
        relay: Reads the file of the key store on the machine of the head, where this one has another.
    """

    def __init__(
        self, place: ShardPlace, shard: Shard, passphrase_file: str = "", *, relay: Relay | None = None
    ) -> None:
        self._place, self._shard, self._passphrase_file = place, shard, passphrase_file
        self._relay = relay
        self._lock = threading.Lock()
        self._opened: tuple[Searcher, _Seal] | None = None
        self._vectors: tuple[CodeVectors | None, str] = (None, "")
        self._resources = contextlib.ExitStack()

    def answer(self, request: bytes) -> bytes:
        """The sealed answer to a sealed request of the head."""
        searcher, seal = self._open()
        number, sealed = request[:16], request[16:]
        asked = seal.open(sealed, b"request" + number)
        if "kernel" in asked:
            vectors = _vectors_of(asked)
            self._vectors = vectors, _digest(vectors)
            answer: dict[str, Any] = {}
        else:
            answer = self._found(searcher, asked)
        return seal.close(answer, _answer_to(number, self._shard.number))

    def _found(self, searcher: Searcher, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Hits, version and epochs; nothing where the code vectors are missing."""
        application = Application(**asked["application"])
        vectors, digest = self._vectors if asked["vectors"] else (None, "")
        if digest != asked["vectors"]:
            return {}
        found = searcher.nearest(
            application,
            {int(epoch): _probe_of(application, text, vectors) for epoch, text in asked["probes"].items()},
            top=asked["top"],
            threshold=asked["threshold"],
            version=asked["version"],
            vectors=vectors,
        )
        return {"hits": found.hits, "version": found.version, "epochs": sorted(found.epochs)}

    def close(self) -> None:
        """Close the stores; a second call does nothing."""
        self._opened = None
        self._resources.close()

    def _open(self) -> "tuple[Searcher, _Seal]":
        with self._lock:
            if self._opened is None:
                with contextlib.ExitStack() as opened:
                    store, keys = self._stores(opened)
                    self._opened = Searcher(store, keys, shard=self._shard), _Seal(keys, self._place.session)
                    self._resources = opened.pop_all()
            return self._opened

    def _stores(self, opened: contextlib.ExitStack) -> "tuple[RecordStore, KeyStore]":
        from iom import __version__
        from iom.gallery.stores.base import open_store

        place, machine = self._place, platform.node()
        if place.version != __version__:
            raise WorkerError(
                f"search: machine {machine} has iom {__version__}, the head {place.version}; install the same version"
            )
        if Path(place.folder).is_dir():
            os.chdir(place.folder)
        path = _sqlite_path(place.store)
        if path is not None and file_identity(path) != place.record_file:
            raise StoreError(
                f"search: the record store {path} is a SQLite file, which serves one machine, and {machine} has "
                "another file there or none; use PostgreSQL for shards on several machines"
            )
        found = parse_key_url(place.keys, self._passphrase)
        file = None
        if file_identity(found.path) != place.key_file:
            if self._relay is None:
                raise StoreError(f"search: machine {machine} has another file than the head, or none, at {found.path}")
            file = RelayedFile(found.path, self._relay)
        keys = opened.enter_context(KeyStore.open(found.path, *found.parts, file=file))
        store = opened.enter_context(open_store(place.store))
        if store.owner() != keys.identity():
            raise StoreError("search: the record store and the key store of a shard do not belong together")
        return store, keys

    def _passphrase(self) -> str:
        """The passphrase of the key store on this machine."""
        path, known = self._passphrase_file or os.environ.get(PASSPHRASE_FILE), os.environ.get(PASSPHRASE_VARIABLE)
        if path:
            try:
                return Path(path).read_text(encoding="utf-8").split("\n")[0]
            except (OSError, UnicodeDecodeError):
                raise DataError(f"search: machine {platform.node()}: cannot read the passphrase file {path}") from None
        if known is None:
            raise StoreError(
                f"search: machine {platform.node()}: the key store needs a passphrase, which no message carries; put "
                f"passphrase-file=PATH behind --search, set {PASSPHRASE_VARIABLE} where Ray is started, or use a key "
                "store with key-file=PATH"
            )
        return known


class _Seal:
    """AES-256-GCM over JSON between a head and its shards."""

    def __init__(self, keys: KeyStore, session: str) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        (key,) = keys.derive(_SPACE, [session.encode()])
        self._aes, self._invalid = AESGCM(key), InvalidTag

    def close(self, content: Mapping[str, Any], place: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._aes.encrypt(nonce, json.dumps(content, separators=(",", ":")).encode(), place)

    def open(self, sealed: bytes, place: bytes) -> dict[str, Any]:
        try:
            text = self._aes.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place)
        except (self._invalid, ValueError):
            raise WorkerError(
                "search: a message was not sealed by this gallery's key store; does every machine open the same one?"
            ) from None
        return dict(json.loads(text))


def file_identity(path: Path) -> str:
    """A text that two processes have in common if and only if they see the same file at a path."""
    try:
        status = path.stat()
    except OSError:
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id")
    machine = boot.read_text(encoding="ascii").strip() if boot.exists() else platform.node()
    return hashlib.sha256(f"{machine} {status.st_dev} {status.st_ino}".encode()).hexdigest()


def _sqlite_path(url: str) -> Path | None:
    """The file of a record store; `None` of one that is no file."""
    if not url.startswith("sqlite:///"):
        return None
    return Path(url.removeprefix("sqlite:///").removesuffix("?mode=ro"))


def _has_password(url: str) -> bool:
    if url.startswith("sqlite:"):
        return False
    parts = urllib.parse.urlsplit(url)
    names = {name.lower() for name, _ in urllib.parse.parse_qsl(parts.query, keep_blank_values=True)}
    return ":" in parts.netloc.rpartition("@")[0] or bool(names & {"password", "sslpassword"})


def _answer_to(number: bytes, shard: int) -> bytes:
    return b"answer" + number + str(shard).encode()


def _text(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).tobytes()).decode()


def _array(text: str, kind: str) -> NDArray[Any]:
    """The values of `_text`, which were of a kind such as `<u8`, in the order of this machine."""
    values = np.frombuffer(base64.b64decode(text), kind)
    return values.astype(values.dtype.newbyteorder("="))


def _text_of(probe: Probe) -> str:
    return _text(probe.planes if isinstance(probe, PackedCodes) else probe)


def _probe_of(application: Application, text: str, vectors: CodeVectors | None) -> Probe:
    if vectors is not None:
        return _array(text, "<i4").reshape(1, vectors.row_size)
    code_length, alphabet_size = encoding_shape(application.encoding)
    shape = (1, plane_count(alphabet_size), word_count(code_length))
    return PackedCodes(_array(text, "<u8").reshape(shape), code_length, alphabet_size)


def _vectors_of(asked: Mapping[str, Any]) -> CodeVectors:
    return CodeVectors(_array(asked["kernel"], "<i4").reshape(asked["rows"], -1), asked["alphabet_size"])


def _digest(vectors: CodeVectors) -> str:
    start = f"{vectors.kernel.shape} {vectors.alphabet_size} "
    return hashlib.sha256(start.encode() + vectors.kernel.astype("<i4").tobytes()).hexdigest()


def _found_of(answer: Mapping[str, Any]) -> Found:
    hits = [Hit(record, distance) for record, distance in answer["hits"]]
    return Found(hits, answer["version"], frozenset(answer["epochs"]))
