"""Keys of a key service (`iom serve-keys`): a batch of labels is one request over mutual TLS."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from iom._peers import PeerClient
from iom.errors import DataError, IomError, PeerError, RateLimitError, StoreError
from iom.gallery.key_source import KEY_BYTES, KeySource

ACTION = "derive"
MAX_LABELS = 4096
"""Labels of a request."""
MAX_LABEL_BYTES = 4096
SERVICE_NAME = "keys"
"""Name in the certificate of a key service, unless another is given."""
_LENGTH_BYTES = 4


def pack_labels(labels: Iterable[bytes]) -> bytes:
    """Labels as the body of a request: each after its length in 4 bytes, big endian."""
    return b"".join(len(label).to_bytes(_LENGTH_BYTES, "big") + label for label in labels)


def unpack_labels(body: bytes) -> list[bytes]:
    """The labels of a request; a `DataError` where there are too many, or one is too long or cut off."""
    labels: list[bytes] = []
    place = 0
    while place < len(body):
        start = place + _LENGTH_BYTES
        size = int.from_bytes(body[place:start], "big")
        place = start + size
        if size > MAX_LABEL_BYTES or place > len(body) or len(labels) == MAX_LABELS:
            raise DataError(
                f"expected at most {MAX_LABELS} labels of at most {MAX_LABEL_BYTES} bytes, each after its length"
            )
        labels.append(body[start:place])
    return labels


class RemoteSource(KeySource):
    """Keys of a key service, which has the master; see `PeerClient` for the arguments.

    The service needs its own name: the certificate of a caller, which the same authority signed, may hold for its host.
    """

    def __init__(self, url: str, *, certificate: Path, key: Path, authority: Path, name: str = SERVICE_NAME) -> None:
        self._client = PeerClient(url, certificate=certificate, key=key, authority=authority, name=name or SERVICE_NAME)

    def derive(self, labels: Sequence[bytes]) -> list[bytes]:
        keys: list[bytes] = []
        for start in range(0, len(labels), MAX_LABELS):
            keys += self._derive(labels[start : start + MAX_LABELS])
        return keys

    def close(self) -> None:
        self._client.close()

    def _derive(self, labels: Sequence[bytes]) -> list[bytes]:
        url = self._client.url
        try:
            answer = self._client.call(ACTION, pack_labels(labels))
        except RateLimitError as error:
            # A gallery's service passes this text on: no place in it.
            raise RateLimitError(f"key service: {error}", retry_after=error.retry_after) from error
        except PeerError as error:
            raise StoreError(f"key service {error}") from error
        except IomError as error:
            raise StoreError(f"key service {url}: {error}") from error
        if len(answer) != KEY_BYTES * len(labels):
            raise StoreError(
                f"key service {url}: expected {KEY_BYTES * len(labels)} bytes of keys, received {len(answer)}"
            )
        return [answer[place : place + KEY_BYTES] for place in range(0, len(answer), KEY_BYTES)]
