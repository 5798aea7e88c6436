"""Share store: the gallery of one share server, whose codes are XOR shares and whose keys are halves.

It is a record store and a key store as any gallery has, with tombstones, seals and the audit log, and one table more:
`prepared` has the shares of a transaction that the other server may not have yet. A transaction (an enrolment, a
renewal, or the refresh of a page of records) is prepared on both servers, then committed on both; only committed shares
count. Whatever is committed on one server is committed on the other when they talk; a prepared transaction is dropped
when it is an hour old and the other server has dropped it, too.
"""

import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from iom._untrusted import parse_json
from iom.codes.packing import code_bytes
from iom.errors import AlreadyEnrolledError, EnrolmentError, UnknownApplicationError
from iom.gallery.gallery import Gallery
from iom.gallery.key_store import KeyStore
from iom.gallery.models import (
    DEFAULT_APPLICATION,
    UNSLOTTED,
    Application,
    AuditEvent,
    Reference,
    Tombstone,
    check_subject_id,
    metadata_text,
    pseudonyms,
    revoked_subject,
    tampered,
)
from iom.gallery.stores.base import BYTES, LONG, REFERENCES, RecordStore
from iom.gallery.templates import check_seal, sealed, tombstone_of
from iom.models.face_hasher import FaceHasher
from iom.split.shares import COMMITMENT_BYTES, SECRET_BYTES, record_label, xor

KEY_MODE = "share"
_SPACE = "split/half-key/v1"
"""Name space of the half-keys among the keys that a key store derives."""
PREPARED_SECONDS = 3600
"""Age at which a transaction is committed no more, and is dropped where the other server drops it."""
MAX_SEALED = 1400
"""Bytes of a sealed secret: 1 KiB with nonce and tag, and room for its form."""
MAX_REFERENCES = 16
"""References of a subject."""

_TEXT, _NUMBER = sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), sa.Integer()
PREPARED = sa.Table(
    "prepared",
    sa.MetaData(),
    sa.Column("application", _TEXT, primary_key=True),
    sa.Column("record", LONG, primary_key=True, autoincrement=False),
    *(sa.Column(name, LONG, nullable=False) for name in ("number", "created", "made")),
    *(sa.Column(name, _TEXT, nullable=False) for name in ("kind", "subject", "metadata", "replaces")),
    sa.Column("epoch", _NUMBER, nullable=False),
    *(sa.Column(name, BYTES, nullable=False) for name in ("code", "seal")),
    sqlite_with_rowid=False,
)
ENROLMENT, ADDITION = "enrolment", "addition"
"""Kinds of transactions: new references of a subject, alone or beside those that are there."""
REFRESH_BEGUN, REFRESH_JOINED = "refresh begun", "refresh joined"
"""Kinds of transactions: a refresh that this server began, or the other one."""

_INSERT = sa.insert(PREPARED)
_SELECT = sa.select(PREPARED).where(PREPARED.c.application == sa.bindparam("of_name")).order_by(PREPARED.c.record)
_SELECT_SUBJECT = _SELECT.where(PREPARED.c.subject == sa.bindparam("of_subject"))
_DELETE = sa.delete(PREPARED).where(
    PREPARED.c.application == sa.bindparam("of_name"), PREPARED.c.record == sa.bindparam("of_record")
)
_REFRESH = sa.update(REFERENCES).where(
    REFERENCES.c.application == sa.bindparam("of_id"), REFERENCES.c.record == sa.bindparam("of_record")
)


@dataclasses.dataclass(frozen=True)
class Share:
    """One server's part of a template; nothing of it alone tells of the face.

    Attributes:
        record: Number that both servers know the template by.
        code: XOR share of the packed code.
        secret: XOR share of the record's secret, which a match opens.
        commitment: SHA-256 of the whole secret.
        sealed: What the secret opens; empty where nothing is released.
        epoch: Number of refreshes; shares of different epochs do not combine.
    """

    record: int
    code: bytes = dataclasses.field(repr=False)
    secret: bytes = dataclasses.field(repr=False)
    commitment: bytes = dataclasses.field(repr=False)
    sealed: bytes = dataclasses.field(default=b"", repr=False)
    epoch: int = 0

    def metadata(self) -> str:
        """What a reference keeps beside the code."""
        return metadata_text(
            {"secret": self.secret.hex(), "commitment": self.commitment.hex(), "sealed": self.sealed.hex()}
        )

    @classmethod
    def of(cls, reference: Reference) -> "Share":
        """The share in a reference."""
        try:
            known = parse_json(reference.metadata)
            secret, commitment, content = (bytes.fromhex(known[name]) for name in ("secret", "commitment", "sealed"))
        except (ValueError, KeyError, TypeError):
            raise tampered(f"record {reference.record} holds no share of a secret") from None
        return cls(reference.record, reference.code, secret, commitment, content, reference.epoch)


