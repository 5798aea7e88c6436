"""Records of a gallery: applications, references, tombstones and the audit log, and the rules for their names.

The audit log has enrolments, renewals and revocations with their times, as a chain of authentication tags. Each entry
has the tag of the one before and an HMAC-SHA-256 over itself under a key of the key store: without that key no entry
can be changed, inserted or appended. Missing entries at the end are found by the last entry that the key store
remembers. An entry about an application has its counts of references and tombstones. Subjects appear as pseudonyms (an
HMAC under another key); no code, key or embedding is in the log. Sequence numbers decide the order, not times.
"""

import dataclasses
import hashlib
import hmac
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from iom._registry import DEVICE_MODES, KEY_MODES
from iom._untrusted import parse_json
from iom.codes.asymmetric import MAX_DISTANCE, SYMBOLS
from iom.codes.packing import encoding_comparison, encoding_shape
from iom.errors import EnrolmentError, RevokedError, StoreError

DEFAULT_APPLICATION = "default"
MAX_SUBJECT_ID_LENGTH = 256
MAX_METADATA_BYTES = 4096
TOKEN_FIELD = "iom.token"  # noqa: S105 - its name
"""Name in the metadata of a reference for the public identifier of the token that its key needs."""
UNSLOTTED = -1
"""Slot of a reference that is not stored yet; the store assigns the lowest free slot of the subject."""
PSEUDONYM_BYTES = 16
ROOT = bytes(32)
"""Previous digest of the first entry."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_BY_SYMBOLS = {
    "share": "shares of codes are compared by symbols alone, as neither server has a whole code",
    **dict.fromkeys(DEVICE_MODES, "codes of devices are compared by symbols alone, as no server gets an embedding"),
}
"""Key modes without asymmetric comparison, and why."""


@dataclasses.dataclass(frozen=True)
class Application:
    """A tenant; references of two applications are never compared.

    Attributes:
        encoding: Stored form of its codes and their comparison, see `encoding_id`.
        model: Fingerprint of hasher and embedder; codes of two models are not comparable.
        threshold: Largest distance that is a match: of differing positions, or of ten-thousandths of 1 - cosine where
            the comparison is asymmetric.
        key_mode: `subject` (one key for each record), `application` (one key for each epoch), `share` (shares of
            codes, and one half of a key for each record: one server of a split gallery), `device` (one key for each
            record, which never leaves the subject's device, as no face does) or `device-share` (of whose codes another
            service has the other shares).
        masked: Whether codes are stored under a one-time XOR mask, which the key store keeps.
        epoch: Key epoch of new references in key mode `application`.
        created: Seconds since 1970.
        revision: Rises with each change of threshold, comparison or epoch.
        seal: Authentication tag of all other fields, made by the gallery.
    """

    name: str
    encoding: str
    model: str
    threshold: int
    key_mode: str = "subject"
    masked: bool = False
    epoch: int = 0
    created: int = 0
    revision: int = 0
    seal: bytes = dataclasses.field(default=b"", repr=False)

    def __post_init__(self) -> None:
        check_application_name(self.name)
        code_length, _ = self.shape
        if self.key_mode not in KEY_MODES:
            raise EnrolmentError(f"key mode: expected one of {', '.join(KEY_MODES)}, received {self.key_mode!r}")
        symbols = self.comparison == SYMBOLS
        if self.key_mode in _BY_SYMBOLS and not symbols:
            raise EnrolmentError(
                f"application {self.name}: {_BY_SYMBOLS[self.key_mode]}; calibrate the hasher for them: "
                "iom calibrate --comparison symbols"
            )
        if self.key_mode in DEVICE_MODES and not self.masked:
            raise EnrolmentError(
                f"application {self.name}: codes of devices are stored under masks, expected masked codes; leave out "
                "--unmasked"
            )
        largest = code_length if symbols else MAX_DISTANCE
        if not -1 <= self.threshold <= largest:
            unit = "differing positions" if symbols else "ten-thousandths of 1 - cosine (asymmetric comparison)"
            raise EnrolmentError(
                f"threshold of application {self.name}: expected -1 (reject everything) to {largest} {unit}, received "
                f"{self.threshold}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """M and Q of its codes."""
        return encoding_shape(self.encoding)

    @property
    def comparison(self) -> str:
        """How its codes are compared with probes, "symbols" or "asymmetric"."""
        return encoding_comparison(self.encoding)

    def fields(self) -> dict[str, Any]:
        """All fields but the seal, as JSON."""
        return {name: value for name, value in vars(self).items() if name != "seal"}


@dataclasses.dataclass(frozen=True)
class Reference:
    """One enrolled template.

    Attributes:
        slot: 0, 1, ... among the references of the subject; `UNSLOTTED` until it is stored.
        record: Record number, used once within an application. Keys are derived from it, and the lowest wins a tie.
        epoch: Key epoch in key mode `application`, else 0.
        code: Packed planes, little endian, `code_bytes` long, XOR the mask if there is one.
        seal: Authentication tag of all other fields but the slot, made by the gallery.
        metadata: Canonical JSON of an object, see `metadata_text`.
        created: Seconds since 1970.
    """

    application: str
    subject_id: str
    slot: int
    record: int
    epoch: int
    code: bytes = dataclasses.field(repr=False)
    seal: bytes = dataclasses.field(repr=False)
    metadata: str = "{}"
    created: int = 0

    @property
    def token(self) -> str:
        """Public identifier of the subject's token that the key needs, too; empty without one."""
        if TOKEN_FIELD not in self.metadata:
            return ""
        try:
            return str(parse_json(self.metadata).get(TOKEN_FIELD, ""))
        except (ValueError, AttributeError):  # its seal does not hold
            return ""

    def changed(self, **fields: Any) -> "Reference":
        """A copy with other fields; several times as fast as `dataclasses.replace`."""
        changed: Reference = object.__new__(Reference)
        changed.__dict__.update(self.__dict__, **fields)
        return changed


