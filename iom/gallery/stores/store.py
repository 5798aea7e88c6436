"""The record store: durable references without keys, behind one interface; chosen by a URL."""

import abc
import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

from iom._registry import did_you_mean_url
from iom.errors import StoreError, missing_extra
from iom.gallery.audit import AuditChain, AuditEntry, AuditEvent
from iom.gallery.closing import Closing
from iom.gallery.models import Application, Reference, Tombstone
from iom.gallery.stores.upgrade import Upgrade

PAGE = 4096
"""References that are read or written at a time."""


class Hit(NamedTuple):
    """A record and its distance to a probe."""

    record: int
    distance: int


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

    Attributes:
        chain: Makes the entries of the audit log; a gallery puts the one of its key store here.
        is_new: Whether it was made by this object.
    """

    def __init__(self, *, is_new: bool = False) -> None:
        self.chain = AuditChain()
        self.is_new = is_new

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
    def rotate(self, application: Application, tombstones: Sequence[Tombstone], event: AuditEvent) -> None:
        """`update_application`, and revoke all references of older epochs in the same transaction.

        Raises:
            RevokedError: `tombstones` are not those of all older references: another process was
                faster; nothing was written.
        """

    @abc.abstractmethod
    def add(
        self,
        references: Sequence[Reference],
        event: AuditEvent,
        *,
        another: bool = False,
        returning: bool = False,
        imported: bool = False,
    ) -> list[Reference]:
        """Add references of one application, all or none; slots are given out here.

        Args:
            references: Of any subjects, several of one subject if wanted.
            event: For the audit log.
            another: Admit subjects that have a valid reference already.
            returning: Admit subjects that were revoked and have no valid reference.
            imported: Admit whatever was enrolled before, under whatever epoch.

        Returns:
            The references with their slots.

        Raises:
            AlreadyEnrolledError: A subject has a valid reference.
            RevokedError: A record was revoked, a subject was, or (where the application has one
                key) a subject was revoked under the key of this epoch or a later one.
            EnrolmentError: A slot or record is taken, or the epoch is not the application's.
        """

    @abc.abstractmethod
    def replace(self, tombstones: Sequence[Tombstone], new: Sequence[Reference], event: AuditEvent) -> list[Reference]:
        """Revoke references and add others of the same subject, in one transaction.

        Returns:
            The new references.

        Raises:
            RevokedError: A reference to be revoked is not valid any more: another process was
                faster; or as `add`.
        """

    @abc.abstractmethod
    def revoke(self, application: str, tombstones: Sequence[Tombstone], event: AuditEvent) -> None:
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
    def scan(self, application: str, *, after: int = -1, since: int = 0, limit: int = PAGE) -> list[Reference]:
        """Valid references by record number: those beyond record `after`.

        Args:
            application: Name.
            after: Largest record number of the page before.
            since: Only what was added later than this version.
            limit: Largest number of references.
        """

    @abc.abstractmethod
    def tombstones(self, application: str, *, since: int = 0, subject_id: str | None = None) -> list[Tombstone]:
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
    def audit_head(self, application: str | None = None) -> AuditEntry | None:
        """The last entry of the audit log, or the last one about an application."""

    @abc.abstractmethod
    def check(self) -> list[str]:
        """Problems of the medium and of what it holds, one line each; empty when there are none.

        The integrity of the medium, codes of the right length, slots and records that occur once,
        and no record that is valid and revoked. The audit chain is the gallery's to check.
        """

    @abc.abstractmethod
    def erase(self) -> None:
        """Overwrite what deletion left behind, as far as the medium can; takes its time."""

    @abc.abstractmethod
    def snapshot(self) -> contextlib.AbstractContextManager["RecordStore"]:
        """This store, for reading only, as it is now: later writes are not seen in it."""


class StoreKind(NamedTuple):
    """Module of a kind of store, with `open_url(url, *, create)` and `upgrade_url(url, convert)`.

    `driver` is the package it cannot do without and `extra` the one of `iom` that brings it.
    """

    module: str
    driver: str = ""
    extra: str = ""


STORES: dict[str, StoreKind] = {
    "sqlite": StoreKind("iom.gallery.stores.sqlite_store"),
    "postgresql": StoreKind("iom.gallery.stores.postgres_store", "psycopg", "postgresql"),
}
"""Scheme of a URL to where its store lives."""


def open_store(url: str, *, create: bool = False) -> RecordStore:
    """The record store of a URL: `sqlite:///gallery.db`, `postgresql://...`.

    Args:
        url: Scheme and place. `sqlite:///` goes before a path, so that an absolute one has four
            slashes.
        create: Make a new store; else it must be there.

    Raises:
        StoreError: Another scheme, or the store is missing, there already, damaged or out of reach.
        MissingExtraError: The driver of that store is not installed.
    """
    store: RecordStore = _module_of(url).open_url(url, create=create)
    return store


def upgrade_store(url: str, convert: Callable[[Upgrade], None]) -> bool:
    """Convert a record store of format 1 in place, in one transaction.

    Args:
        url: As of `open_store`.
        convert: Is called within the transaction; an error leaves the store as it was.

    Returns:
        Whether it was of format 1; one of the present format is left alone.

    Raises:
        StoreError: As `open_store`.
    """
    return bool(_module_of(url).upgrade_url(url, convert))


def _module_of(url: str) -> ModuleType:
    scheme, separator, _ = url.partition("://")
    if scheme == "milvus":
        raise StoreError(
            "record store: galleries are not searched in Milvus any more; the whole gallery lies "
            "in the record store that the URL names behind record=, which is opened by itself"
        )
    if not separator or scheme not in STORES:
        raise StoreError(
            f"record store: expected a URL {'://..., '.join(STORES)}://..., received the scheme "
            f"'{scheme if separator else ''}'{did_you_mean_url(url, 'sqlite:///', STORES)}"
        )
    kind = STORES[scheme]
    try:
        if kind.driver:
            importlib.import_module(kind.driver)
        return importlib.import_module(kind.module)
    except ModuleNotFoundError as error:
        if error.name not in (kind.driver, kind.module):
            raise
        raise missing_extra(f"a record store {scheme}://", kind.extra, cause=error) from error
