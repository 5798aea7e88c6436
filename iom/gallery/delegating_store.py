"""A record store that hands everything to another one; for stores that add something to it."""

from collections.abc import Sequence

from iom.gallery.audit import AuditEntry, AuditEvent
from iom.gallery.record import Application, Reference, Tombstone
from iom.gallery.store import PAGE, RecordStore, StoredCode, StoreStats


class DelegatingStore(RecordStore):
    """See `RecordStore`.

    Args:
        record: The other one; it is closed with this one.
    """

    def __init__(self, record: RecordStore) -> None:
        self.record = record

    def owner(self) -> str:
        """See `RecordStore.owner`."""
        return self.record.owner()

    def claim(self, owner: str) -> None:
        """See `RecordStore.claim`."""
        self.record.claim(owner)

    def create_application(self, application: Application, event: AuditEvent) -> None:
        """See `RecordStore.create_application`."""
        self.record.create_application(application, event)

    def update_application(self, application: Application, event: AuditEvent) -> None:
        """See `RecordStore.update_application`."""
        self.record.update_application(application, event)

    def application(self, name: str) -> Application:
        """See `RecordStore.application`."""
        return self.record.application(name)

    def applications(self) -> list[Application]:
        """See `RecordStore.applications`."""
        return self.record.applications()

    def reserve(self, application: str, count: int, *, above: int = -1) -> range:
        """See `RecordStore.reserve`."""
        return self.record.reserve(application, count, above=above)

    def add(
        self, references: Sequence[Reference], event: AuditEvent, *, new_subjects: bool = True
    ) -> list[Reference]:
        """See `RecordStore.add`."""
        return self.record.add(references, event, new_subjects=new_subjects)

    def replace(
        self, old: Sequence[Reference], new: Sequence[Reference], event: AuditEvent
    ) -> list[Reference]:
        """See `RecordStore.replace`."""
        return self.record.replace(old, new, event)

    def revoke(
        self, application: str, records: Sequence[int], event: AuditEvent
    ) -> list[Tombstone]:
        """See `RecordStore.revoke`."""
        return self.record.revoke(application, records, event)

    def references(self, application: str, subject_id: str) -> list[Reference]:
        """See `RecordStore.references`."""
        return self.record.references(application, subject_id)

    def by_record(self, application: str, records: Sequence[int]) -> list[Reference]:
        """See `RecordStore.by_record`."""
        return self.record.by_record(application, records)

    def scan(
        self, application: str, *, after: int = -1, since: int = 0, limit: int = PAGE
    ) -> list[Reference]:
        """See `RecordStore.scan`."""
        return self.record.scan(application, after=after, since=since, limit=limit)

    def codes(
        self, application: str, *, after: int = -1, since: int = 0, limit: int = PAGE
    ) -> list[StoredCode]:
        """See `RecordStore.codes`."""
        return self.record.codes(application, after=after, since=since, limit=limit)

    def tombstones(
        self, application: str, *, since: int = 0, subject_id: str | None = None
    ) -> list[Tombstone]:
        """See `RecordStore.tombstones`."""
        return self.record.tombstones(application, since=since, subject_id=subject_id)

    def version(self, application: str) -> int:
        """See `RecordStore.version`."""
        return self.record.version(application)

    def stats(self, application: str) -> StoreStats:
        """See `RecordStore.stats`."""
        return self.record.stats(application)

    def log(self, event: AuditEvent) -> None:
        """See `RecordStore.log`."""
        self.record.log(event)

    def audit(self, *, after: int = 0, limit: int = PAGE) -> list[AuditEntry]:
        """See `RecordStore.audit`."""
        return self.record.audit(after=after, limit=limit)

    def audit_head(self) -> AuditEntry | None:
        """See `RecordStore.audit_head`."""
        return self.record.audit_head()

    def check(self) -> list[str]:
        """See `RecordStore.check`."""
        return self.record.check()

    def erase(self) -> None:
        """See `RecordStore.erase`."""
        self.record.erase()

    def close(self) -> None:
        """See `RecordStore.close`."""
        self.record.close()
