"""Record store: durable references without keys, in SQL (SQLAlchemy Core), chosen by a URL."""

import abc
import contextlib
import dataclasses
import importlib
import itertools
import operator
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from iom._registry import did_you_mean, with_scheme
from iom.codes.packing import code_bytes
from iom.errors import (
    AlreadyEnrolledError,
    CodeError,
    EnrolmentError,
    RevokedError,
    StoreError,
    UnknownApplicationError,
    needs_extra,
)
from iom.gallery.models import (
    ALL,
    PSEUDONYM_BYTES,
    UNSLOTTED,
    Application,
    AuditChain,
    AuditEntry,
    AuditEvent,
    Counts,
    Reference,
    Shard,
    Tombstone,
    check_application_name,
    revoked_epoch,
    revoked_subject,
    tampered,
)

FORMAT = 2
"""Format of the tables; `iom.gallery.migration` converts older ones."""
PAGE = 4096
"""References read at a time."""


@dataclasses.dataclass(frozen=True)
class StoreStats:
    """Counts of an application: subjects with valid references, these references, and tombstones."""

    subjects: int
    references: int
    revoked: int


class _Blob(sa.types.UserDefinedType[bytes]):
    """BLOB without conversion: SQLite stores values of any type in any column, and they are checked here."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "BLOB"


METADATA = sa.MetaData()
BYTES = sa.LargeBinary().with_variant(_Blob(), "sqlite")
LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_FLAG = sa.Boolean().with_variant(sa.Integer(), "sqlite")
# Names are compared byte by byte, whatever the language of the database.
NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


_TYPES: dict[str, Any] = dict(integer=sa.Integer(), long=LONG, flag=_FLAG, text=sa.Text(), name=NAME, bytes=BYTES)


def _columns(text: str) -> list[sa.Column[Any]]:
    pairs = (each.split() for each in text.split(","))
    return [sa.Column(name, _TYPES[kind], nullable=False) for name, kind in pairs]


def _record_key() -> list[sa.Column[Any]]:
    return [
        sa.Column("application", sa.ForeignKey("applications.id"), primary_key=True, autoincrement=False),
        sa.Column("record", LONG, primary_key=True, autoincrement=False),
    ]


APPLICATIONS = sa.Table(
    "applications",
    METADATA,
    sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
    sa.Column("name", NAME, nullable=False, unique=True),
    *_columns("encoding text, model text, threshold integer, key_mode text, masked flag"),
    *_columns("epoch integer, created long, revision long, seal bytes"),
    sa.Column("version", LONG, nullable=False, server_default=sa.text("0")),
)
REFERENCES = sa.Table(
    "reference_codes",
    METADATA,
    *_record_key(),
    *_columns("subject name, slot integer, epoch integer, code bytes, seal bytes, metadata text, created long"),
    *_columns("version long"),
    sa.Index("slots", "application", "subject", "slot", unique=True),
    sa.Index("added", "application", "version"),
    sqlite_with_rowid=False,
)
TOMBSTONES = sa.Table(
    "tombstones",
    METADATA,
    *_record_key(),
    *_columns("subject name, epoch integer, seal bytes, version long"),
    sa.Index("revoked", "application", "version"),
    sa.Index("revoked_subjects", "application", "subject"),
    sqlite_with_rowid=False,
)
AUDIT = sa.Table(
    "audit",
    METADATA,
    sa.Column("sequence", LONG, primary_key=True, autoincrement=False),
    *_columns("time long, action text, application text, count integer, subjects bytes, key_entries long"),
    *_columns("valid long, revoked long, revision long, previous bytes, digest bytes"),
    sa.Index("audit_applications", "application", "sequence"),
)

# Columns in the order of the fields of their classes.
_APPLICATION = [APPLICATIONS.c[field.name] for field in dataclasses.fields(Application)]
_REFERENCE = [REFERENCES.c[n] for n in ("subject", "slot", "record", "epoch", "code", "seal", "metadata", "created")]
_TOMBSTONE = [TOMBSTONES.c[name] for name in ("subject", "record", "epoch", "seal")]
_FIXED = ("shape", "model", "key_mode", "masked")
"""Settings that codes depend on."""


def _types(columns: Iterable[sa.Column[Any]]) -> tuple[type, ...]:
    return tuple(column.type.python_type for column in columns)


_APPLICATION_TYPES, _REFERENCE_TYPES, _TOMBSTONE_TYPES = map(_types, (_APPLICATION, _REFERENCE, _TOMBSTONE))
_ENTRY_TYPES = _types(AUDIT.c)

# Statements are built once: building one takes as long as running it.
_ID = sa.bindparam("of_id", type_=sa.Integer)
_SINCE = sa.bindparam("since", type_=LONG)
_OF_NAME = sa.select(APPLICATIONS.c.id, APPLICATIONS.c.version, *_APPLICATION).where(
    APPLICATIONS.c.name == sa.bindparam("name")
)
_REFERENCES_OF_SUBJECT = (
    sa.select(*_REFERENCE)
    .where(REFERENCES.c.application == _ID, REFERENCES.c.subject == sa.bindparam("of_subject"))
    .order_by(REFERENCES.c.slot)
)
_IN_SHARD = sa.and_(
    REFERENCES.c.application == _ID,
    (REFERENCES.c.record // sa.bindparam("block", type_=LONG)) % sa.bindparam("shards", type_=LONG)
    == sa.bindparam("number", type_=LONG),
)
_AFTER, _UNTIL, _LIMIT = (sa.bindparam(name, type_=LONG) for name in ("after", "until", "limit"))
_PAGE_OF_ALL = (
    sa.select(*_REFERENCE)
    .where(_IN_SHARD, REFERENCES.c.record > _AFTER, REFERENCES.c.record < _UNTIL)
    .order_by(REFERENCES.c.record)
    .limit(_LIMIT)
)
# Few references were added since a version: materialized, and without bounds of the record within, so that they are
# found by the index on versions.
_ADDED = (
    sa.select(*_REFERENCE)
    .where(_IN_SHARD, REFERENCES.c.version > _SINCE)
    .cte("added_since")
    .prefix_with("MATERIALIZED")
)
_PAGE_OF_ADDED = (
    sa.select(_ADDED).where(_ADDED.c.record > _AFTER, _ADDED.c.record < _UNTIL).order_by(_ADDED.c.record).limit(_LIMIT)
)
_TOMBSTONES_SINCE = sa.select(*_TOMBSTONE).where(TOMBSTONES.c.application == _ID, TOMBSTONES.c.version > _SINCE)
# The inner query is answered by the index on subjects alone.
_OF_SUBJECT = sa.select(TOMBSTONES.c.record).where(
    TOMBSTONES.c.application == _ID, TOMBSTONES.c.subject == sa.bindparam("of_subject")
)
_TOMBSTONES_OF_SUBJECT = _TOMBSTONES_SINCE.where(TOMBSTONES.c.record.in_(_OF_SUBJECT))
_ENTRIES = (
    sa.select(AUDIT)
    .where(AUDIT.c.sequence > sa.bindparam("after"))
    .order_by(AUDIT.c.sequence)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)
_HEAD = sa.select(AUDIT).order_by(AUDIT.c.sequence.desc()).limit(1)
_HEAD_OF_APPLICATION = _HEAD.where(AUDIT.c.application == sa.bindparam("name"))
_NEXT_VERSION = (
    sa.update(APPLICATIONS)
    .where(APPLICATIONS.c.id == _ID)
    .values(version=APPLICATIONS.c.version + 1)
    .returning(APPLICATIONS.c.version)
)
_DELETE_REFERENCE = sa.delete(REFERENCES).where(
    *(REFERENCES.c[name] == sa.bindparam(name) for name in ("application", "record", "subject"))
)

_RECODE = (
    sa.update(REFERENCES)
    .where(REFERENCES.c.application == _ID, REFERENCES.c.record == sa.bindparam("of_record", type_=LONG))
    .values(code=sa.bindparam("new_code"), seal=sa.bindparam("new_seal"))
)


class RecordStore(contextlib.AbstractContextManager["RecordStore"]):
    """Applications, references, tombstones and the audit log.

    Each write is one transaction that includes its audit event, durable when the call returns: after a crash all of it
    is there or nothing. Several processes may write at the same time. A write raises the version of its application.
    Errors of the medium (full, read-only, damaged, locked, unreachable) are a `StoreError` of one line without codes.

    A subclass connects, holds the write lock, and explains errors. A store has one connection, used by one thread at a
    time: reads within a write are part of its transaction.

    Attributes:
        chain: Makes the entries of the audit log; a gallery sets the one of its key store.
        is_new: Whether the store was made by this object.
    """

    _owner: sa.Select[tuple[str]]
    _set_owner: sa.Executable

    def __init__(self, *, is_new: bool = False) -> None:
        self.chain = AuditChain()
        self.is_new = is_new

    def __exit__(self, *_: object) -> None:
        self.close()

    def pages(
        self, application: str, *, since: int = 0, limit: int = PAGE, shard: Shard = ALL
    ) -> Iterator[list[Reference]]:
        """All valid references of a shard by record number, at most `limit` at a time, as `scan` reads them.

        The blocks of a shard are read one by one, so that those of others cost nothing.
        """
        if shard.shards > 1 and not since:
            yield from self._blocks(application, shard)
            return
        after = -1
        while page := self.scan(application, after=after, since=since, limit=limit, shard=shard):
            yield page
            after = page[-1].record

    def _blocks(self, application: str, shard: Shard) -> Iterator[list[Reference]]:
        start = shard.first(0)
        while True:
            stop = (start // shard.block + 1) * shard.block
            page = self.scan(application, after=start - 1, until=stop, limit=shard.block, shard=shard)
            start = shard.first(stop)
            if page:
                yield page
            elif following := self.scan(application, after=stop - 1, limit=1):  # numbers may have large gaps
                start = shard.first(following[0].record)
            else:
                return

    def whole_audit(self) -> Iterator[AuditEntry]:
        """All entries of the audit log, in order."""
        after = 0
        while entries := self.audit(after=after):
            yield from entries
            after = entries[-1].sequence

    @abc.abstractmethod
    def close(self) -> None:
        """Release everything; a second call does nothing."""

    def owner(self) -> str:
        """Identity of the key store this store belongs to; empty until it is claimed."""
        return "".join(row[0] for row in self._rows(self._owner))

    def claim(self, owner: str) -> None:
        """Set the owner, once; `StoreError` if there is another one."""
        if not self.owner():
            with self._writing() as connection:
                if not self.owner():
                    connection.execute(self._set_owner, {"owner": owner})
        if self.owner() != owner:
            raise self._error("belongs to another key store, of another master")

    @abc.abstractmethod
    def erase(self) -> None:
        """Overwrite remains of deleted content as far as the medium can; slow."""

    @abc.abstractmethod
    def snapshot(self) -> contextlib.AbstractContextManager["RecordStore"]:
        """This store for reading only, as it is now, without later writes."""

    @abc.abstractmethod
    def _rows(
        self, statement: sa.Executable, values: Mapping[str, Any] | None = None, *, whole_table: bool = False
    ) -> Sequence[Any]:
        """All rows of a query; `whole_table` is for one that takes long."""

    @abc.abstractmethod
    def _writing(self, *, deletes: bool = False) -> contextlib.AbstractContextManager[sa.Connection]:
        """A transaction that holds the write lock from its start; rolled back on any error."""

    @abc.abstractmethod
    def _is_among(self, column: sa.Column[Any], values: Collection[Any]) -> sa.ColumnElement[bool]:
        """Whether a column has one of many values, bound as one parameter."""

    @abc.abstractmethod
    def _set_format(self, connection: sa.Connection, number: int) -> None:
        """Write the format of the tables."""

    @abc.abstractmethod
    def _medium_problems(self) -> list[str]:
        """Problems of the medium."""

    @abc.abstractmethod
    def _error(self, text: str) -> StoreError:
        """The error of this store with a text."""

    @contextlib.contextmanager
    def converting(self) -> Iterator[sa.Connection]:
        """A transaction that converts the tables of an older format to the present one."""
        with self._writing(deletes=True) as connection:
            yield connection
            self._set_format(connection, FORMAT)

    def create_application(self, application: Application, event: AuditEvent) -> None:
        """Add an application; `EnrolmentError` if its name is taken."""
        with self._writing() as connection:
            try:
                connection.execute(sa.insert(APPLICATIONS), dataclasses.asdict(application))
            except sa.exc.IntegrityError:
                raise EnrolmentError(f"there is an application {application.name} already") from None
            self.append(connection, event, Counts(revision=application.revision))

    def update_application(
        self, application: Application, event: AuditEvent, *, retired: Sequence[Tombstone] | None = None
    ) -> None:
        """Change threshold, comparison and epoch of an application; with `retired`, revoke all older references, too.

        Raises:
            EnrolmentError: Unknown application, another setting differs, or epoch or revision are below the stored
                ones.
            RevokedError: `retired` are not the tombstones of all older references, since another process wrote in
                between; nothing was written.
        """
        with self._writing(deletes=retired is not None) as connection:
            self._update(connection, application)
            if retired is not None:
                number = self.application_id(application.name)
                self._revoke(connection, number, retired)
                is_older = (REFERENCES.c.application == number, REFERENCES.c.epoch < application.epoch)
                if self._rows(sa.select(REFERENCES.c.record).where(*is_older).limit(1)):
                    raise RevokedError(
                        f"application {application.name}: references were added in the meantime; nothing was changed"
                    )
            self._log(connection, event, revoked=len(retired or ()), revision=application.revision)

    def mask(
        self,
        name: str,
        masked: Callable[[Application, list[Reference]], list[Reference]],
        changed: Callable[[Application], tuple[Application, AuditEvent]],
    ) -> Application:
        """Put all codes of an application under masks, in one transaction; one that has masks is left as it is.

        Args:
            name: Application.
            masked: The references of a page with other codes and seals; called within the transaction.
            changed: Settings with masks, and the event for the audit log; called last.

        Returns:
            The settings as stored.
        """
        with self._writing(deletes=True) as connection:
            known, number = self.application(name), self.application_id(name)
            if known.masked:
                return known
            for page in self.pages(name):
                rows = [
                    dict(of_id=number, of_record=each.record, new_code=each.code, new_seal=each.seal)
                    for each in masked(known, page)
                ]
                connection.execute(_RECODE, rows)
            application, event = changed(known)
            values = {each: getattr(application, each) for each in ("masked", "revision", "seal")}
            update = sa.update(APPLICATIONS).where(APPLICATIONS.c.id == number)
            connection.execute(update.values(**values, version=APPLICATIONS.c.version + 1))
            self._log(connection, event, revision=application.revision)
        return application

    def application(self, name: str) -> Application:
        """One application; `UnknownApplicationError` if there is none."""
        return _application_of(self._of_name(name)[2:])

    def applications(self) -> list[Application]:
        """All applications, by name."""
        return [_application_of(row) for row in self._rows(sa.select(*_APPLICATION).order_by(APPLICATIONS.c.name))]

    def add(
        self,
        references: Sequence[Reference],
        event: AuditEvent,
        *,
        another: bool = False,
        returning: bool = False,
        imported: bool = False,
        masked: bool = False,
        beside: Callable[[sa.Connection], None] | None = None,
    ) -> list[Reference]:
        """Add references of one application, all or none; return them with their slots.

        Args:
            references: References, also several of one subject.
            event: Event for the audit log.
            another: Admit subjects that have a valid reference already.
            returning: Admit subjects that were revoked and have no valid reference.
            imported: Admit references that were enrolled before, whatever their subject and epoch.
            masked: Whether the codes are under masks, as those of the application must be.
            beside: Writes to tables of its own, within the transaction.

        Raises:
            AlreadyEnrolledError: A subject has a valid reference.
            RevokedError: A record or a subject was revoked, or, in key mode `application`, a subject was revoked under
                the key of this epoch or a later one.
            EnrolmentError: A slot or record is taken, or epoch or masking are not the application's.
        """
        if not references:
            return []
        name = references[0].application
        with self._writing() as connection:
            number = self.application_id(name)
            self._refuse_masking(name, masked=masked)
            if not imported:
                self._refuse_subjects(number, references, another=another, returning=returning)
                self._refuse_epoch(name, number, references)
            added = self._insert(connection, number, references, no_slot_taken=not (another or imported))
            if beside is not None:
                beside(connection)
            self._log(connection, event, added=len(added))
        return added

    def replace(
        self,
        tombstones: Sequence[Tombstone],
        new: Sequence[Reference],
        event: AuditEvent,
        *,
        masked: bool = False,
        beside: Callable[[sa.Connection], None] | None = None,
    ) -> list[Reference]:
        """Revoke references and add others of the same subject in one transaction, as `revoke` and `add` do."""
        name = new[0].application
        with self._writing(deletes=True) as connection:
            number = self.application_id(name)
            self._refuse_masking(name, masked=masked)
            self._revoke(connection, number, tombstones)
            self._refuse_epoch(name, number, new)
            added = self._insert(connection, number, new)
            if beside is not None:
                beside(connection)
            self._log(connection, event, added=len(added), revoked=len(tombstones))
        return added

    def revoke(self, application: str, tombstones: Sequence[Tombstone], event: AuditEvent) -> None:
        """Delete the codes of valid records and leave tombstones, all or none.

        Raises:
            RevokedError: One of the records is not valid any more.
        """
        with self._writing(deletes=True) as connection:
            self._revoke(connection, self.application_id(application), tombstones)
            self._log(connection, event, revoked=len(tombstones))

    def references(self, application: str, subject_id: str) -> list[Reference]:
        """Valid references of a subject, by slot."""
        rows = self._rows(_REFERENCES_OF_SUBJECT, {"of_id": self.application_id(application), "of_subject": subject_id})
        return [_reference_of(application, row) for row in rows]

    def by_record(self, application: str, records: Sequence[int]) -> list[Reference]:
        """Valid references among `records`, by record number."""
        number, wanted = self.application_id(application), {int(record) for record in records}
        if not wanted:
            return []
        of_records = sa.select(*_REFERENCE).where(
            REFERENCES.c.application == number, self._is_among(REFERENCES.c.record, wanted)
        )
        return [_reference_of(application, row) for row in self._rows(of_records.order_by(REFERENCES.c.record))]

    def scan(
        self,
        application: str,
        *,
        after: int = -1,
        until: int = 2**63 - 1,
        since: int = 0,
        limit: int = PAGE,
        shard: Shard = ALL,
    ) -> list[Reference]:
        """At most `limit` valid references of a shard, by number.

        Those above `after` and below `until` that were added after version `since`.
        """
        number = self.application_id(application)
        place = {"of_id": number, "after": after, "until": until, "since": since, "limit": limit}
        values = place | shard._asdict()
        rows = self._rows(_PAGE_OF_ADDED if since else _PAGE_OF_ALL, values)
        return [_reference_of(application, row) for row in rows]

    def tombstones(self, application: str, *, since: int = 0, subject_id: str | None = None) -> list[Tombstone]:
        """Tombstones of revocations after version `since`, of one subject if given, by record number."""
        values = {"of_id": self.application_id(application), "since": since, "of_subject": subject_id}
        rows = self._rows(_TOMBSTONES_SINCE if subject_id is None else _TOMBSTONES_OF_SUBJECT, values)
        found = [Tombstone(*_checked(row, _TOMBSTONE_TYPES, "tombstone")) for row in rows]
        return sorted(found, key=lambda each: each.record)

    def version(self, application: str) -> int:
        """Number of writes to the application."""
        return int(_checked(self._of_name(application)[:2], (int, int), "version")[1])

    def stats(self, application: str) -> StoreStats:
        """Counts of an application."""
        number = self.application_id(application)
        valid = sa.select(sa.func.count(REFERENCES.c.subject.distinct()), sa.func.count()).where(
            REFERENCES.c.application == number
        )
        revoked = sa.select(sa.func.count()).where(TOMBSTONES.c.application == number)
        ((subjects, references),) = self._rows(valid, whole_table=True)
        return StoreStats(subjects, references, self._rows(revoked)[0][0])

    def log(self, event: AuditEvent) -> None:
        """Write an event without another change."""
        with self._writing() as connection:
            self._log(connection, event)

    def audit(self, *, after: int = 0, limit: int = PAGE) -> list[AuditEntry]:
        """Entries of the audit log after sequence number `after`, in order."""
        return [_entry_of(row) for row in self._rows(_ENTRIES, {"after": after, "limit": limit})]

    def audit_head(self, application: str | None = None) -> AuditEntry | None:
        """The last entry of the audit log, or the last one about an application."""
        rows = self._rows(_HEAD) if application is None else self._rows(_HEAD_OF_APPLICATION, {"name": application})
        return _entry_of(rows[0]) if rows else None

    def check(self) -> list[str]:
        """Problems of the medium and its content, one line each; empty when there are none.

        Checked are the integrity of the medium, the lengths of codes, and that no record is both valid and revoked;
        seals and the audit chain are checked by the gallery, which has the keys.
        """
        try:
            return self._medium_problems() or list(self._content_problems())
        except StoreError as error:
            return [str(error)]

    def application_id(self, name: str) -> int:
        """Number of an application in the tables."""
        return int(self._of_name(name)[0])

    def append(self, connection: sa.Connection, event: AuditEvent, counts: Counts) -> None:
        """Write an event behind the last entry of the audit log."""
        last = self.audit_head()
        entry = self.chain.following(event, counts, (last.sequence, last.digest) if last else None)
        values = (
            *(entry.sequence, event.time, event.action, event.application, event.count),
            *(b"".join(event.subjects), event.key_entries, *dataclasses.astuple(counts)),
            *(entry.previous, entry.digest),
        )
        connection.execute(sa.insert(AUDIT), dict(zip(AUDIT.c.keys(), values, strict=True)))

    def _of_name(self, name: str) -> Any:
        """Id and version of an application, and its fields."""
        try:
            rows = self._rows(_OF_NAME, {"name": check_application_name(name)})
        except EnrolmentError:
            rows = []
        if not rows:
            raise UnknownApplicationError(
                f"no application {str(name)[:64]!a}; see iom stats, or iom init", application=name
            )
        return rows[0]

    def _content_problems(self) -> Iterator[str]:
        columns = (APPLICATIONS.c.name, APPLICATIONS.c.id, APPLICATIONS.c.encoding)
        for name, number, encoding in self._rows(sa.select(*columns).order_by(APPLICATIONS.c.name)):
            count = sa.select(sa.func.count()).where(REFERENCES.c.application == number)
            revoked = sa.select(TOMBSTONES.c.record).where(TOMBSTONES.c.application == number)
            wrong = count.where(sa.func.length(REFERENCES.c.code) != code_bytes(encoding))
            both = count.where(REFERENCES.c.record.in_(revoked))
            for query, problem in ((wrong, "codes of a wrong length"), (both, "records that are valid and revoked")):
                if found := self._rows(query, whole_table=True)[0][0]:
                    yield str(self._error(f"application {name}: {found} {problem}"))

    def _update(self, connection: sa.Connection, application: Application) -> None:
        known = self.application(application.name)
        for name in _FIXED:
            if getattr(known, name) != getattr(application, name):
                raise EnrolmentError(
                    f"application {known.name}: its {name} cannot be changed; make a new application and enrol again"
                )
        if application.revision <= known.revision:
            raise EnrolmentError(
                f"application {known.name} was changed by another process in the meantime; nothing was written. "
                "Try again"
            )
        if application.epoch < known.epoch:
            raise EnrolmentError(
                f"application {known.name}: expected key epoch {known.epoch} or later, received {application.epoch}"
            )
        changes = {name: getattr(application, name) for name in ("encoding", "threshold", "epoch", "revision", "seal")}
        changed = sa.update(APPLICATIONS).where(APPLICATIONS.c.name == application.name)
        connection.execute(changed.values(**changes, version=APPLICATIONS.c.version + 1))

    def _log(self, connection: sa.Connection, event: AuditEvent, **changes: int) -> None:
        """Write an event with the counts of its application after `changes`, see `Counts.changed`."""
        name, counts = event.application, Counts()
        if name:
            counts = self.chain.counts_of(self.audit_head(name), name).changed(**changes)
        self.append(connection, event, counts)

    def _next_version(self, connection: sa.Connection, number: int) -> int:
        return int(connection.execute(_NEXT_VERSION, {"of_id": number}).scalar_one())

    def _revoke(self, connection: sa.Connection, number: int, tombstones: Sequence[Tombstone]) -> None:
        """Delete valid records and insert tombstones; raises the version."""
        version = self._next_version(connection, number)
        if not tombstones:
            return
        common = {"application": number, "version": version}
        rows = [
            common | dict(subject=each.subject_id, record=each.record, epoch=each.epoch, seal=each.seal)
            for each in tombstones
        ]
        if connection.execute(_DELETE_REFERENCE, rows).rowcount != len(rows):
            subjects = {each.subject_id for each in tombstones}
            raise RevokedError(
                "a record is not valid any more; nothing was changed",
                subject_id=subjects.pop() if len(subjects) == 1 else "",
            )
        connection.execute(sa.insert(TOMBSTONES), rows)

    def _insert(
        self, connection: sa.Connection, number: int, references: Sequence[Reference], *, no_slot_taken: bool = False
    ) -> list[Reference]:
        """Assign slots and insert; raises the version."""
        version = self._next_version(connection, number)
        subjects = {each.record: each.subject_id for each in references}
        revoked = sa.select(TOMBSTONES.c.record).where(
            TOMBSTONES.c.application == number, self._is_among(TOMBSTONES.c.record, subjects)
        )
        for (record,) in self._rows(revoked.limit(1)):
            raise RevokedError(f"record {record} was revoked; it is never used again", subject_id=subjects[record])
        taken: dict[str, set[int]] = {}
        if not no_slot_taken:
            slots = sa.select(REFERENCES.c.subject, REFERENCES.c.slot).where(
                REFERENCES.c.application == number, self._is_among(REFERENCES.c.subject, set(subjects.values()))
            )
            for subject, slot in self._rows(slots):
                taken.setdefault(subject, set()).add(slot)
        placed = _with_slots(references, taken)
        values = operator.attrgetter("record", "subject_id", "slot", "epoch", "code", "seal", "metadata", "created")
        # The driver takes tuples: with a dictionary for each row, an insert takes more than twice as long.
        marks = ", ".join(["?" if connection.dialect.paramstyle == "qmark" else "%s"] * len(REFERENCES.c))
        rows = [(number, *values(each), version) for each in placed]
        try:
            connection.exec_driver_sql(f"INSERT INTO {REFERENCES} VALUES ({marks})", rows)  # noqa: S608
        except sa.exc.IntegrityError:
            raise EnrolmentError("a slot or a record number is taken already") from None
        return placed

    def _refuse_subjects(self, number: int, references: Sequence[Reference], *, another: bool, returning: bool) -> None:
        subjects = {each.subject_id for each in references}

        def with_rows_in(table: sa.Table) -> set[str]:
            found = sa.select(table.c.subject).distinct().where(table.c.application == number)
            return {row[0] for row in self._rows(found.where(self._is_among(table.c.subject, subjects)))}

        enrolled = with_rows_in(REFERENCES)
        if enrolled and not another:
            subject_id = min(enrolled)
            raise AlreadyEnrolledError(
                f"subject {subject_id!r} is enrolled already; renew it, or add another reference", subject_id=subject_id
            )
        if not returning and (gone := with_rows_in(TOMBSTONES) - enrolled):
            raise revoked_subject(min(gone))

    def _refuse_masking(self, name: str, *, masked: bool) -> None:
        if self.application(name).masked != masked:
            raise EnrolmentError(
                f"application {name}: its codes were put under masks in the meantime; nothing was written. Try again"
            )

    def _refuse_epoch(self, name: str, number: int, references: Sequence[Reference]) -> None:
        """In key mode `application`, refuse other epochs and subjects that were revoked under this one."""
        application = self.application(name)
        if application.key_mode != "application":
            return
        if any(reference.epoch != application.epoch for reference in references):
            raise EnrolmentError(
                f"application {name}: its key was rotated in the meantime; nothing was written. Try again"
            )
        found = sa.select(TOMBSTONES.c.subject).where(
            TOMBSTONES.c.application == number,
            TOMBSTONES.c.epoch >= application.epoch,
            self._is_among(TOMBSTONES.c.subject, {each.subject_id for each in references}),
        )
        for (subject_id,) in self._rows(found.limit(1)):
            raise revoked_epoch(subject_id, name)


def _application_of(row: Sequence[Any]) -> Application:
    values = [*row[:5], bool(row[5]), *row[6:]]
    try:
        return Application(*_checked(values, _APPLICATION_TYPES, "application"))
    except (CodeError, EnrolmentError) as error:
        raise tampered(f"the record store: {error}") from error


def _reference_of(application: str, row: Sequence[Any]) -> Reference:
    return Reference(application, *_checked(row, _REFERENCE_TYPES, "reference"))


def _entry_of(row: Sequence[Any]) -> AuditEntry:
    row = _checked(row, _ENTRY_TYPES, "audit entry")
    sequence, time, action, application, count, joined, key_entries, *counts = row[:10]
    starts = range(0, len(joined), PSEUDONYM_BYTES)
    subjects = tuple(joined[start : start + PSEUDONYM_BYTES] for start in starts)
    event = AuditEvent(action, application, count, subjects, key_entries, time)
    return AuditEntry(sequence, event, Counts(*counts), *row[10:])


def _checked(row: Sequence[Any], types: tuple[type, ...], noun: str) -> Sequence[Any]:
    """A row with values of the right types: SQLite stores any in any column."""
    if tuple(map(type, row)) != types:
        found = next(
            type(value).__name__ for value, expected in zip(row, types, strict=True) if type(value) is not expected
        )
        raise tampered(f"the record store holds a value of a wrong type ({found}) in a row ({noun})")
    return row


def _with_slots(references: Sequence[Reference], used: dict[str, set[int]]) -> list[Reference]:
    """References with the lowest free slot of their subject where they have none; `used` is changed."""
    placed = []
    for reference in references:
        slots = used.setdefault(reference.subject_id, set())
        if reference.slot == UNSLOTTED:
            reference = reference.changed(slot=next(slot for slot in itertools.count() if slot not in slots))
        slots.add(reference.slot)
        placed.append(reference)
    return placed


STORES = {"sqlite": "iom.gallery.stores.sqlite", "postgresql": "iom.gallery.stores.postgres"}
"""Module with `open_url(url, *, create, format)` by the scheme of a URL, which is also the extra of its driver."""


def open_store(url: str | os.PathLike[str], *, create: bool = False, format: int = FORMAT) -> RecordStore:
    """The record store of a path or URL: `gallery.db`, `sqlite:///gallery.db`, `postgresql://...`.

    Args:
        url: Scheme and place; a text without a colon is the path of a SQLite file. A path follows `sqlite:///`, so
            that an absolute one has four slashes; `?mode=ro` behind it opens the file for reading only.
        create: Make a new store; else it must exist.
        format: Expected format; an older one only for its conversion.

    Raises:
        StoreNotFoundError: The store is missing.
        StoreError: Unknown scheme, or the store exists already, is damaged, of another format or unreachable.
        MissingExtraError: The driver of the store is not installed.
    """
    url = with_scheme(url, "sqlite:///")
    scheme, separator, _ = url.partition("://")
    if url.startswith("milvus:"):
        raise StoreError(
            "record store: Milvus is no longer supported. The whole gallery is in the record store that the URL names "
            "behind record=; open that one by its own URL"
        )
    if not separator or scheme not in STORES:
        raise StoreError(
            f"record store: expected a URL {'://..., '.join(STORES)}://..., received the scheme "
            f"'{scheme if separator else ''}'{did_you_mean(url.partition(':')[0], STORES)}"
        )
    with needs_extra(f"a record store {scheme}://", scheme):
        module = importlib.import_module(STORES[scheme])
    store: RecordStore = module.open_url(url, create=create, format=format)
    return store
