"""The audit log: who was enrolled, renewed and revoked when, as a chain of hashes.

Each entry holds the SHA-256 of the one before, so that an entry cannot be changed, taken out or
put in without a break. Subjects appear as pseudonyms (an HMAC under a key of the key store); there
is no code, key or embedding in it. The order is that of the sequence numbers: a clock that is moved
back changes times, nothing else. A chain that is rewritten as a whole is found by its anchors in
the key store.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence

from iom.gallery.mac import Mac

PSEUDONYM_BYTES = 16
ROOT = bytes(32)
"""What the first entry has as the digest of the entry before it."""


@dataclasses.dataclass(frozen=True)
class AuditEvent:
    """What is to be written to the log.

    Attributes:
        action: `enroll`, `renew`, `revoke`, `create`, ...
        application: Name, or empty for what concerns the whole gallery.
        count: References concerned.
        subjects: Pseudonyms of the subjects, see `pseudonym`.
        key_entries: Length of the key store at this time: a key store that is shorter is not whole.
        time: Seconds since 1970, UTC.
    """

    action: str
    application: str = ""
    count: int = 0
    subjects: tuple[bytes, ...] = ()
    key_entries: int = 0
    time: int = 0


@dataclasses.dataclass(frozen=True)
class AuditEntry:
    """An event in the chain.

    Attributes:
        sequence: 1, 2, ...
        event: What happened.
        previous: Digest of the entry before, 32 bytes.
        digest: SHA-256 of all that, 32 bytes.
    """

    sequence: int
    event: AuditEvent
    previous: bytes
    digest: bytes


def pseudonym(audit_key: bytes, application: str, subject_id: str) -> bytes:
    """Name of a subject in the log, 16 bytes; who holds the key can find a subject's entries."""
    return pseudonyms(audit_key, application, [subject_id])[0]


def pseudonyms(audit_key: bytes, application: str, subject_ids: Sequence[str]) -> tuple[bytes, ...]:
    """`pseudonym` of several subjects."""
    start = b"iom/audit/v1\x00" + application.encode() + b"\x00"
    mac = Mac(audit_key)
    return tuple(mac.digest(start + each.encode())[:PSEUDONYM_BYTES] for each in subject_ids)


def chained(event: AuditEvent, sequence: int, previous: bytes) -> AuditEntry:
    """The entry of `event` behind the entry `sequence - 1` with the digest `previous`."""
    return AuditEntry(sequence, event, previous, _digest(event, sequence, previous))


def chain_problems(entries: Iterable[AuditEntry]) -> Iterator[str]:
    """Every break of a chain that is read from its start, in words."""
    sequence, previous = 0, ROOT
    for entry in entries:
        if entry.sequence != sequence + 1:
            yield (
                f"audit log: expected entry {sequence + 1}, found {entry.sequence}: entries are "
                "missing"
            )
        elif entry.previous != previous:
            yield f"audit log: entry {entry.sequence} does not follow the one before it"
        if entry.digest != _digest(entry.event, entry.sequence, entry.previous):
            yield f"audit log: entry {entry.sequence} was changed"
        sequence, previous = entry.sequence, entry.digest


def _digest(event: AuditEvent, sequence: int, previous: bytes) -> bytes:
    fields = [sequence, event.time, event.action, event.application, event.count, event.key_entries]
    digest = hashlib.sha256(b"iom/audit-chain/v1\x00" + previous)
    digest.update(json.dumps(fields, separators=(",", ":")).encode())
    for subject in event.subjects:
        digest.update(subject)
    return digest.digest()
