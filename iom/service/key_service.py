"""Key service: keys by label for other programs, each in a name space of its own."""

from collections.abc import Sequence

from iom.errors import DataError, NotPermittedError, RateLimitError
from iom.gallery.key_store import KeyStore
from iom.gallery.remote_source import ACTION, unpack_labels
from iom.service.audit_log import AuditLog
from iom.service.callers import Callers
from iom.service.mutual_tls import Handler
from iom.service.rate_limit import RateLimit

SPACE = "key-service/"
"""Start of the name spaces of callers among all name spaces of a key store."""
RATE, BURST = 50.0, 5000
"""Labels of a caller per second in the long run, and at once."""


class KeyService:
    """The action `derive` over a key store: labels to keys, within the caller's name space, rate and audit log.

    Args:
        keys: Key store of any kind, which is that of this service alone.
        callers: Who may ask, and for which name space. Two callers get the same keys only where the file gives both
            the same one.
        audit: Log that gets an entry of each request: caller and pseudonyms of the labels; of refusals, the first.
        rate: Labels of one caller per second, in the long run.
        burst: Labels of one caller at once.
    """

    def __init__(
        self, keys: KeyStore, callers: Callers, audit: AuditLog, *, rate: float = RATE, burst: int = BURST
    ) -> None:
        self._keys, self._callers, self._audit = keys, callers, audit
        self._burst, self._rate = burst, RateLimit(rate, burst)
        self._refused: set[str] = set()

    @property
    def handlers(self) -> dict[str, Handler]:
        """Actions for a `PeerApp`."""
        return {ACTION: self.derive}

    def derive(self, caller: str, body: bytes) -> bytes:
        """Keys of 32 bytes for the labels of a request, side by side.

        Raises:
            NotPermittedError: The caller has no name space.
            RateLimitError: It asked for too many labels.
            DataError: The body is of another form, or has no label, or more than a caller may ask for at once.
        """
        space = self._callers.word(caller)
        if space is None:
            self._note_refusal(caller, "refused")
            raise NotPermittedError(f"the caller {caller} has no name space in this key service")
        labels = unpack_labels(body)
        if not 1 <= len(labels) <= self._burst:
            raise DataError(f"expected 1 to {self._burst} labels at once, received {len(labels)}")
        if wait := self._rate.wait(caller, len(labels)):
            self._note_refusal(caller, "limited", labels)
            raise RateLimitError(f"too many keys were asked for; retry in {wait:.1f} s", retry_after=wait)
        self._refused.discard(caller)
        self._audit.add(caller, ACTION, labels)
        return b"".join(self._keys.derive(SPACE + space, labels))

    def _note_refusal(self, caller: str, action: str, labels: Sequence[bytes] = ()) -> None:
        """Write a caller's first refusal since its last answer to the audit log, which refusals must not fill."""
        if caller not in self._refused:
            self._refused.add(caller)
            self._audit.add(caller, action, labels)


def audit_key(keys: KeyStore) -> bytes:
    """The key of the audit log of a key service."""
    return keys.derive("key-service-audit", [b""])[0]