class Shard(NamedTuple):
    """A part of the records: of blocks of `block` following numbers, every `shards`-th one from `number` on."""

    number: int = 0
    shards: int = 1
    block: int = 4096

    def first(self, record: int) -> int:
        """The lowest number from `record` on that is in this part."""
        block = record // self.block
        ahead = (self.number - block) % self.shards
        return (block + ahead) * self.block if ahead else record


ALL = Shard()
"""All records."""


@dataclasses.dataclass(frozen=True)
class Tombstone:
    """A revoked reference without its code."""

    subject_id: str
    record: int
    epoch: int = 0
    seal: bytes = dataclasses.field(default=b"", repr=False)


@dataclasses.dataclass(frozen=True)
class AuditEvent:
    """An event for the log, at Unix time `time`; `application` is empty for events of the whole gallery.

    `subjects` are pseudonyms. `key_entries` counts the writes to the key store so far: one with fewer lacks its last
    writes.
    """

    action: str
    application: str = ""
    count: int = 0
    subjects: tuple[bytes, ...] = ()
    key_entries: int = 0
    time: int = 0


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts of an application after an event: valid references, tombstones, and its revision."""

    references: int = 0
    tombstones: int = 0
    revision: int = 0

    def changed(self, *, added: int = 0, revoked: int = 0, revision: int | None = None) -> "Counts":
        """Counts after references were added and revoked, or the application was changed."""
        return Counts(
            self.references + added - revoked,
            self.tombstones + revoked,
            self.revision if revision is None else revision,
        )


@dataclasses.dataclass(frozen=True)
class AuditEntry:
    """An event in the chain: number (1, 2, ...), counts of its application, digest of the entry before, own digest."""

    sequence: int
    event: AuditEvent
    counts: Counts
    previous: bytes
    digest: bytes


class AuditChain:
    """Makes and checks the entries of a log; those before `keyed_from` are of format 1 and have an unkeyed SHA-256."""

    def __init__(self, key: bytes = b"", keyed_from: int = 1) -> None:
        self._key, self._keyed_from = key, keyed_from

    def following(self, event: AuditEvent, counts: Counts, last: tuple[int, bytes] | None) -> AuditEntry:
        """The entry of `event` after the last one, given as `(sequence, digest)`."""
        sequence, previous = last or (0, ROOT)
        digest = self._tag(event, counts, sequence + 1, previous)
        return AuditEntry(sequence + 1, event, counts, previous, digest)

    def holds(self, entry: AuditEntry) -> bool:
        """Whether the tag of an entry is right."""
        if entry.sequence < self._keyed_from:
            expected = _unkeyed(entry.event, entry.sequence, entry.previous)
        else:
            expected = self._tag(entry.event, entry.counts, entry.sequence, entry.previous)
        return hmac.compare_digest(expected, entry.digest)

    def counts_of(self, entry: AuditEntry | None, application: str) -> Counts:
        """Counts of the last entry about an application; a `StoreError` where the log was cut, emptied or changed."""
        if entry is None or entry.sequence < self._keyed_from or not self.holds(entry):
            raise StoreError(
                f"application {application}: the audit log has no authentic entry about it: it was emptied or changed "
                "outside of the gallery; nothing was written. See iom check, and take the record store from a backup"
            )
        return entry.counts

    def problems(self, entries: Iterable[AuditEntry]) -> Iterator[str]:
        """Breaks of a chain that is read from its start, one line each."""
        sequence, previous = 0, ROOT
        for entry in entries:
            if entry.sequence != sequence + 1:
                yield f"audit log: expected entry {sequence + 1}, found {entry.sequence}: entries are missing"
            elif not hmac.compare_digest(entry.previous, previous):
                yield f"audit log: entry {entry.sequence} does not follow the one before it"
            if not self.holds(entry):
                yield f"audit log: entry {entry.sequence} was changed or forged"
            sequence, previous = entry.sequence, entry.digest

    def _tag(self, event: AuditEvent, counts: Counts, sequence: int, previous: bytes) -> bytes:
        fields = [sequence, event.time, event.action, event.application, event.count]
        fields += [event.key_entries, counts.references, counts.tombstones, counts.revision]
        text = json.dumps(fields, separators=(",", ":")).encode()
        message = b"iom/audit-chain/v2\x00" + previous + text + b"\x00" + b"".join(event.subjects)
        return hmac.digest(self._key, message, "sha256")


def pseudonyms(audit_key: bytes, application: str, subject_ids: Sequence[str]) -> tuple[bytes, ...]:
    """Names of subjects in the log, 16 bytes each; whoever has the key can find the entries of a subject."""
    start = hmac.new(audit_key, b"iom/audit/v1\x00" + application.encode() + b"\x00", "sha256")
    found = []
    for subject_id in subject_ids:
        mac = start.copy()  # half the time of a new one
        mac.update(subject_id.encode())
        found.append(mac.digest()[:PSEUDONYM_BYTES])
    return tuple(found)


def _unkeyed(event: AuditEvent, sequence: int, previous: bytes) -> bytes:
    fields = [sequence, event.time, event.action, event.application, event.count, event.key_entries]
    text = json.dumps(fields, separators=(",", ":")).encode()
    return hashlib.sha256(b"iom/audit-chain/v1\x00" + previous + text + b"".join(event.subjects)).digest()


def check_application_name(name: object) -> str:
    """Check that `name` is 1 to 64 letters, digits and `_.-`, starting with a letter or digit, and return it."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise EnrolmentError(
            f"application: expected a name of 1 to 64 letters, digits and '_.-', received {_shown(name)}"
        )
    return name