class Change(NamedTuple):
    """New randomness of one record in a refresh, the same for both servers: XOR of both shares."""

    record: int
    epoch: int
    code: bytes
    secret: bytes


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A share of a transaction that is not committed here."""

    transaction: int
    kind: str
    reference: Reference
    replaces: tuple[int, ...]
    made: int


class State(NamedTuple):
    """State of a record on one server: `valid`, `prepared`, `revoked` or `unknown`; the epoch of a valid one."""

    name: str
    epoch: int = 0


def settings_digest(application: Application) -> bytes:
    """Digest of the settings on which both servers must agree."""
    fields = [application.name, application.encoding, application.model, application.threshold, application.key_mode]
    return hashlib.sha256(b"iom/split/settings/v1\0" + json.dumps(fields, separators=(",", ":")).encode()).digest()


class ShareStore(Gallery):
    """The gallery of one share server; made by `iom init --key-mode share` on each of the two, with equal settings.

    Args:
        store: Of `open_store`.
        keys: Of `open_key_store`; the halves of the record keys come from it.
    """

    def __init__(self, store: RecordStore, keys: KeyStore) -> None:
        super().__init__(store, keys, _no_hasher)
        self._changing = threading.RLock()
        with store._writing() as connection:
            PREPARED.create(connection, checkfirst=True)

    def application(self, name: str) -> Application:
        """As of `Gallery`; `UnknownApplicationError` for one that has no shares."""
        found = super().application(name)
        if found.key_mode != KEY_MODE:
            raise UnknownApplicationError(
                f"application {name} holds whole templates, not shares; make one with iom init --key-mode {KEY_MODE}",
                application=name,
            )
        return found

    def half_keys(self, application: str, subject_id: str, records: Sequence[int]) -> list[bytes]:
        """This server's halves of record keys, 32 bytes each."""
        return self.keys.derive(_SPACE, [record_label(application, subject_id, each) for each in records])

    def shares(self, application: str, subject_id: str) -> list[Share]:
        """Committed shares of a subject.

        Raises:
            NotEnrolledError: The subject was never enrolled here.
            RevokedError: The subject was revoked.
        """
        references = self.references(subject_id, application=application)
        for each in references:
            check_seal(self.keys, each)
        return [Share.of(each) for each in references]

    def prepare(
        self,
        application: str,
        transaction: int,
        subject_id: str,
        shares: Sequence[Share],
        *,
        replaces: Collection[int] = (),
        another: bool = False,
        allow_revoked: bool = False,
    ) -> None:
        """Write the shares of an enrolment, or of a renewal where it `replaces` records; they do not count yet.

        Repeating it with equal shares changes nothing.

        Raises:
            AlreadyEnrolledError: The subject has a valid reference that is not replaced, and `another` is not set.
            RevokedError: The subject was revoked and `allow_revoked` is not set, or a record was.
            EnrolmentError: A record number was used before, or a share is of another size.
        """
        found, subject_id = self.application(application), check_subject_id(subject_id)
        self._check_shares(found, shares)
        now = int(time.time())
        references = [self._reference(application, subject_id, share, created=now) for share in shares]
        with self._changing, self.store._writing() as connection:
            self._check_subject(application, subject_id, replaces, another=another, allow_revoked=allow_revoked)
            self._check_new(application, transaction, references)
            kind = ADDITION if another else ENROLMENT
            connection.execute(_INSERT, [_row(transaction, kind, each, replaces, now) for each in references])

    def commit(self, application: str, transaction: int, records: Collection[int], *, decided: bool = False) -> None:
        """Make the shares of a transaction count, and revoke what they replace; repeatable.

        Args:
            application: Name of the application.
            transaction: Its number.
            records: Its records.
            decided: The other server has committed it: what is prepared of it here is committed whatever happened
                since; the rest was revoked.

        Raises:
            AlreadyEnrolledError: Another enrolment of the subject was faster.
            EnrolmentError: It is not prepared here, or too old.
        """
        with self._changing:
            prepared = [each for each in self.prepared(application) if each.transaction == transaction]
            if not prepared and {each.name for each in self.states(application, [*records])} <= {"valid", "revoked"}:
                return
            if not decided and {each.reference.record for each in prepared} != set(records):
                raise EnrolmentError("the transaction is not prepared on this server, or was given up; enrol again")
            if not prepared:
                return
            for each in prepared:
                check_seal(self.keys, each.reference)
            if prepared[0].kind in (REFRESH_BEGUN, REFRESH_JOINED):
                self._commit_refresh(application, prepared)
                return
            if not decided:
                self._check_commit(application, prepared)
            self._commit_enrolment(application, prepared)

    def prepare_refresh(
        self, application: str, transaction: int, changes: Sequence[Change], *, kind: str
    ) -> list[Reference]:
        """Write re-randomised shares, which do not count yet; `kind` is `REFRESH_BEGUN` or `REFRESH_JOINED`.

        Raises:
            EnrolmentError: A record is not valid here at the epoch before, or is in a transaction already.
        """
        self.application(application)
        now = int(time.time())
        with self._changing, self.store._writing() as connection:
            valid = {each.record: each for each in self.valid(application, [each.record for each in changes])}
            busy = {each.reference.record for each in self.prepared(application)}
            new = []
            for change in changes:
                old = valid.get(change.record)
                if old is None or old.epoch + 1 != change.epoch or change.record in busy:
                    raise EnrolmentError(
                        f"record {change.record}: expected a valid share of epoch {change.epoch - 1} that is in no "
                        "other transaction"
                    )
                check_seal(self.keys, old)
                share = Share.of(old)
                share = dataclasses.replace(
                    share,
                    code=xor(share.code, change.code),
                    secret=xor(share.secret, change.secret),
                    epoch=change.epoch,
                )
                new.append(self._reference(application, old.subject_id, share, created=old.created))
            connection.execute(_INSERT, [_row(transaction, kind, each, (), now) for each in new])
        return new

    def revoke(self, subject_id: str, *, slot: int | None = None, application: str = DEFAULT_APPLICATION) -> int:
        """As of `Gallery`; what is prepared for the subject is given up, so that no later commit brings it back."""
        with self._changing:
            found = self.prepared(application, subject_id=check_subject_id(subject_id))
            enrolments = [each for each in found if each.kind in (ENROLMENT, ADDITION)]
            self.drop(application, [each.reference.record for each in enrolments])
            return super().revoke(subject_id, slot=slot, application=application)

    def valid(self, application: str, records: Sequence[int]) -> list[Reference]:
        """Committed references among `records` that are not revoked."""
        revoked = self.keys.revoked(application)
        return [each for each in self.store.by_record(application, records) if each.record not in revoked]

    def prepared(self, application: str, *, subject_id: str | None = None) -> list[Prepared]:
        """Transactions that are not committed here, of one subject if given."""
        statement, values = _SELECT, {"of_name": application}
        if subject_id is not None:
            statement, values = _SELECT_SUBJECT, values | {"of_subject": subject_id}
        return [_prepared_of(row) for row in self.store._rows(statement, values)]

    def drop(self, application: str, records: Collection[int]) -> None:
        """Delete prepared shares, whose records are never used again."""
        if records:
            with self._changing, self.store._writing(deletes=True) as connection:
                connection.execute(_DELETE, [{"of_name": application, "of_record": each} for each in records])

    def end_joined(self, application: str, epochs: Mapping[int, int]) -> None:
        """End refreshes that the other server began before, by the epochs that it has now.

        One that it has committed is committed here, too; of the others, the shares of these records are deleted.
        """
        joined: dict[int, list[Prepared]] = {}
        with self._changing:
            for each in self.prepared(application):
                if each.kind == REFRESH_JOINED:
                    joined.setdefault(each.transaction, []).append(each)
            for transaction, group in joined.items():
                records = [each.reference.record for each in group]
                if any(epochs.get(each.reference.record, -1) >= each.reference.epoch for each in group):
                    self.commit(application, transaction, records, decided=True)
                else:
                    self.drop(application, [each for each in records if each in epochs])

    def states(self, application: str, records: Sequence[int]) -> list[State]:
        """State of each of these records here."""
        with self._changing:  # a transaction of the store, then one of the key store
            revoked = self.keys.revoked(application)
            valid = {each.record: each.epoch for each in self.store.by_record(application, records)}
            prepared = {each.reference.record for each in self.prepared(application)}

        def state(record: int) -> State:
            if record in revoked:
                return State("revoked")
            if record in valid:
                return State("valid", valid[record])
            return State("prepared" if record in prepared else "unknown")

        return [state(each) for each in records]

    def revoked_since(self, application: str, position: int, limit: int) -> tuple[list[Tombstone], int]:
        """Revoked records after a position in their order, at most `limit`, and the position behind them."""
        found = list(self.keys.revoked(application).values())[position : position + limit]
        return found, position + len(found)

    def learn_revoked(self, application: str, tombstones: Sequence[Tombstone]) -> int:
        """Revoke for ever what the other server has revoked, and give up what is prepared of it.

        Returns:
            The number of records that were valid or prepared here; others are none of this server's.
        """
        with self._changing:
            known = self.keys.revoked(application)
            new = {each.record: each for each in tombstones if each.record not in known}
            if not new:
                return 0
            valid = self.store.by_record(application, [*new])
            if valid:
                subjects = [each.subject_id for each in valid]
                gone = [tombstone_of(self.keys, each) for each in valid]
                self.store.revoke(application, gone, self.event("revoke", application, subjects))
                self._settle(application, revoked=gone)
            numbers = {each.record for each in valid}
            prepared = {each.reference.record for each in self.prepared(application)} & new.keys()
            if rest := [new[each] for each in sorted(prepared - numbers)]:
                self.keys.revoke(application, rest)
            self.drop(application, prepared)
        return len(numbers | prepared)

    def log_events(self, events: Mapping[tuple[str, str], Sequence[str]]) -> None:
        """Write events in one transaction: the subjects of each action and application."""
        if not events:
            return
        key, now, position = self.keys.audit_key(), int(time.time()), self.keys.state().position
        with self._changing:
            with self.store._writing() as connection:
                for (action, application), subjects in events.items():
                    names = pseudonyms(key, application, subjects)
                    event = AuditEvent(action, application, len(names), names, position, now)
                    self.store._log(connection, event)
            self._settle(next(iter(events))[1])

    def _check_shares(self, application: Application, shares: Sequence[Share]) -> None:
        size = code_bytes(application.encoding)
        if not 1 <= len(shares) <= MAX_REFERENCES or len({each.record for each in shares}) != len(shares):
            raise EnrolmentError(f"expected 1 to {MAX_REFERENCES} shares of different records, received {len(shares)}")
        for each in shares:
            sizes = len(each.code), len(each.secret), len(each.commitment)
            if sizes != (size, SECRET_BYTES, COMMITMENT_BYTES) or len(each.sealed) > MAX_SEALED or each.epoch:
                raise EnrolmentError(
                    f"share: expected {size} bytes of a code, {SECRET_BYTES} of a secret and {COMMITMENT_BYTES} of a "
                    f"commitment, received {sizes}"
                )

    def _check_subject(
        self, application: str, subject_id: str, replaces: Collection[int], *, another: bool, allow_revoked: bool
    ) -> None:
        valid = [each.record for each in self._valid(application, subject_id)]
        left = [each for each in valid if each not in replaces]
        if left and not another:
            raise AlreadyEnrolledError(
                f"subject {subject_id!r} is enrolled already; renew it, or add another reference", subject_id=subject_id
            )
        if len(left) >= MAX_REFERENCES:
            raise EnrolmentError(f"subject {subject_id!r} has {MAX_REFERENCES} references, which is the most")
        if not valid and not (allow_revoked or replaces) and self._was_revoked(application, subject_id):
            raise revoked_subject(subject_id)

    def _check_new(self, application: str, transaction: int, references: Sequence[Reference]) -> None:
        """Record numbers are used once, whatever became of them."""
        states = self.states(application, [each.record for each in references])
        if any(state.name != "unknown" for state in states):
            raise EnrolmentError("a record number was used before; enrol again")
        if any(each.transaction == transaction for each in self.prepared(application)):
            raise EnrolmentError("a transaction number was used before; enrol again")

    def _check_commit(self, application: str, prepared: Sequence[Prepared]) -> None:
        if prepared[0].made + PREPARED_SECONDS <= time.time():
            raise EnrolmentError("the enrolment was prepared more than an hour ago; enrol again")
        subject_id, replaces = prepared[0].reference.subject_id, prepared[0].replaces
        another = prepared[0].kind == ADDITION
        self._check_subject(application, subject_id, replaces, another=another, allow_revoked=True)

    def _commit_enrolment(self, application: str, prepared: Sequence[Prepared]) -> None:
        new, replaces = [each.reference for each in prepared], prepared[0].replaces
        subject_id = new[0].subject_id
        old = [each for each in self.valid(application, replaces) if each.subject_id == subject_id]
        slots = iter([each.slot for each in old])
        new = [each.changed(slot=next(slots, UNSLOTTED)) for each in new]
        gone = [tombstone_of(self.keys, each) for each in old]
        event = self.event("renew" if replaces else "enroll", application, [subject_id] * len(new))
        with self.store._writing(deletes=True) as connection:
            number = self.store.application_id(application)
            self.store._revoke(connection, number, gone)
            self.store._insert(connection, number, new)
            if self._delete(connection, new) != len(new):
                raise EnrolmentError("the transaction was given up on this server; enrol again")
            self.store._log(connection, event, added=len(new), revoked=len(gone))
        self._settle(application, revoked=gone)

    def _commit_refresh(self, application: str, prepared: Sequence[Prepared]) -> None:
        new = [each.reference for each in prepared]
        valid = {each.record: each.epoch for each in self.valid(application, [each.record for each in new])}
        new = [each for each in new if valid.get(each.record) == each.epoch - 1]  # others were revoked since
        event = self.event("refresh", application, [each.subject_id for each in new])
        with self.store._writing(deletes=True) as connection:
            number = self.store.application_id(application)
            version = self.store._next_version(connection, number)
            for each in new:
                values = dict(epoch=each.epoch, code=each.code, seal=each.seal, metadata=each.metadata)
                connection.execute(
                    _REFRESH.values(**values, version=version), {"of_id": number, "of_record": each.record}
                )
            self._delete(connection, [each.reference for each in prepared])
            self.store._log(connection, event)
        self._settle(application)

    def _reference(self, application: str, subject_id: str, share: Share, *, created: int) -> Reference:
        bare = Reference(
            application, subject_id, UNSLOTTED, share.record, share.epoch, share.code, b"", share.metadata(), created
        )
        return sealed(self.keys, application, bare)

    @staticmethod
    def _delete(connection: sa.Connection, references: Sequence[Reference]) -> int:
        rows = [{"of_name": each.application, "of_record": each.record} for each in references]
        return connection.execute(_DELETE, rows).rowcount


def _row(
    transaction: int, kind: str, reference: Reference, replaces: Collection[int], now: int
) -> dict[str, int | str | bytes]:
    return {
        "application": reference.application,
        "record": reference.record,
        "number": transaction,
        "created": reference.created,
        "made": now,
        "kind": kind,
        "subject": reference.subject_id,
        "metadata": reference.metadata,
        "replaces": json.dumps(sorted(replaces)),
        "epoch": reference.epoch,
        "code": reference.code,
        "seal": reference.seal,
    }


def _prepared_of(row: Any) -> Prepared:
    try:
        replaces = tuple(map(int, parse_json(row.replaces)))
    except (ValueError, TypeError):
        raise tampered(f"the prepared record {row.record}") from None
    reference = Reference(
        row.application, row.subject, UNSLOTTED, row.record, row.epoch, row.code, row.seal, row.metadata, row.created
    )
    return Prepared(row.number, row.kind, reference, replaces, row.made)


def _no_hasher() -> FaceHasher:
    raise EnrolmentError("a share store enrols and verifies through a split gallery (split://...)")
