"""HTTP/1.1 connections with deadlines, and limits for those that wait for a request.

uvicorn alone gives a client any time for the first header, and counts a connection without a
request like one with it: idle connections would use up a limit on all of them. Here a connection
waits until its request header is complete; its time for that is limited, and so are the waiting
connections of an address and of all. Where there are too many, the oldest one is closed, so that a
client that sends its request at once is always served.
"""

import asyncio
import functools
import ipaddress
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from iom.service.settings import ServiceSettings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_HEADER = 16 * 1024
"""Bytes of a request header."""

_END_OF_HEADER = re.compile(rb"\n\r?\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")


def client_network(address: str) -> str:
    """The network that counts as one client: an IPv4 address, or 64 bits of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or found.exploded[:19])
    return address


class WaitingConnections:
    """The connections of a server that wait for a complete request header.

    Args:
        settings: `max_waiting_per_client` and `max_waiting`.
        trusted: Networks of proxies, which connect for many clients: the limit of one client does
            not count for them.
    """

    def __init__(self, settings: ServiceSettings, trusted: Sequence[Network] = ()) -> None:
        self.seconds = settings.header_seconds
        self._per_client, self._in_all = settings.max_waiting_per_client, settings.max_waiting
        self._trusted = trusted
        # Dictionaries as sets that keep their order: the oldest comes first.
        self._of: defaultdict[str, dict[TimedProtocol, None]] = defaultdict(dict)
        self._count = 0

    def add(self, connection: "TimedProtocol") -> None:
        """Count a connection that waits; the oldest one is closed where there are too many."""
        name = connection.client_name
        self._of[name][connection] = None
        self._count += 1
        if len(self._of[name]) > self._per_client and not self._is_trusted(connection):
            self._close_oldest(name)
        elif self._count > self._in_all:
            self._close_oldest(max(self._of, key=lambda each: len(self._of[each])))

    def remove(self, connection: "TimedProtocol") -> None:
        """Forget a connection that does not wait any more."""
        name = connection.client_name
        if connection in self._of.get(name, ()):
            del self._of[name][connection]
            self._count -= 1
            if not self._of[name]:
                del self._of[name]

    def _close_oldest(self, name: str) -> None:
        oldest = next(iter(self._of[name]))
        self.remove(oldest)
        oldest.drop()

    def _is_trusted(self, connection: "TimedProtocol") -> bool:
        if not self._trusted or connection.client is None:
            return False
        address = ipaddress.ip_address(connection.client[0])
        return any(address in network for network in self._trusted)


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with a deadline for each header and each answer.

    The rest of a body that was refused is part of the next header's time. A body that is read has
    a deadline of its own, in `Gate`.
    """

    def __init__(self, *args: Any, waiting: WaitingConnections, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = _StrictConnection(h11.SERVER, MAX_HEADER)
        self.client_name = ""
        self._waiting = waiting
        self._is_lost = False
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(  # type: ignore[override]
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        self.client_name = client_network(self.client[0]) if self.client else "-"
        self._look()

    def handle_events(self) -> None:
        super().handle_events()
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._stop_waiting()
        super().connection_lost(exc)
        self.resume_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._waiting.seconds, self.drop)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def drop(self) -> None:
        """Close the connection at once, whatever is still to be sent."""
        self.transport.abort()

    def _look(self) -> None:
        """Start or stop the time for a header, by whether a request is under way."""
        if self._is_lost or (self.cycle is not None and not self.cycle.response_complete):
            self._stop_waiting()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(self._waiting.seconds, self.drop)
            self._waiting.add(self)

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        self._waiting.remove(self)


def timed_protocol(settings: ServiceSettings, trusted: Sequence[Network] = ()) -> Any:
    """A protocol for `uvicorn.Config(http=...)`; connections of one server are counted together."""
    return functools.partial(TimedProtocol, waiting=WaitingConnections(settings, trusted))


class _StrictConnection(h11.Connection):
    """h11 takes a line of a header that ends in LF alone; proxies do not agree on that."""

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            data, _ = self.trailing_data
            end = _END_OF_HEADER.search(data)
            if _BARE_LF.search(data, 0, end.end() if end else len(data)):
                raise h11.RemoteProtocolError("a line of the header ends in LF without CR")
        return super().next_event()