def check_subject_id(subject_id: object) -> str:
    """`subject_id` in NFC (UAX 15), if it is 1 to 256 printable characters without space at either end."""
    if not (isinstance(subject_id, str) and 1 <= len(subject_id) <= MAX_SUBJECT_ID_LENGTH and subject_id.isprintable()):
        raise EnrolmentError(
            f"subject id: expected 1 to {MAX_SUBJECT_ID_LENGTH} printable characters, received {_shown(subject_id)}"
        )
    if subject_id != subject_id.strip():
        raise EnrolmentError(f"subject id: expected no space at either end, received {_shown(subject_id)}")
    return unicodedata.normalize("NFC", subject_id)


def metadata_text(metadata: Mapping[str, Any] | None, *, token: str = "") -> str:
    """Metadata as canonical JSON of an object, of at most 4096 bytes; `token` is the identifier of one, if any."""
    if not metadata and not token:
        return "{}"
    try:
        given = dict(metadata or {})
        if TOKEN_FIELD in given:
            raise EnrolmentError(f"metadata: the name '{TOKEN_FIELD}' is taken; use another one")
        given |= {TOKEN_FIELD: token} if token else {}
        text = json.dumps(given, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise EnrolmentError(f"metadata: expected a JSON object: {error}") from error
    if len(text) > MAX_METADATA_BYTES:
        raise EnrolmentError(
            f"metadata: expected at most {MAX_METADATA_BYTES} bytes of JSON, received {len(text)}; "
            "keep large data elsewhere and refer to it here"
        )
    return text


def tampered(problem: str) -> StoreError:
    """The error for content of a store that no gallery wrote."""
    return StoreError(f"{problem}: it was changed outside of the gallery, or is damaged. Take it from a backup")


def _shown(value: object) -> str:
    """At most 80 characters of a value for an error."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def revoked_subject(subject_id: str) -> RevokedError:
    """The error for a subject that was revoked and has no valid reference."""
    return RevokedError(f"subject {subject_id!r} was revoked; renew it to bring it back", subject_id=subject_id)


def revoked_epoch(subject_id: str, application: str) -> RevokedError:
    """The error for a template that would be made under the key of a revoked one."""
    return RevokedError(
        f"subject {subject_id!r} was revoked under the common key of application {application}: rotate it first, or "
        "the new template equals the revoked one",
        subject_id=subject_id,
    )
