"""Record store: durable references without keys, behind one interface, chosen by a URL."""

import abc
import contextlib
import dataclasses
import importlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from iom._registry import did_you_mean_url
from iom.errors import RevokedError, StoreError, missing_extra
from iom.gallery.audit import AuditChain, AuditEntry, AuditEvent
from iom.gallery.models import Application, Reference, Tombstone

FORMAT = 2
"""Of the tables; `iom.gallery.migration` converts older ones."""
PAGE = 4096
"""References read at a time."""


@dataclasses.dataclass(frozen=True)
class StoreStats:
    """Counts of an application: subjects with valid references, these references, and tombstones."""

    subjects: int
    references: int
    revoked: int


class RecordStore(contextlib.AbstractContextManager["RecordStore"]):
    """Applications, references, tombstones and the audit log.

    Each write is one transaction that includes its audit event, durable when the call returns: after a crash all of it
    is there or nothing. Several processes may write at the same time. A write raises the version of its application.
    Errors of the medium (full, read-only, damaged, locked, unreachable) are a `StoreError` of one line without codes.

    Attributes:
        chain: Makes the entries of the audit log; a gallery sets the one of its key store.
        is_new: Whether the store was made by this object.
    """

    def __init__(self, *, is_new: bool = False) -> None:
        self.chain = AuditChain()
        self.is_new = is_new

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def close(self) -> None:
        """Release everything; a second call does nothing."""

    def pages(self, application: str, *, since: int = 0) -> Iterator[list[Reference]]:
        """All valid references by record number, `PAGE` at a time, as `scan` reads them."""
        after = -1
        while page := self.scan(application, after=after, since=since):
            yield page
            after = page[-1].record

    def whole_audit(self) -> Iterator[AuditEntry]:
        """All entries of the audit log, in order."""
        after = 0
        while entries := self.audit(after=after):
            yield from entries
            after = entries[-1].sequence

    @abc.abstractmethod
    def owner(self) -> str:
        """Identity of the key store this store belongs to; empty until it is claimed."""

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
        """Change threshold and epoch of an application.

        Raises:
            EnrolmentError: Unknown application, another encoding, model, key mode or masking, or an epoch or revision
                below the stored one.
        """

    @abc.abstractmethod
    def application(self, name: str) -> Application:
        """One application.

        Raises:
            UnknownApplicationError: Unknown name.
        """

    @abc.abstractmethod
    def applications(self) -> list[Application]:
        """All applications, by name."""

    @abc.abstractmethod
    def rotate(self, application: Application, tombstones: Sequence[Tombstone], event: AuditEvent) -> None:
        """`update_application`, and revoke all references of older epochs in the same transaction.

        Raises:
            RevokedError: `tombstones` are not those of all older references, since another process wrote in between;
                nothing was written.
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
        """Add references of one application, all or none; return them with their slots.

        Args:
            references: References, also several of one subject.
            event: Event for the audit log.
            another: Admit subjects that have a valid reference already.
            returning: Admit subjects that were revoked and have no valid reference.
            imported: Admit references that were enrolled before, whatever their subject and epoch.

        Raises:
            AlreadyEnrolledError: A subject has a valid reference.
            RevokedError: A record or a subject was revoked, or, in key mode `application`, a subject was revoked under
                the key of this epoch or a later one.
            EnrolmentError: A slot or record is taken, or the epoch is not the application's.
        """

    @abc.abstractmethod
    def replace(self, tombstones: Sequence[Tombstone], new: Sequence[Reference], event: AuditEvent) -> list[Reference]:
        """Revoke references and add others of the same subject, in one transaction; return the new ones.

        Raises:
            RevokedError: A reference to be revoked is not valid any more; or as `add`.
        """

    @abc.abstractmethod
    def revoke(self, application: str, tombstones: Sequence[Tombstone], event: AuditEvent) -> None:
        """Delete the codes of valid records and leave tombstones, all or none.

        Raises:
            RevokedError: One of the records is not valid any more.
        """

    @abc.abstractmethod
    def references(self, application: str, subject_id: str) -> list[Reference]:
        """Valid references of a subject, by slot."""

    @abc.abstractmethod
    def by_record(self, application: str, records: Sequence[int]) -> list[Reference]:
        """Valid references among `records`, by record number."""

    @abc.abstractmethod
    def scan(self, application: str, *, after: int = -1, since: int = 0, limit: int = PAGE) -> list[Reference]:
        """At most `limit` valid references with numbers above `after`, added after version `since`, by number."""

    @abc.abstractmethod
    def tombstones(self, application: str, *, since: int = 0, subject_id: str | None = None) -> list[Tombstone]:
        """Tombstones of revocations after version `since`, of one subject if given, by record number."""

    @abc.abstractmethod
    def version(self, application: str) -> int:
        """Number of writes to the application."""

    @abc.abstractmethod
    def stats(self, application: str) -> StoreStats:
        """Counts of an application."""

    @abc.abstractmethod
    def log(self, event: AuditEvent) -> None:
        """Write an event without another change."""

    @abc.abstractmethod
    def audit(self, *, after: int = 0, limit: int = PAGE) -> list[AuditEntry]:
        """Entries of the audit log after sequence number `after`, in order."""

    @abc.abstractmethod
    def audit_head(self, application: str | None = None) -> AuditEntry | None:
        """The last entry of the audit log, or the last one about an application."""

    @abc.abstractmethod
    def check(self) -> list[str]:
        """Problems of the medium and its content, one line each; empty when there are none.

        Checked are the integrity of the medium, the lengths of codes, and that no record is both valid and revoked;
        seals and the audit chain are checked by the gallery, which has the keys.
        """

    @abc.abstractmethod
    def erase(self) -> None:
        """Overwrite remains of deleted content as far as the medium can; slow."""

    @abc.abstractmethod
    def snapshot(self) -> contextlib.AbstractContextManager["RecordStore"]:
        """This store for reading only, as it is now, without later writes."""


class StoreKind(NamedTuple):
    """Module with `open_url(url, *, create, format)`, its driver, and the optional dependency that installs it."""

    module: str
    driver: str = ""
    extra: str = ""


STORES: dict[str, StoreKind] = {
    "sqlite": StoreKind("iom.gallery.stores.sqlite"),
    "postgresql": StoreKind("iom.gallery.stores.postgres", "psycopg", "postgresql"),
}
"""Kind of store by the scheme of its URL."""


def open_store(url: str, *, create: bool = False, format: int = FORMAT) -> RecordStore:
    """The record store of a URL: `sqlite:///gallery.db`, `postgresql://...`.

    Args:
        url: Scheme and place. A path follows `sqlite:///`, so that an absolute one has four slashes; `?mode=ro` behind
            it opens the file for reading only.
        create: Make a new store; else it must exist.
        format: Expected format; an older one only for its conversion.

    Raises:
        StoreNotFoundError: The store is missing.
        StoreError: Unknown scheme, or the store exists already, is damaged, of another format or unreachable.
        MissingExtraError: The driver of the store is not installed.
    """
    scheme, separator, _ = url.partition("://")
    if url.startswith("milvus:"):
        raise StoreError(
            "record store: Milvus is no longer supported. The whole gallery is in the record store that the URL names "
            "behind record=; open that one by its own URL"
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
        module = importlib.import_module(kind.module)
    except ModuleNotFoundError as error:
        if error.name not in (kind.driver, kind.module):
            raise
        raise missing_extra(f"a record store {scheme}://", kind.extra, cause=error) from error
    store: RecordStore = module.open_url(url, create=create, format=format)
    return store


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
