"""Split gallery: the capture side, which stores nothing, of two share servers."""

import contextlib
import dataclasses
import secrets
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from iom._peers import PeerClient
from iom.codes.packing import pack
from iom.errors import (
    AlreadyEnrolledError,
    ConfigError,
    CorrelationError,
    EnrolmentError,
    NotEnrolledError,
    PeerError,
    RevokedError,
)
from iom.gallery.gallery import FaceSource, HasherSource, embed_faces
from iom.gallery.models import DEFAULT_APPLICATION, Application, check_subject_id, revoked_subject
from iom.gallery.templates import check_hasher
from iom.keys import TransformKey
from iom.models.face_hasher import FaceHasher, load
from iom.pretrained import BUNDLED
from iom.split.comparison import ReleaseShare, open_match
from iom.split.messages import (
    ATTEMPT_BYTES,
    Answers,
    AskHalfKeys,
    AskRefresh,
    AskSettings,
    AskSubject,
    Begin,
    Begun,
    Commit,
    Connection,
    Count,
    Decision,
    Done,
    EnrolledShare,
    HalfKeys,
    M,
    Message,
    Prepare,
    Probes,
    ProbeShare,
    RecordEpoch,
    RecordKey,
    Refreshed,
    ReleaseShares,
    Settings,
    SubjectRecords,
    Verify,
    ask,
    different_settings,
    seal,
    session_of,
    unseal,
)
from iom.split.share_store import KEY_MODE, MAX_REFERENCES, settings_digest
from iom.split.shares import (
    code_to_bytes,
    commitment,
    join_half_keys,
    open_release,
    record_label,
    seal_release,
    share_code,
    share_secret,
)

SCHEME = "split://"
PROTOCOLS = ("full", "lite")
SECONDS = 10.0
"""Longest wait for a server."""
MAX_RELEASED = 1024
"""Bytes of a secret that a match releases."""
_TRIES = 4
_FILES = ("certificate", "key", "authority")
_FORM = "split://HOST:PORT,HOST:PORT?certificate=FILE&key=FILE&authority=FILE"
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class SplitVerification:
    """A decision of a split gallery, without a distance.

    Attributes:
        match: Whether the probe matches one of the subject's references.
        released: What was enrolled with `release`, on a match in the full protocol.
    """

    match: bool
    released: bytes | None = dataclasses.field(default=None, repr=False)

    def __str__(self) -> str:
        return "match" if self.match else "no match"


