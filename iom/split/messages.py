"""Messages between a capture side and share servers: strict JSON with bounds, and refusals.

An answer is one byte, `OK` or `REFUSED`, and a message. What does not fit its form is refused whole; values of a
message that was not understood appear in no error.
"""

from typing import Annotated, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from iom._untrusted import one_line
from iom.errors import (
    AlreadyEnrolledError,
    EnrolmentError,
    IomError,
    NotEnrolledError,
    RateLimitError,
    RevokedError,
    SplitError,
    UnknownApplicationError,
)
from iom.gallery.models import MAX_SUBJECT_ID_LENGTH
from iom.split.share_store import COMMITMENT_BYTES, MAX_REFERENCES, MAX_SEALED, SECRET_BYTES

MAX_MESSAGE = 1 << 20
"""Bytes of a message."""
MAX_CODE = 1 << 16
"""Bytes of a share of a code."""
PAGE = 512
"""Records of one message of a refresh, and tombstones of one message."""
OK, REFUSED = b"\x00", b"\x01"
ATTEMPT_BYTES, SEED_BYTES, DIGEST_BYTES, HALF_KEY_BYTES = 16, 32, 32, 32




Name = Annotated[str, Field(min_length=1, max_length=64)]
Subject = Annotated[str, Field(min_length=1, max_length=MAX_SUBJECT_ID_LENGTH)]
Number = Annotated[int, Field(ge=0, lt=1 << 62)]
Epoch = Annotated[int, Field(ge=0, lt=1 << 31)]
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

    def to_bytes(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def from_bytes(cls: type[M], body: bytes) -> M:
        """The message in a body; a `SplitError` for any other content."""
        if len(body) > MAX_MESSAGE:
            raise SplitError(f"message: expected at most {MAX_MESSAGE} bytes, received {len(body)}")
        try:
            return cls.model_validate_json(body)
        except (ValidationError, ValueError) as error:
            places = error.errors(include_input=False, include_url=False) if isinstance(error, ValidationError) else []
            where = ".".join(str(part)[:20] for part in places[0]["loc"][:4]) if places else ""
            raise SplitError(f"malformed message {cls.__name__}{f' at {where!a}' if where else ''}") from None


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
    """Records to compare with."""

    digest: Digest
    records: Annotated[list[RecordKey], Few]


class ProbeShare(Message):
    """Share of the probe's code under the key of a record."""

    record: Number
    share: Code


class Probe(Message):
    """Shares of a probe, one for each record."""

    attempt: Attempt
    probes: Annotated[list[ProbeShare], Field(min_length=1, max_length=MAX_REFERENCES)]


class Outcome(Message):
    """Decision of the lite protocol; `None` from the server that does not know it."""

    match: bool | None = None


class RecordEpoch(Message):
    """A record and the epoch of its share."""

    record: Number
    epoch: Epoch


class AskDifference(Message):
    """Question of A to B for the differences of the shares of an attempt."""

    attempt: Attempt
    digest: Digest
    records: Annotated[list[RecordEpoch], Field(min_length=1, max_length=MAX_REFERENCES)]


class Difference(Message):
    """Share of template XOR share of probe, for each record that was asked for."""

    shares: Annotated[list[Code], Few]


class AskSubject(Message):
    """Question about a subject, or its revocation."""

    application: Name
    subject: Subject


class Enrolled(Message):
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
    """Records to refresh together, at their present epochs, and one server's half of the randomness."""

    application: Name
    transaction: Number
    digest: Digest
    seed: Seed
    records: Annotated[list[RecordEpoch], Field(min_length=1, max_length=PAGE)]


class RefreshSeed(Message):
    """The other server's half of the randomness; its shares are prepared."""

    seed: Seed


class Refusal(Message):
    """The error of a server that refuses."""

    kind: Annotated[str, Field(max_length=32)]
    text: Annotated[str, Field(max_length=600)]
    subject: Annotated[str, Field(max_length=MAX_SUBJECT_ID_LENGTH)] = ""
    retry_after: Annotated[float, Field(ge=0, le=1e6)] = 0.0


_KINDS: dict[str, type[IomError]] = {
    "revoked": RevokedError,
    "not enrolled": NotEnrolledError,
    "enrolled already": AlreadyEnrolledError,
    "unknown application": UnknownApplicationError,
    "rate": RateLimitError,
    "enrolment": EnrolmentError,
    "server": SplitError,
}
_SUBJECT_ERRORS = (RevokedError, NotEnrolledError, AlreadyEnrolledError)


class Connection(Protocol):
    """A connection to a share server, such as a client of mutual TLS."""

    def call(self, action: str, body: bytes) -> bytes:
        """The answer to an action; an `IomError` where there is none."""


def refusal(error: IomError) -> bytes:
    """The answer that refuses with an error."""
    kind = next((name for name, each in _KINDS.items() if isinstance(error, each)), "server")
    subject = error.subject_id if isinstance(error, _SUBJECT_ERRORS) else ""
    wait = min(float(error.retry_after), 1e6) if isinstance(error, RateLimitError) else 0.0
    return REFUSED + Refusal(kind=kind, text=str(error)[:600], subject=subject, retry_after=wait).to_bytes()


def ask(connection: Connection, side: str, action: str, message: Message, answer: type[M]) -> M:
    """The answer of a server.

    Raises:
        IomError: The error of the server, with its side in front.
        SplitError: It answers something else.
    """
    received = connection.call(action, message.to_bytes())
    try:
        if received[:1] == OK:
            return answer.from_bytes(received[1:])
        if received[:1] != REFUSED:
            raise SplitError("malformed answer")
        found = Refusal.from_bytes(received[1:])
    except SplitError as error:
        raise SplitError(f"share server {side}: {error}", side=side) from None
    raise _error_of(side, found)


def _error_of(side: str, found: Refusal) -> IomError:
    kind = _KINDS.get(found.kind, SplitError)
    text = f"share server {side}: {''.join(c if c.isprintable() else '?' for c in one_line(found.text))}"
    if issubclass(kind, _SUBJECT_ERRORS):
        return kind(text, subject_id=found.subject)
    if issubclass(kind, RateLimitError):
        return kind(text, retry_after=found.retry_after)
    return kind(text, side=side) if issubclass(kind, SplitError) else kind(text)
