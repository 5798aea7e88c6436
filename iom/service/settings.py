"""Limits of the service."""

import dataclasses

from iom.errors import ConfigError
from iom.photos.decode import MAX_MEGAPIXELS


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What one request may cost, and what it may learn.

    Raises:
        ConfigError: A limit that is not positive.
    """

    largest_body: int = 8 * 2**20
    """Bytes of a request."""
    largest_megapixels: float = MAX_MEGAPIXELS
    """Of an image; refused before a pixel is decoded."""
    most_images: int = 5
    """Of one request."""
    decode_seconds: float = 5.0
    """For one image; then its worker is killed."""
    decode_workers: int = 2
    """Processes that decode."""
    decode_memory: int = 2 * 2**30
    """Bytes of address space of each."""
    wait_seconds: float = 5.0
    """For a worker to become free; then the service says that it is busy."""
    header_seconds: float = 10.0
    """For a connection to send a complete request header, and to take an answer."""
    max_waiting_per_client: int = 64
    """Connections of one address without a complete header; then the oldest is closed."""
    max_waiting: int = 512
    """Connections of all addresses without a complete header; then one of the address with most."""
    max_requests: int = 128
    """Requests with a token at a time; each may hold its body in memory."""
    wait_for_body: float = 30.0
    """Seconds for a request to come in completely."""
    most_keys: int = 5000
    """References of an application with a key for each, up to which it can be searched: the probe
    is hashed under every key, a good second for this many. One with a common key has no limit."""
    rate: float = 20.0
    """Requests a second of one token, in the long run."""
    burst: int = 40
    """Requests at once of one token."""
    failures: float = 60.0
    """Failed verifications of one subject by one token in an hour; see `iom.service.backoff`."""
    scores: bool = False
    """Tell distances. Who sees them can climb towards a match, image by image."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "scores" and not value > 0:
                raise ConfigError(f"{field.name}: expected a number above 0, received {value}")