class SplitGallery(contextlib.AbstractContextManager["SplitGallery"]):
    """Enrol, verify, renew and revoke at two share servers; threads may share it.

    It holds embeddings, codes and keys only while a call lasts.

    Args:
        connections: To the servers A and B.
        hasher: Makes codes, as of `Gallery`.
        protocol: A name of `PROTOCOLS`, which both servers must use.
    """

    def __init__(
        self,
        connections: tuple[Connection, Connection],
        hasher: HasherSource = BUNDLED,
        *,
        protocol: str = PROTOCOLS[0],
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ConfigError(f"protocol: expected one of {', '.join(PROTOCOLS)}, received {protocol!r}")
        self._a, self._b = connections
        self._hasher, self._protocol = hasher, protocol
        self._pool = ThreadPoolExecutor(16, "split")
        self._applications: dict[str, tuple[Application, bytes]] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, url: str, hasher: HasherSource = BUNDLED) -> "SplitGallery":
        """The gallery of `split://HOST:PORT,HOST:PORT?certificate=FILE&key=FILE&authority=FILE`.

        The first server is A. `&protocol=lite` names the protocol, `&name-a=NAME&name-b=NAME` the names in the servers'
        certificates, which are `a` and `b` otherwise.

        Raises:
            ConfigError: The URL is of another form, or a file cannot be used.
        """
        options = _options(url)
        files = {name: Path(options[name]) for name in _FILES}
        clients = [
            PeerClient(
                f"https://{options[side]}",
                certificate=files["certificate"],
                key=files["key"],
                authority=files["authority"],
                name=options[f"name-{side}"],
                seconds=SECONDS,
            )
            for side in "ab"
        ]
        return cls((clients[0], clients[1]), hasher, protocol=options["protocol"])

    @property
    def hasher(self) -> FaceHasher:
        """The hasher, opened when it is first asked for."""
        if isinstance(self._hasher, str | Path):
            self._hasher = load(self._hasher)
        elif callable(self._hasher):
            self._hasher = self._hasher()
        return self._hasher

    def application(self, name: str = DEFAULT_APPLICATION) -> Application:
        """The settings of an application, which both servers must agree on.

        Raises:
            UnknownApplicationError: One of them has no such application.
            EnrolmentError: Their settings differ.
            PeerError: A server cannot be reached, or is not the one that was expected.
        """
        return self._asked(name)[0]

    def embed(self, faces: FaceSource, *, checked: bool = True) -> NDArray[np.float32]:
        """As `Gallery.embed`."""
        return embed_faces(self.hasher, faces, checked=checked)

    def is_enrolled(
        self, subject_id: str, *, application: str = DEFAULT_APPLICATION, allow_revoked: bool = False
    ) -> bool:
        """Whether both servers have a valid reference of a subject.

        Raises:
            RevokedError: It had, and `allow_revoked` does not admit that.
        """
        common, _, was_revoked = self._records(application, check_subject_id(subject_id))
        if not common and was_revoked and not allow_revoked:
            raise revoked_subject(subject_id)
        return bool(common)

    def enroll(
        self,
        subject_id: str,
        faces: FaceSource,
        *,
        application: str = DEFAULT_APPLICATION,
        metadata: Mapping[str, Any] | None = None,
        another: bool = False,
        allow_revoked: bool = False,
        checked: bool = True,
        release: bytes = b"",
    ) -> int:
        """Enrol one subject; each picture becomes a reference, which counts when both servers have it.

        Args:
            subject_id: Subject.
            faces: As of `Gallery.enroll`.
            application: Name of the application.
            metadata: Must be empty: servers keep nothing but shares.
            another: Add references to a subject that is enrolled already.
            allow_revoked: Enrol a revoked subject again, under fresh keys.
            checked: As of `Gallery.enroll`.
            release: Secret that a match gives back, in the full protocol; at most 1024 bytes.

        Returns:
            The number of references.

        Raises:
            AlreadyEnrolledError: The subject has a valid reference.
            RevokedError: The subject was revoked.
            EnrolmentError: Unknown application, settings that differ, or an application of another model.
            PeerError: A server cannot be reached. Either nothing counts, or what was prepared counts when the servers
                have talked to each other; the message says which.
        """
        subject_id = check_subject_id(subject_id)
        rows = self._rows(faces, metadata, release, checked=checked)
        found = self.application(application)
        common, every, was_revoked = self._records(application, subject_id)
        if was_revoked and not common and not allow_revoked:
            raise revoked_subject(subject_id)
        replaces = every if was_revoked and not common else []  # what a server has that was set back
        if every and not (another or replaces):
            raise AlreadyEnrolledError(f"subject {subject_id!r} is enrolled already; renew it", subject_id=subject_id)
        return self._store(
            found, subject_id, rows, release, replaces=replaces, another=another, allow_revoked=allow_revoked
        )

    def renew(
        self,
        subject_id: str,
        faces: FaceSource,
        *,
        slot: int | None = None,
        application: str = DEFAULT_APPLICATION,
        metadata: Mapping[str, Any] | None = None,
        checked: bool = True,
        release: bytes = b"",
    ) -> int:
        """Revoke all references of a subject, and enrol it under fresh keys; as `enroll` otherwise.

        Raises:
            NotEnrolledError: The subject was never enrolled.
        """
        _refuse_slot(slot)
        subject_id = check_subject_id(subject_id)
        rows = self._rows(faces, metadata, release, checked=checked)
        found = self.application(application)
        _, every, was_revoked = self._records(application, subject_id)
        if not every and not was_revoked:
            raise NotEnrolledError(f"subject {subject_id!r} is not enrolled in {application}", subject_id=subject_id)
        return self._store(found, subject_id, rows, release, replaces=every, allow_revoked=True)

    def verify(
        self, subject_id: str, face: FaceSource, *, application: str = DEFAULT_APPLICATION, checked: bool = True
    ) -> SplitVerification:
        """Compare one picture, or one embedding `(D,)`, with the references of a subject.

        Raises:
            NotEnrolledError: The subject is not enrolled on both servers.
            RevokedError: One of the servers has revoked it.
            RateLimitError: Too many attempts.
            PeerError: A server cannot be reached, or does not do what it should.
        """
        subject_id = check_subject_id(subject_id)
        check_hasher(self._known(application)[0], self.hasher)
        rows = self.embed(face, checked=checked)
        if len(rows) != 1:
            raise EnrolmentError(f"expected one face, received {len(rows)}")
        for left in reversed(range(_TRIES)):
            attempt = secrets.token_bytes(ATTEMPT_BYTES)
            a, b = self._begin(application, subject_id, attempt)
            pairs = _pairs(a, b)
            if left and any(one.epoch != other.epoch for one, other in pairs):
                continue  # a refresh is under way
            pairs = [(one, other) for one, other in pairs if one.epoch == other.epoch]
            if not pairs:
                break
            try:
                found = self._known(application)[0]
                return self._compare(subject_id, found, rows[0], attempt, b.session, pairs)
            except CorrelationError:  # A goes on behind what B has used
                if not left:
                    raise
        raise PeerError(
            f"subject {subject_id!r}: the servers have no common reference of one epoch: one of them was set back to "
            "an older copy; renew the subject"
        )

    def revoke(self, subject_id: str, *, slot: int | None = None, application: str = DEFAULT_APPLICATION) -> int:
        """Revoke a subject for ever; one server that can be reached is enough, the other one learns it.

        Returns:
            The number of revoked references.

        Raises:
            NotEnrolledError: The subject was never enrolled.
            RevokedError: The subject was revoked already, on both servers.
            PeerError: No server can be reached.
        """
        _refuse_slot(slot)
        message = AskSubject(application=application, subject=check_subject_id(subject_id))
        futures = [self._pool.submit(self._one, side, "revoke", message, Count) for side in "ab"]
        counts, errors = [], []
        for future in futures:
            try:
                counts.append(future.result().count)
            except (PeerError, NotEnrolledError, RevokedError) as error:
                errors.append(error)
        if not counts:
            raise next(
                error
                for kind in (RevokedError, PeerError, NotEnrolledError)
                for error in errors
                if isinstance(error, kind)
            )
        return max(counts)

    def refresh(self, side: str, *, application: str = DEFAULT_APPLICATION) -> int:
        """Let both servers re-randomise their shares, begun by `side`; the number of records."""
        count, last = 0, -1
        while True:
            answer = self._one(side, "refresh", AskRefresh(application=application, after=last), Refreshed)
            if answer.last < 0:
                return count
            if answer.last <= last:
                raise PeerError(f"share server {side}: its refresh does not go on")
            count, last = count + answer.count, answer.last

    def close(self) -> None:
        """Close the connections; a second call does nothing."""
        self._pool.shutdown()
        for each in (self._a, self._b):
            if isinstance(each, PeerClient):
                each.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _one(self, side: str, action: str, message: Message, answer: type[M]) -> M:
        return ask(self._a if side == "a" else self._b, side, action, message, answer)

    def _both(self, action: str, message: Message, answer: type[M], other: Message | None = None) -> tuple[M, M]:
        """Answers of A and B, asked at the same time; `other` is the message for B where it differs."""
        future = self._pool.submit(self._one, "b", action, other or message, answer)
        try:
            a = self._one("a", action, message, answer)
        except BaseException as error:
            with contextlib.suppress(NotEnrolledError, PeerError):
                future.result()
            raise error
        return a, future.result()

    def _known(self, name: str) -> tuple[Application, bytes]:
        """Settings of an application and their digest, which the servers repeat in each verification."""
        with self._lock:
            known = self._applications.get(name)
        return known or self._asked(name)

    def _asked(self, name: str) -> tuple[Application, bytes]:
        a, b = self._both("settings", AskSettings(application=name), Settings)
        if (a.side, b.side) != ("a", "b"):
            raise PeerError(f"expected the servers a and b, in this order, received {a.side!a} and {b.side!a}")
        if a.digest != b.digest:
            raise different_settings(name)
        if not a.protocol == b.protocol == self._protocol:
            raise ConfigError(
                f"protocol: the servers use {a.protocol!a} and {b.protocol!a}, this gallery {self._protocol!r}; "
                "see &protocol= in its URL"
            )
        found = Application(name, a.encoding, a.model, a.threshold)
        if settings_digest(dataclasses.replace(found, key_mode=KEY_MODE)) != a.digest:
            raise PeerError("share server a: its settings are not those that it gives the digest of")
        with self._lock:
            self._applications[name] = found, a.digest
        return found, a.digest

    def _begin(self, application: str, subject_id: str, attempt: bytes) -> tuple[Begun, Begun]:
        """Both servers' answers; an error where their settings differ, or are others than the known ones."""
        begin = Begin(application=application, subject=subject_id, attempt=attempt)
        a, b = self._both("begin", begin, Begun)
        if a.digest != b.digest:
            raise different_settings(application)
        if a.digest != self._known(application)[1]:
            self._asked(application)
        return a, b

    def _compare(
        self,
        subject_id: str,
        application: Application,
        row: NDArray[np.float32],
        attempt: bytes,
        session: bytes,
        pairs: Sequence[tuple[RecordKey, RecordKey]],
    ) -> SplitVerification:
        for_a, for_b = [], []
        for one, other in pairs:
            code = self._code(application, subject_id, one.record, (one.half_key, other.half_key), row)
            a, b = share_code(code, application.encoding)
            for_a.append(ProbeShare(record=one.record, share=a))
            for_b.append(ProbeShare(record=one.record, share=b))
        sealed = seal(session, b"probes", attempt, Probes(probes=for_b).to_bytes())
        message = Verify(attempt=attempt, probes=for_a, for_b=sealed)
        if self._protocol == "lite":
            return SplitVerification(self._one("a", "verify", message, Decision).match)
        answers = self._one("a", "verify", message, Answers)
        from_b = ReleaseShares.from_bytes(unseal(session, b"answer", attempt, answers.from_b)).shares
        if not len(answers.shares) == len(answers.releases) == len(from_b) == len(pairs):
            raise PeerError("expected one answer for each record of both share servers")
        digest = self._known(application.name)[1]
        every = zip(pairs, answers.shares, from_b, answers.releases, strict=True)
        for (one, _), share_a, share_b, release in every:
            record = RecordEpoch(record=one.record, epoch=one.epoch)
            session_here = session_of(attempt, application.name, subject_id, record, digest)
            secret = open_match(ReleaseShare.from_bytes(share_a), ReleaseShare.from_bytes(share_b), session_here)
            if secret is not None:
                label = record_label(application.name, subject_id, one.record)
                return SplitVerification(True, open_release(secret, release, label) if release else None)
        return SplitVerification(False)

    def _code(
        self,
        application: Application,
        subject_id: str,
        record: int,
        halves: tuple[bytes, bytes],
        row: NDArray[np.float32],
    ) -> bytes:
        """The code of an embedding under the key of a record."""
        key: TransformKey = join_half_keys(*halves, record_label(application.name, subject_id, record))
        codes = check_hasher(application, self.hasher).hash(row[None], key)
        return code_to_bytes(pack(codes, self.hasher.alphabet_size))

    def _rows(
        self, faces: FaceSource, metadata: Mapping[str, Any] | None, release: bytes, *, checked: bool
    ) -> NDArray[np.float32]:
        """Embeddings to enrol."""
        if metadata:
            raise EnrolmentError("metadata: expected none; the servers of a split gallery keep nothing but shares")
        if len(release) > MAX_RELEASED:
            raise EnrolmentError(f"release: expected at most {MAX_RELEASED} bytes, received {len(release)}")
        if release and self._protocol == "lite":
            raise EnrolmentError("release: only the full protocol gives a secret back; this gallery uses lite")
        if self.hasher.parts > 1:
            raise EnrolmentError("keys of kind 'part' do not serve a split gallery; use 'orthogonal' ones")
        rows = self.embed(faces, checked=checked)
        if len(rows) > MAX_REFERENCES:
            raise EnrolmentError(f"expected at most {MAX_REFERENCES} images of a subject, received {len(rows)}")
        return rows

    def _records(self, application: str, subject_id: str) -> tuple[list[int], list[int], bool]:
        """Records of a subject on both servers, on any of them, and whether one of them has revoked it."""
        a, b = self._both("enrolled", AskSubject(application=application, subject=subject_id), SubjectRecords)
        common, every = set(a.records) & set(b.records), set(a.records) | set(b.records)
        return sorted(common), sorted(every), a.was_revoked or b.was_revoked

    def _store(
        self,
        application: Application,
        subject_id: str,
        rows: NDArray[np.float32],
        release: bytes,
        *,
        replaces: Sequence[int] = (),
        another: bool = False,
        allow_revoked: bool = False,
    ) -> int:
        """Prepare shares on both servers, then commit them on A, whose commit decides, and on B."""
        name, digest = application.name, self._known(application.name)[1]
        records = [secrets.randbits(62) for _ in rows]
        question = AskHalfKeys(application=name, subject=subject_id, records=records)
        a, b = self._both("half-keys", question, HalfKeys)
        if not len(a.half_keys) == len(b.half_keys) == len(records):
            raise PeerError("expected one half-key for each record of both share servers")
        for_a: list[EnrolledShare] = []
        for_b: list[EnrolledShare] = []
        for record, row, *halves in zip(records, rows, a.half_keys, b.half_keys, strict=True):
            code = self._code(application, subject_id, record, (halves[0], halves[1]), row)
            secret, *secret_shares = share_secret()
            label = record_label(name, subject_id, record)
            sealed = seal_release(secret, release, label) if release else b""
            for each, share, secret_share in zip(
                (for_a, for_b), share_code(code, application.encoding), secret_shares, strict=True
            ):
                each.append(
                    EnrolledShare(
                        record=record, code=share, secret=secret_share, commitment=commitment(secret), sealed=sealed
                    )
                )
        transaction = secrets.randbits(62)
        prepare = Prepare(
            application=name,
            subject=subject_id,
            transaction=transaction,
            digest=digest,
            shares=for_a,
            replaces=list(replaces),
            another=another,
            allow_revoked=allow_revoked,
        )
        self._both("prepare", prepare, Done, prepare.model_copy(update={"shares": for_b}))
        commit = Commit(application=name, transaction=transaction, records=records)
        self._one("a", "commit", commit, Done)
        try:
            self._one("b", "commit", commit, Done)
        except PeerError as error:
            raise PeerError(
                f"{error}. Server a has the enrolment of {subject_id!r}; it counts when b has talked to a: verify then"
            ) from error
        return len(records)


def _options(url: str) -> dict[str, str]:
    """Places of both servers and the options of a URL."""
    front, _, query = url.partition("?")
    places = front.removeprefix(SCHEME).split(",")
    found = {"protocol": "full", "name-a": "a", "name-b": "b"}
    with contextlib.suppress(ValueError):
        given = dict(urllib.parse.parse_qsl(query, strict_parsing=True))
        if url.startswith(SCHEME) and len(places) == 2 and set(_FILES) <= given.keys() <= {*_FILES, *found}:
            return found | given | {"a": places[0], "b": places[1]}
    raise ConfigError(f"split gallery: expected {_FORM}, received another form")


def _pairs(a: Begun, b: Begun) -> list[tuple[RecordKey, RecordKey]]:
    """Records that both servers have."""
    of_b = {each.record: each for each in b.records}
    return [(each, of_b[each.record]) for each in a.records if each.record in of_b]


def _refuse_slot(slot: int | None) -> None:
    if slot is not None:
        raise EnrolmentError("a split gallery revokes and renews all references of a subject: leave --slot out")
