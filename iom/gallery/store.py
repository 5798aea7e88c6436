"""The record store: durable references without keys, behind one interface; chosen by a URL."""

import abc
import dataclasses
import importlib
from collections.abc import Sequence
from typing import NamedTuple

from iom.codes.packing import PackedCodes
from iom.errors import StoreError, missing_extra
from iom.gallery.audit import AuditEntry, AuditEvent
from iom.gallery.closing import Closing
from iom.gallery.record import Application, Reference, Tombstone
from iom.lookup import did_you_mean

PAGE = 4096
"""References that are read or written at a time."""


class Hit(NamedTuple):
    """A record and its distance to a probe."""

    record: int
    distance: int


class StoredCode(NamedTuple):
    """Of a valid reference what a search in memory needs."""

    record: int
    epoch: int
    code: bytes


@dataclasses.dataclass(frozen=True)
class StoreStats:
    """How much an application holds: subjects and references that are valid, and tombstones."""

    subjects: int
    references: int
    revoked: int


class RecordStore(Closing):
    """Applications, references, tombstones and the audit log.

    Each write is one transaction, durable when the call returns, with its audit event in it: after
    a crash all of it is there or nothing. Several processes may write at the same time. A write
    raises the version of its application. Errors of the medium (full, read-only, damaged, locked,
    unreachable) are a `StoreError` of one line without codes.
    """

    @abc.abstractmethod
    def owner(self) -> str:
        """Identity of the key store this store belongs to, or empty while none has claimed it."""

    @abc.abstractmethod
    def claim(self, owner: str) -> None:
        """Set the owner, once.

        Raises:
            StoreError: Another owner is set.
        """

    @abc.abstractmethod
    def create_application(self, application: Application, event: AuditEvent) -> None:
        """Add an application.

        Raises:
            EnrolmentError: The name is taken.
        """

    @abc.abstractmethod
    def update_application(self, application: Application, event: AuditEvent) -> None:
        """Change threshold and epoch of an application; the epoch never falls.

        Raises:
            EnrolmentError: No such application, another encoding, model, key mode or masking, or
                an epoch below the stored one.
        """

    @abc.abstractmethod
    def application(self, name: str) -> Application:
        """One application.

        Raises:
            EnrolmentError: No such application.
        """

    @abc.abstractmethod
    def applications(self) -> list[Application]:
        """All, in the order of their names."""

    @abc.abstractmethod
    def reserve(self, application: str, count: int, *, above: int = -1) -> range:
        """Record numbers that were never given out before, all larger than `above`; durable.

        Numbers that are reserved and then not used are lost; gaps are allowed.
        """

    @abc.abstractmethod
    def add(
        self, references: Sequence[Reference], event: AuditEvent, *, new_subjects: bool = True
    ) -> list[Reference]:
        """Add references of one application, all or none; slots are given out here.

        Record numbers given out later are larger than those that come in here.

        Args:
            references: Of any subjects, several of one subject if wanted.
            event: For the audit log.
            new_subjects: Refuse subjects that have a valid reference already.

        Returns:
            The references with their slots.

        Raises:
            EnrolmentError: A subject is enrolled already, or a slot or record is taken.
            RevokedError: A record was revoked.
        """

    @abc.abstractmethod
    def replace(
        self, old: Sequence[Reference], new: Sequence[Reference], event: AuditEvent
    ) -> list[Reference]:
        """Revoke `old` and add `new`, of one subject, in one transaction.

        Returns:
            The new references; those without a slot take the slots of the old ones first.

        Raises:
            RevokedError: One of `old` is not valid any more: somebody else was faster.
        """

    @abc.abstractmethod
    def revoke(
        self, application: str, records: Sequence[int], event: AuditEvent
    ) -> list[Tombstone]:
        """Delete the codes of valid records and leave tombstones, all or none.

        Raises:
            RevokedError: One of the records is not valid any more.
        """

    @abc.abstractmethod
    def references(self, application: str, subject_id: str) -> list[Reference]:
        """The valid references of a subject, by slot."""

    @abc.abstractmethod
    def by_record(self, application: str, records: Sequence[int]) -> list[Reference]:
        """The valid references among `records`, by record number."""

    @abc.abstractmethod
    def scan(
        self, application: str, *, after: int = -1, since: int = 0, limit: int = PAGE
    ) -> list[Reference]:
        """Valid references by record number: those beyond record `after`.

        Args:
            application: Name.
            after: Largest record number of the page before.
            since: Only what was added later than this version.
            limit: Largest number of references.
        """

    def codes(
        self, application: str, *, after: int = -1, since: int = 0, limit: int = PAGE
    ) -> list[StoredCode]:
        """Record, epoch and code of what `scan` gives; quicker in a store that can."""
        found = self.scan(application, after=after, since=since, limit=limit)
        return [StoredCode(each.record, each.epoch, each.code) for each in found]

    @abc.abstractmethod
    def tombstones(
        self, application: str, *, since: int = 0, subject_id: str | None = None
    ) -> list[Tombstone]:
        """What was revoked later than version `since`, of one subject if that is given."""

    @abc.abstractmethod
    def version(self, application: str) -> int:
        """Number that rises with each write to the application; 0 before the first."""

    @abc.abstractmethod
    def stats(self, application: str) -> StoreStats:
        """Counts of an application."""

    @abc.abstractmethod
    def log(self, event: AuditEvent) -> None:
        """Write an event that goes with no other write."""

    @abc.abstractmethod
    def audit(self, *, after: int = 0, limit: int = PAGE) -> list[AuditEntry]:
        """Entries of the audit log behind sequence number `after`, in order."""

    @abc.abstractmethod
    def audit_head(self) -> AuditEntry | None:
        """The last entry of the audit log."""

    @abc.abstractmethod
    def check(self) -> list[str]:
        """Problems of the medium and of what it holds, one line each; empty when there are none.

        The integrity of the medium, codes of the right length, slots and records that occur once,
        and no record that is valid and revoked. The audit chain is the gallery's to check.
        """

    @abc.abstractmethod
    def erase(self) -> None:
        """Overwrite what deletion left behind, as far as the medium can; takes its time."""

    def search(
        self,
        application: str,
        epoch: int,
        probe: PackedCodes,
        *,
        top: int = 0,
        threshold: int | None = None,
    ) -> list[Hit] | None:
        """Search in the store itself, for a store that can; `None` when it is to be done in memory.

        Only asked for unmasked codes of applications with a common key. Exact.

        Args:
            application: Name.
            epoch: Key epoch; only its references are compared.
            probe: One code.
            top: Largest number of hits; 0 is all.
            threshold: Largest distance; `None` is any.

        Returns:
            Nearest first, the lowest record first in a tie.
        """
        return None


