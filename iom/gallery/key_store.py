"""The key store: master, masks and the list of revoked records, apart from the record store."""

import abc
import dataclasses
import functools
import hmac
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from iom.errors import KeyMaterialError, StoreError
from iom.gallery.closing import Closing
from iom.gallery.mac import Mac
from iom.keys import TransformKey
from iom.lookup import did_you_mean

SEAL_BYTES = 16


class Anchor(NamedTuple):
    """Where the audit log was: sequence number and digest of an entry."""

    sequence: int
    digest: bytes


@dataclasses.dataclass(frozen=True)
class RevokedRecord:
    """A record that is refused for ever."""

    subject_id: str
    record: int


class KeyStore(Closing):
    """Secrets of one gallery. Writes are durable when the call returns.

    What is derived from the master is done here; a kind of key store only keeps the master, the
    masks and the list. No secret is in a `repr`, a log or an error.
    """

    @abc.abstractmethod
    def master(self) -> TransformKey:
        """The master key."""

    @abc.abstractmethod
    def entries(self) -> int:
        """Number of writes so far; it never falls, so that a store that was cut is noticed."""

    @abc.abstractmethod
    def put_masks(self, application: str, masks: Mapping[int, bytes]) -> None:
        """Keep the masks of new records.

        Raises:
            KeyMaterialError: A record has a mask, or is revoked: a mask is used once.
        """

    @abc.abstractmethod
    def masks(self, application: str, records: Sequence[int]) -> list[bytes]:
        """Masks of records, in their order.

        Raises:
            StoreError: A record has none: this key store is older than the record store.
        """

    @abc.abstractmethod
    def masked_records(self, application: str) -> set[int]:
        """Records that have a mask."""

    @abc.abstractmethod
    def revoke(
        self, application: str, records: Sequence[RevokedRecord], anchor: Anchor | None
    ) -> None:
        """Refuse records for ever and forget their masks; a record may come a second time."""

    @abc.abstractmethod
    def revoked(self, application: str) -> Mapping[int, str]:
        """Record to subject of everything that was revoked; not to be changed."""

    @abc.abstractmethod
    def anchors(self) -> Sequence[Anchor]:
        """What `revoke` was given, oldest first."""

    @abc.abstractmethod
    def erase(self) -> None:
        """Write the store anew without the masks that were forgotten."""

    def identity(self) -> str:
        """Public name of the master, by which a record store knows its key store."""
        return hmac.digest(self.master().secret, b"iom/key-store/identity/v1", "sha256").hex()[:32]

    def audit_key(self) -> bytes:
        """Key of the pseudonyms in the audit log."""
        return self.master().stream("gallery-audit", 32)

    def record_key(self, application: str, subject_id: str, record: int) -> TransformKey:
        """Key of one record, where each has its own."""
        return self.master().derive(application=application, subject=subject_id, record=record)

    def application_key(self, application: str, epoch: int) -> TransformKey:
        """Key of all records of an epoch, where they share one. No subject has an empty id."""
        return self.master().derive(application=application, subject="", record=epoch)

    def seal(self, message: bytes) -> bytes:
        """Authentication tag of a record, `SEAL_BYTES` long."""
        return self._seal_mac.digest(message)[:SEAL_BYTES]

    @functools.cached_property
    def _seal_mac(self) -> Mac:
        return Mac(self.master().stream("gallery-seal", 32))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


PassphraseSource = Callable[[], str]

KEY_STORES: dict[str, str] = {
    "file": "iom.gallery.key_file",
    "environment": "iom.gallery.key_external",
    "command": "iom.gallery.key_external",
}
"""Scheme of a URL to the module with its `open_url(url, *, create, passphrase) -> KeyStore`."""


def open_key_store(
    url: str, *, create: bool = False, passphrase: PassphraseSource | None = None
) -> KeyStore:
    """The key store of a URL.

    `file:PATH` is opened with a passphrase, `file:PATH?key-file=PATH` with a key that lies in
    another file. With `environment:NAME?file=PATH` and `command:PROGRAM ARGUMENTS?file=PATH` the
    master comes from outside, as the text of `TransformKey.to_text`, and the file holds the rest.

    Args:
        url: Scheme and place.
        create: Make a new store; else it must be there.
        passphrase: Asked for one where it is needed.

    Raises:
        StoreError: Another scheme, or the store is missing, there already, damaged or not opened
            by this passphrase or key.
        MissingExtraError: The package `cryptography` is not installed.
    """
    scheme, separator, _ = url.partition(":")
    if not separator or scheme not in KEY_STORES:
        raise StoreError(
            f"key store: expected a URL {':..., '.join(KEY_STORES)}:..., received the scheme "
            f"'{scheme if separator else ''}'{did_you_mean(scheme, KEY_STORES)}"
        )
    module = importlib.import_module(KEY_STORES[scheme])
    store: KeyStore = module.open_url(url, create=create, passphrase=passphrase)
    return store


def parse_place(url: str, option: str) -> tuple[str, str]:
    """`(place, value)` of `scheme:place?option=value`; the value is empty where there is none."""
    place = url.partition(":")[2]
    place, _, value = place.partition(f"?{option}=")
    return place, value


def read_master(text: str, source: str) -> TransformKey:
    """A master key from its text.

    Raises:
        KeyMaterialError: It is none. The message names the source only.
    """
    try:
        return TransformKey.from_text(text)
    except KeyMaterialError as error:
        raise KeyMaterialError(f"master key from {source}: {error}") from error
