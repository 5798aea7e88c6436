"""Audit log: enrolments, renewals and revocations with their times, as a chain of authentication tags.

Each entry has the tag of the one before and an HMAC-SHA-256 over itself under a key of the key store: without that key
no entry can be changed, inserted or appended. Missing entries at the end are found by the last entry that the key store
remembers. An entry about an application has its counts of references and tombstones. Subjects appear as pseudonyms (an
HMAC under another key); no code, key or embedding is in the log. Sequence numbers decide the order, not times.
"""

import dataclasses
import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator, Sequence

from iom.errors import StoreError

PSEUDONYM_BYTES = 16
ROOT = bytes(32)
"""Previous digest of the first entry."""


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

    def __repr__(self) -> str:
        return "AuditChain()"


def pseudonyms(audit_key: bytes, application: str, subject_ids: Sequence[str]) -> tuple[bytes, ...]:
    """Names of subjects in the log, 16 bytes each; whoever has the key can find the entries of a subject."""
    start = b"iom/audit/v1\x00" + application.encode() + b"\x00"
    return tuple(hmac.digest(audit_key, start + each.encode(), "sha256")[:PSEUDONYM_BYTES] for each in subject_ids)


def _unkeyed(event: AuditEvent, sequence: int, previous: bytes) -> bytes:
    fields = [sequence, event.time, event.action, event.application, event.count, event.key_entries]
    text = json.dumps(fields, separators=(",", ":")).encode()
    return hashlib.sha256(b"iom/audit-chain/v1\x00" + previous + text + b"".join(event.subjects)).digest()