class StoreKind(NamedTuple):
    """Where a kind of store lives: a module with `open_url(url, *, create) -> RecordStore`.

    `driver` is the package it cannot do without and `extra` the one of `iom` that brings it.
    """

    module: str
    driver: str = ""
    extra: str = ""


STORES: dict[str, StoreKind] = {
    "sqlite": StoreKind("iom.gallery.sqlite_store"),
    "postgresql": StoreKind("iom.gallery.postgres_store", "psycopg", "postgresql"),
    "milvus": StoreKind("iom.gallery.milvus_store", "pymilvus", "milvus"),
}
"""Scheme of a URL to where its store lives."""


def open_store(url: str, *, create: bool = False) -> RecordStore:
    """The record store of a URL: `sqlite:///gallery.db`, `postgresql://...`, `milvus://...`.

    Args:
        url: Scheme and place. `sqlite:///` goes before a path, so that an absolute one has four
            slashes.
        create: Make a new store; else it must be there.

    Raises:
        StoreError: Another scheme, or the store is missing, there already, damaged or out of reach.
        MissingExtraError: The driver of that store is not installed.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in STORES:
        raise StoreError(
            f"record store: expected a URL {'://..., '.join(STORES)}://..., received the scheme "
            f"'{scheme if separator else ''}'{did_you_mean(scheme, STORES)}"
        )
    kind = STORES[scheme]
    try:
        if kind.driver:
            importlib.import_module(kind.driver)
        module = importlib.import_module(kind.module)
    except ModuleNotFoundError as error:
        if error.name not in (kind.driver, kind.module):
            raise
        raise missing_extra(f"a record store {scheme}://", kind.extra, cause=error) from error
    store: RecordStore = module.open_url(url, create=create)
    return store
