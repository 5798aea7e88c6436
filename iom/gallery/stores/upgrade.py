"""Upgrade of a record store of format 1: its tables, in the transaction that converts them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from iom.gallery.audit import AuditChain, AuditEntry, AuditEvent, Counts
from iom.gallery.models import Application, Reference, Tombstone
from iom.gallery.stores.rows import (
    APPLICATION_COLUMNS,
    AUDIT_COLUMNS,
    REFERENCE_COLUMNS,
    TOMBSTONE_COLUMNS,
    application_of_row,
    entry_of_row,
    reference_of_row,
    row_of_entry,
    tombstone_of_row,
)


class Dialect(NamedTuple):
    """What differs between databases: place holder of a value, types, and where the owner is."""

    mark: str
    integer: str
    blob: str
    no_bytes: str
    owner: str


class Upgrade:
    """A record store of format 1 with the columns of format 2 added; old writers have to wait.

    Args:
        execute: `(statement, values)` to rows, within one transaction.
        dialect: Of the database.
    """

    def __init__(self, execute: Callable[[str, Sequence[Any]], list[Any]], dialect: Dialect) -> None:
        self._execute, self._dialect = execute, dialect
        for table, column, is_blob in (
            ("applications", "revision", False),
            ("applications", "seal", True),
            ("tombstones", "epoch", False),
            ("tombstones", "seal", True),
            ("audit", "valid", False),
            ("audit", "revoked", False),
            ("audit", "revision", False),
        ):
            kind = dialect.blob if is_blob else dialect.integer
            default = dialect.no_bytes if is_blob else "0"
            self._run(f"ALTER TABLE {table} ADD COLUMN {column} {kind} NOT NULL DEFAULT {default}")
        self._run("CREATE INDEX audit_applications ON audit (application, sequence)")

    def owner(self) -> str:
        """As of `RecordStore`."""
        return "".join(row[0] for row in self._run(self._dialect.owner))

    def applications(self) -> list[tuple[Application, int]]:
        """Each with the record number that would have been given out next."""
        rows = self._run(f"SELECT {APPLICATION_COLUMNS}, next_record FROM applications ORDER BY name")
        return [(application_of_row(row[:-1]), row[-1]) for row in rows]

    def tombstones(self, application: str) -> list[Tombstone]:
        """Without epochs and seals, which format 1 did not have."""
        rows = self._run(
            f"SELECT {TOMBSTONE_COLUMNS} FROM tombstones WHERE application = ? ORDER BY record", self._id(application)
        )
        return [tombstone_of_row(row) for row in rows]

    def references(self, application: str) -> Iterator[Reference]:
        """All valid references."""
        rows = self._run(
            f"SELECT {REFERENCE_COLUMNS} FROM reference_codes WHERE application = ? ORDER BY record",
            self._id(application),
        )
        return (reference_of_row(application, row) for row in rows)

    def audit(self) -> Iterator[AuditEntry]:
        """The whole log."""
        return map(entry_of_row, self._run(f"SELECT {AUDIT_COLUMNS} FROM audit ORDER BY sequence"))

    def write(
        self,
        application: Application,
        tombstones: Sequence[Tombstone],
        references: int,
        chain: AuditChain,
        event: AuditEvent,
    ) -> None:
        """Write an application and its tombstones with their seals, and an audit entry of both."""
        number = self._id(application.name)
        self._run(
            "UPDATE applications SET revision = ?, seal = ? WHERE id = ?",
            application.revision,
            application.seal,
            number,
        )
        for stone in tombstones:
            self._run(
                "UPDATE tombstones SET epoch = ?, seal = ? WHERE application = ? AND record = ?",
                stone.epoch,
                stone.seal,
                number,
                stone.record,
            )
        counts = Counts(references, len(tombstones), application.revision)
        last = self._run("SELECT sequence, digest FROM audit ORDER BY sequence DESC LIMIT 1")
        values = row_of_entry(chain.following(event, counts, last[0] if last else None))
        marks = ", ".join("?" * len(values))
        self._run(f"INSERT INTO audit ({AUDIT_COLUMNS}) VALUES ({marks})", *values)

    def finish(self) -> None:
        """Drop what format 2 does not have."""
        self._run("ALTER TABLE applications DROP COLUMN next_record")

    def _run(self, statement: str, *values: Any) -> list[Any]:
        return self._execute(statement.replace("?", self._dialect.mark), values)

    def _id(self, application: str) -> int:
        return int(self._run("SELECT id FROM applications WHERE name = ?", application)[0][0])
