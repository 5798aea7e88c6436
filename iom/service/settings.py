"""Limits of the service."""

import dataclasses

from iom.errors import ConfigError
from iom.photos.images import MAX_MEGAPIXELS


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectionSettings:
    """Limits of the requests and connections of any server; all are positive."""

    max_body: int = 8 * 2**20
    """Bytes of a request."""
    header_seconds: float = 10.0
    """Seconds for a connection to send a complete request header, and to accept an answer."""
    max_waiting_per_client: int = 64
    """Connections of one client without a complete header; beyond it the oldest is closed."""
    max_waiting: int = 512
    """Connections of all clients without a complete header; beyond it the client with most loses its oldest."""
    max_requests: int = 128
    """Concurrent requests of known callers; each may hold its body in memory."""
    wait_for_body: float = 30.0
    """Seconds to receive a complete request."""
    rate: float = 20.0
    """Requests per second of one caller, in the long run."""
    burst: int = 40
    """Requests at once of one caller."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool) and not value > 0:
                raise ConfigError(f"{field.name}: expected a number above 0, received {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceSettings(ConnectionSettings):
    """Limits of the HTTP service of a gallery."""

    max_megapixels: float = MAX_MEGAPIXELS
    """Megapixels of an image, checked before any pixel is decoded."""
    max_images: int = 5
    """Images of one request."""
    decode_seconds: float = 5.0
    """Seconds to decode one image; then its worker is killed."""
    decode_workers: int = 2
    """Decoding processes."""
    decode_memory: int = 2 * 2**30
    """Bytes of address space of a decoding process."""
    wait_seconds: float = 5.0
    """Seconds to wait for a free worker; then the answer is 503."""
    max_keys: int = 5000
    """References of a searchable application with a key per record: the probe is hashed under every key, a good second
    for this many. An application with a common key has no limit."""
    failures: float = 60.0
    """Failed verifications of one subject by one token per hour; see `iom.service.rate_limit.Backoff`."""
    scores: bool = False
    """Show distances. A client that sees them can climb towards a match, image by image."""
