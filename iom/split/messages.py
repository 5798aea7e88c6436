"""Messages between a capture side and share servers: strict JSON with bounds.

What does not fit its form is refused whole; values of a message that was not understood appear in no error.
"""

import contextlib
import hashlib
import secrets
from typing import Annotated, Protocol, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from iom._untrusted import one_line
from iom.errors import EnrolmentError, IomError, PeerError
from iom.gallery.models import MAX_SUBJECT_ID_LENGTH
from iom.split.comparison import Session
from iom.split.share_store import MAX_REFERENCES, MAX_SEALED
from iom.split.shares import COMMITMENT_BYTES, SECRET_BYTES, record_label

MAX_MESSAGE = 1 << 20
"""Bytes of a message."""
MAX_CODE = 1 << 16
"""Bytes of a share of a code."""
PAGE = 512
"""Records of one message of a refresh, and tombstones of one message."""
ATTEMPT_BYTES, SEED_BYTES, DIGEST_BYTES, HALF_KEY_BYTES = 16, 32, 32, 32
_NONCE_BYTES = 12
_SEALED = b"iom/split/sealed/v1/"
_PREFIX = "share server "

Name = Annotated[str, Field(min_length=1, max_length=64)]
Subject = Annotated[str, Field(min_length=1, max_length=MAX_SUBJECT_ID_LENGTH)]
Number = Annotated[int, Field(ge=0, lt=1 << 62)]
Epoch = Annotated[int, Field(ge=0, lt=1 << 31)]
Sealed = Annotated[bytes, Field(max_length=MAX_MESSAGE // 2)]
Attempt = Annotated[bytes, Field(min_length=ATTEMPT_BYTES, max_length=ATTEMPT_BYTES)]
Digest = Annotated[bytes, Field(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Seed = Annotated[bytes, Field(min_length=SEED_BYTES, max_length=SEED_BYTES)]
HalfKey = Annotated[bytes, Field(min_length=HALF_KEY_BYTES, max_length=HALF_KEY_BYTES)]
Code = Annotated[bytes, Field(min_length=8, max_length=MAX_CODE)]
Few = Field(max_length=MAX_REFERENCES)
Page = Field(max_length=PAGE)

M = TypeVar("M", bound="Message")


class Message(BaseModel):
    """A message, whose fields all have bounds."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
    )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    __str__ = __repr__

    def to_bytes(self) -> bytes:
        """The message as JSON."""
        return self.model_dump_json().encode()

    @classmethod
    def from_bytes(cls: type[M], body: bytes) -> M:
        """The message in a body; a `PeerError` for any other content."""
        if len(body) > MAX_MESSAGE:
            raise PeerError(f"message: expected at most {MAX_MESSAGE} bytes, received {len(body)}")
        try:
            return cls.model_validate_json(body)
        except (ValidationError, ValueError) as error:
            places = error.errors(include_input=False, include_url=False) if isinstance(error, ValidationError) else []
            where = ".".join(str(part)[:20] for part in places[0]["loc"][:4]) if places else ""
            raise PeerError(f"malformed message {cls.__name__}{f' at {where!a}' if where else ''}") from None


class Done(Message):
    """An answer without content."""


class AskSettings(Message):
    """Question for the settings of an application."""

    application: Name


class Settings(Message):
    """Settings of an application on one server; both servers must have equal ones."""

    side: Name
    encoding: Name
    model: Annotated[str, Field(max_length=256)]
    threshold: Annotated[int, Field(ge=-1, le=1 << 16)]
    protocol: Name
    digest: Digest


class Begin(Message):
    """Begin of a verification; the capture side draws the number of the attempt."""

    application: Name
    subject: Subject
    attempt: Attempt


class RecordKey(Message):
    """Half of the key of a record, and the epoch of its share."""

    record: Number
    epoch: Epoch
    half_key: HalfKey


class Begun(Message):
    """Records to compare with, and a key of 32 bytes for what goes through the other server."""

    digest: Digest
    session: Seed
    records: Annotated[list[RecordKey], Few]


class ProbeShare(Message):
    """Share of the probe's code under the key of a record."""

    record: Number
    share: Code


class Probes(Message):
    """One server's shares of a probe, one for each record."""

    probes: Annotated[list[ProbeShare], Field(min_length=1, max_length=MAX_REFERENCES)]


class Verify(Message):
    """Probe of an attempt, to A: its shares, and those of B sealed for B."""

    attempt: Attempt
    probes: Annotated[list[ProbeShare], Field(min_length=1, max_length=MAX_REFERENCES)]
    for_b: Sealed


class Decision(Message):
    """Decision of the lite protocol."""

    match: bool


class RecordEpoch(Message):
    """A record and the epoch of its share."""

    record: Number
    epoch: Epoch


class AskDifferences(Message):
    """Question of A to B for the differences of an attempt (lite protocol)."""

    attempt: Attempt
    digest: Digest
    records: Annotated[list[RecordEpoch], Field(min_length=1, max_length=MAX_REFERENCES)]
    for_b: Sealed


class Differences(Message):
    """B's share of template XOR its share of the probe, for each record that was asked for."""

    shares: Annotated[list[Code], Few]


class AskReplies(Message):
    """Offers of A to B, one for each record of an attempt (full protocol, `iom.split.comparison.Offer`)."""

    attempt: Attempt
    digest: Digest
    records: Annotated[list[RecordEpoch], Field(min_length=1, max_length=MAX_REFERENCES)]
    for_b: Sealed
    offers: Annotated[list[Sealed], Few]


class Replies(Message):
    """Replies of B, one for each offer."""

    replies: Annotated[list[Sealed], Few]


class Openings(Message):
    """Openings of A to B, one for each offer."""

    attempt: Attempt
    openings: Annotated[list[Sealed], Few]


class FromB(Message):
    """Answer of B to the capture side, `ReleaseShares` sealed."""

    sealed: Sealed


class ReleaseShares(Message):
    """One server's table entries under its shares of the secrets, one for each record."""

    shares: Annotated[list[Sealed], Few]


class Answers(Message):
    """Answer of the full protocol: A's entries, B's sealed for the capture side, and what the secrets open."""

    shares: Annotated[list[Sealed], Few]
    from_b: Sealed
    releases: Annotated[list[Annotated[bytes, Field(max_length=MAX_SEALED)]], Few]


class AskSubject(Message):
    """Question about a subject, or its revocation."""

    application: Name
    subject: Subject


class SubjectRecords(Message):
    """Valid records of a subject on one server."""

    records: Annotated[list[Number], Field(max_length=4 * MAX_REFERENCES)]
    was_revoked: bool


class AskHalfKeys(Message):
    """Question for half-keys of records that are not used yet."""

    application: Name
    subject: Subject
    records: Annotated[list[Number], Field(min_length=1, max_length=MAX_REFERENCES)]


class HalfKeys(Message):
    """Half-keys in the order that was asked for."""

    digest: Digest
    half_keys: Annotated[list[HalfKey], Few]


class EnrolledShare(Message):
    """One server's part of a new template."""

    record: Number
    code: Code
    secret: Annotated[bytes, Field(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
    commitment: Annotated[bytes, Field(min_length=COMMITMENT_BYTES, max_length=COMMITMENT_BYTES)]
    sealed: Annotated[bytes, Field(max_length=MAX_SEALED)]


class Prepare(Message):
    """Shares of a transaction."""

    application: Name
    subject: Subject
    transaction: Number
    digest: Digest
    shares: Annotated[list[EnrolledShare], Field(min_length=1, max_length=MAX_REFERENCES)]
    replaces: Annotated[list[Number], Field(max_length=4 * MAX_REFERENCES)]
    another: bool
    allow_revoked: bool


class Commit(Message):
    """Commit of a transaction of these records."""

    application: Name
    transaction: Number
    records: Annotated[list[Number], Field(min_length=1, max_length=PAGE)]


class Count(Message):
    """A number of records."""

    count: Annotated[int, Field(ge=0, lt=1 << 62)]


class AskStates(Message):
    """Question of a server for the states of records on the other one.

    `abandon`: drop what is only prepared, as this server is about to do.
    """

    application: Name
    records: Annotated[list[Number], Page]
    abandon: bool


class RecordState(Message):
    """See `share_store.State`."""

    name: Annotated[str, Field(pattern="^(valid|prepared|revoked|unknown)$")]
    epoch: Epoch


class States(Message):
    """States in the order that was asked for."""

    states: Annotated[list[RecordState], Page]


class AskRevoked(Message):
    """Question of a server for records revoked on the other one, after a position in their order."""

    application: Name
    position: Number


class RevokedRecord(Message):
    """A record that is refused for ever."""

    subject: Subject
    record: Number
    epoch: Epoch


class RevokedRecords(Message):
    """Revoked records, and the position behind them."""

    records: Annotated[list[RevokedRecord], Page]
    position: Number


class RefreshPage(Message):
    """Records to refresh together, at their present epochs, and one server's public part of a key exchange."""

    application: Name
    transaction: Number
    digest: Digest
    public: Seed
    records: Annotated[list[RecordEpoch], Field(min_length=1, max_length=PAGE)]


class RefreshAnswer(Message):
    """The other server's public part, and the records whose shares it has prepared."""

    public: Seed
    records: Annotated[list[Number], Page]


class RefreshCommit(Message):
    """Commit of a refresh, with the epochs that it leads to."""

    application: Name
    transaction: Number
    records: Annotated[list[RecordEpoch], Field(min_length=1, max_length=PAGE)]


class AskRefresh(Message):
    """Order of an administrator to refresh the next records after a number."""

    application: Name
    after: Annotated[int, Field(ge=-1, lt=1 << 62)]


class Refreshed(Message):
    """Number of records that were refreshed, and the last one; 0 at the end."""

    count: Annotated[int, Field(ge=0, le=PAGE)]
    last: Annotated[int, Field(ge=-1, lt=1 << 62)]


class Connection(Protocol):
    """A connection to a share server, such as `iom._peers.PeerClient`."""

    def call(self, action: str, body: bytes) -> bytes:
        """The answer to an action; the server's own `IomError`, or a `PeerError` where there is no answer."""


def different_settings(application: str) -> EnrolmentError:
    """The error for an application of which the two servers have different settings."""
    return EnrolmentError(
        f"application {application}: the two servers have different settings (threshold, model, code): their "
        "administrators must set equal ones; see iom stats on each"
    )


def session_of(attempt: bytes, application: str, subject: str, record: RecordEpoch, digest: bytes) -> Session:
    """The comparison of a record in an attempt, bound to the settings of the application."""
    label = record_label(application, subject, record.record) + digest
    return Session(attempt, hashlib.sha256(b"iom/split/comparison/v1\0" + label).digest(), record.epoch)


def ask(connection: Connection, side: str, action: str, message: Message, answer: type[M]) -> M:
    """The answer of a server; its error, or a `PeerError` where it answers something else, with its side in front."""
    try:
        return answer.from_bytes(connection.call(action, message.to_bytes()))
    except IomError as error:
        text = "".join(each if each.isprintable() else "?" for each in one_line(error))
        error.args = (text if text.startswith(_PREFIX) else f"{_PREFIX}{side}: {text}",)
        raise


def seal(key: bytes, purpose: bytes, attempt: bytes, content: bytes) -> bytes:
    """Content that one server carries to the other side without reading it (AES-256-GCM), bound to an attempt."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, content, _SEALED + purpose + attempt)


def unseal(key: bytes, purpose: bytes, attempt: bytes, sealed: bytes) -> bytes:
    """What `seal` sealed; a `PeerError` for anything else."""
    with contextlib.suppress(InvalidTag, ValueError):
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _SEALED + purpose + attempt)
    raise PeerError("a sealed message was changed, or belongs to another attempt")
