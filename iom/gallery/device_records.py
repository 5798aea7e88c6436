"""Tables of applications whose keys are in devices: device keys by record, and nonces that were used.

They lie in the database of the record store and are made by the first application of key mode `device`; a gallery
without one has none of them. A row of `devices` is written with its record and stays for ever, so that a transform key
serves one record only. It is sealed under a key of the key store, as records are. A row of `nonces` is deleted an hour
after the nonce has expired.
"""

import dataclasses
import hmac
import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from iom.errors import EnrolmentError, StoreError
from iom.gallery.key_store import KeyStore
from iom.gallery.models import tampered
from iom.gallery.stores.base import BYTES, LONG, NAME, RecordStore

FORMAT = 1
"""Format of these tables, a part of their names: another format has others beside them."""
_KEEP_SECONDS = 3600
"""Time that a used nonce is remembered beyond its end: clocks of several machines, or one that is set back."""


@dataclasses.dataclass(frozen=True)
class DeviceRecord:
    """What belongs to a record beside its code.

    Attributes:
        record: Record number.
        subject_id: Subject.
        key: Public identifier of the transform key, 32 hexadecimal digits.
        device: Public key of the device, see `iom.gallery.device_messages`.
        seal: Authentication tag of all other fields and the application.
    """

    record: int
    subject_id: str
    key: str
    device: bytes
    seal: bytes = dataclasses.field(default=b"", repr=False)


_METADATA = sa.MetaData()
_DEVICES = sa.Table(
    f"devices_{FORMAT}",
    _METADATA,
    sa.Column("application", NAME, primary_key=True),
    sa.Column("record", LONG, primary_key=True, autoincrement=False),
    *(sa.Column(name, NAME, nullable=False) for name in ("subject", "key")),
    *(sa.Column(name, BYTES, nullable=False) for name in ("device", "seal")),
    sa.Index(f"device_keys_{FORMAT}", "application", "key", unique=True),
    sqlite_with_rowid=False,
)
_NONCES = sa.Table(
    f"nonces_{FORMAT}",
    _METADATA,
    sa.Column("nonce", BYTES, primary_key=True),
    sa.Column("expires", LONG, nullable=False),
    sqlite_with_rowid=False,
)
_COLUMNS = [_DEVICES.c[name] for name in ("record", "subject", "key", "device", "seal")]
_OF_KEY = sa.select(_DEVICES.c.record).where(
    *(_DEVICES.c[name] == sa.bindparam(f"of_{name}") for name in ("application", "subject", "key"))
)
_OLD_NONCES = sa.delete(_NONCES).where(_NONCES.c.expires < sa.bindparam("before"))


def make_tables(store: RecordStore) -> None:
    """Make the tables where they are missing."""
    with store._writing() as connection:
        _METADATA.create_all(connection, checkfirst=True)


def add_device(connection: sa.Connection, application: str, added: DeviceRecord) -> None:
    """Write a row within a write of the record store.

    Raises:
        EnrolmentError: The transform key served a record of the application before.
    """
    row = {
        "application": application,
        "record": added.record,
        "subject": added.subject_id,
        "key": added.key,
        "device": added.device,
        "seal": added.seal,
    }
    try:
        connection.execute(sa.insert(_DEVICES), row)
    except sa.exc.IntegrityError:
        raise EnrolmentError(
            "this transform key was used for a template of this application before; make the next one on the device, "
            "and hash the face under it"
        ) from None


def use_nonce(store: RecordStore, nonce: bytes, expires: int, now: int) -> None:
    """Remember for good that a nonce, which expires at a Unix time, was used; forget old ones.

    Raises:
        EnrolmentError: It was used before, by whatever process.
    """
    with store._writing() as connection:
        connection.execute(_OLD_NONCES, {"before": now - _KEEP_SECONDS})
        try:
            connection.execute(sa.insert(_NONCES), {"nonce": nonce, "expires": expires})
        except sa.exc.IntegrityError:
            raise EnrolmentError("the nonce was used before; ask for a new one and sign again") from None


def has_used_key(store: RecordStore, application: str, subject_id: str, key: str) -> bool:
    """Whether a template of a subject, valid or revoked, is under the transform key with this identifier."""
    return bool(store._rows(_OF_KEY, {"of_application": application, "of_subject": subject_id, "of_key": key}))


def devices_of_records(store: RecordStore, application: str, records: Collection[int]) -> dict[int, DeviceRecord]:
    """Rows by record, of those among `records` that have one; their seals are not checked."""
    among = store._is_among(_DEVICES.c.record, {int(each) for each in records})
    rows = store._rows(sa.select(*_COLUMNS).where(_DEVICES.c.application == application, among))
    return {row[0]: _record_of(row) for row in rows}


def _record_of(row: Sequence[Any]) -> DeviceRecord:
    if tuple(map(type, row)) != (int, str, str, bytes, bytes):
        raise tampered("the record store holds a value of a wrong type in a row (device)")
    return DeviceRecord(*row)


def sealed_device(keys: KeyStore, application: str, record: DeviceRecord) -> DeviceRecord:
    """A row with its authentication tag."""
    return dataclasses.replace(record, seal=_seal_of(keys, application, record))


def check_device(keys: KeyStore, application: str, record: DeviceRecord) -> DeviceRecord:
    """The row, if a gallery with these keys wrote it; else a `StoreError`."""
    if not _is_authentic(keys, application, record):
        raise StoreError(_changed(application, record.record))
    return record


def device_problems(keys: KeyStore, store: RecordStore, application: str, records: Collection[int]) -> Iterator[str]:
    """Rows of records, valid or revoked, that are missing or were changed, one line each."""
    try:
        found = devices_of_records(store, application, records)
    except StoreError as error:
        yield f"application {application}: the table of its devices cannot be read: {error}"
        return
    for record in sorted(records):
        if record not in found:
            yield f"application {application}: record {record} has no device: its row was deleted"
        elif not _is_authentic(keys, application, found[record]):
            yield _changed(application, record)


def _changed(application: str, record: int) -> str:
    return (
        f"application {application}: the device of record {record} was changed outside of the gallery, or is damaged; "
        "revoke it and enrol the subject again"
    )


def _is_authentic(keys: KeyStore, application: str, record: DeviceRecord) -> bool:
    return hmac.compare_digest(_seal_of(keys, application, record), record.seal)


def _seal_of(keys: KeyStore, application: str, record: DeviceRecord) -> bytes:
    values = [application, record.record, record.subject_id, record.key, record.device.hex()]
    # Of a kind of its own, as the seals of `iom.gallery.templates` are.
    return keys.seal(f"\0device\0{json.dumps(values, separators=(',', ':'))}".encode())
