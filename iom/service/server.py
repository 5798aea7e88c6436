"""HTTP server: limits connections, finishes running requests at the end.

uvicorn alone gives a client any time for its first header and counts a connection without a request like one with it,
so that idle connections use up a limit on all of them. Here the time until a complete request header is limited, and so
is the number of connections that wait for one, per client and in all. Beyond a limit the oldest is closed: a client
that sends its request at once is always served.
"""

import asyncio
import contextlib
import functools
import ipaddress
import logging
import math
import re
import signal
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from iom._peers import TlsFiles, common_name
from iom.errors import ConfigError
from iom.service.rate_limit import client_network
from iom.service.settings import ConnectionSettings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_HEADER = 16 * 1024
"""Bytes of a request header."""
_END_OF_HEADER = re.compile(rb"\n\r?\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
SHUTDOWN_SECONDS = 1.0
"""Seconds that a client has to answer the end of a TLS connection."""
SECONDS_TO_STOP = 30
"""Seconds that running requests have to end after a signal to stop."""


def listening(host: str, port: int) -> socket.socket:
    """A socket of this address, port 0 for any that is free."""
    # asyncio sets TCP_NODELAY where the protocol is named; without it an answer in two parts takes 40 ms more.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on {host}, port {port}: {reason}") from error
    return listener


def serve(
    app: ASGIApp,
    listener: socket.socket,
    settings: ConnectionSettings,
    *,
    tls: TlsFiles | None = None,
    proxies: Sequence[Network] = (),
    ready: Callable[[], None],
    stop: threading.Event | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, or until `stop` is set; `ready` is called when the first request can come.

    Where `tls` names an authority, clients need a certificate of it, and the common name in it is `caller` in the
    `state` of a request's scope. `proxies` are networks whose `X-Forwarded-For` is trusted.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    # It would log bytes of bodies that are not forms.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        access_log=False,  # the service writes its own, without paths
        log_config=None,
        log_level="warning",
        server_header=False,
        # Connections of one server are counted together.
        http=functools.partial(TimedProtocol, waiting=WaitingConnections(settings, proxies)),  # type: ignore[arg-type]
        ws="none",
        loop="none",
        lifespan="off",
        proxy_headers=bool(proxies),
        forwarded_allow_ips=[str(each) for each in proxies],
        timeout_keep_alive=math.ceil(settings.header_seconds),
        timeout_graceful_shutdown=SECONDS_TO_STOP,
    )
    if tls is not None:
        config.ssl_certfile, config.ssl_keyfile = str(tls.certificate), str(tls.key)
        if tls.authority is not None:
            config.ssl_ca_certs, config.ssl_cert_reqs = str(tls.authority), ssl.CERT_REQUIRED
        config.ssl_keyfile_password = ""  # never asks at a terminal
    try:
        config.load()
    except OSError as error:
        raise ConfigError(
            f"cannot use the certificate {config.ssl_certfile} with the key {config.ssl_keyfile}"
            f"{f' and the authority {config.ssl_ca_certs}' if config.ssl_ca_certs else ''}: {error}"
        ) from error
    if config.ssl is not None and config.ssl_ca_certs:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        config.ssl.num_tickets = 0  # a connection is kept, not resumed
    with asyncio.Runner(loop_factory=lambda: _Loop(settings.header_seconds)) as runner:
        runner.run(_Server(config, ready, stop).serve(sockets=[listener]))


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that limits TLS handshakes to the time of a request header, and shutdowns to a second.

    A client that keeps a connection for later requests does not answer a shutdown until it asks again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = self._seconds
            options["ssl_shutdown_timeout"] = min(self._seconds, SHUTDOWN_SECONDS)
        return await super().create_server(*args, **options)


class _Server(uvicorn.Server):
    """A server that reports when it is ready, and takes a stop by signal as a normal end."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], stop: threading.Event | None) -> None:
        super().__init__(config)
        self._ready, self._stop = ready, stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or (self._stop is not None and self._stop.is_set())

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = [signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)]
        try:
            yield
        finally:
            for each, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
                signal.signal(each, handler)


class WaitingConnections:
    """The connections of a server that wait for a complete request header, limited per client and in all.

    Networks of `trusted` proxies connect for many clients: the limit of one client does not count for them.
    """

    def __init__(self, settings: ConnectionSettings, trusted: Sequence[Network] = ()) -> None:
        self.seconds = settings.header_seconds
        self._per_client, self._in_all = settings.max_waiting_per_client, settings.max_waiting
        self._trusted = trusted
        # Dictionaries as sets that keep their order: the oldest comes first.
        self._of: defaultdict[str, dict[TimedProtocol, None]] = defaultdict(dict)

    def add(self, connection: "TimedProtocol") -> None:
        """Count a connection that waits; the oldest one is closed where there are too many."""
        name = connection.client_name
        self._of[name][connection] = None
        if len(self._of[name]) > self._per_client and not self._is_trusted(connection):
            self._close_oldest(name)
        elif sum(map(len, self._of.values())) > self._in_all:
            self._close_oldest(max(self._of, key=lambda each: len(self._of[each])))

    def remove(self, connection: "TimedProtocol") -> None:
        """Forget a connection that does not wait any more."""
        name = connection.client_name
        if connection in self._of.get(name, ()):
            del self._of[name][connection]
            if not self._of[name]:
                del self._of[name]

    def _close_oldest(self, name: str) -> None:
        oldest = next(iter(self._of[name]))
        self.remove(oldest)
        oldest.transport.abort()

    def _is_trusted(self, connection: "TimedProtocol") -> bool:
        if not self._trusted or connection.client is None:
            return False
        address = ipaddress.ip_address(connection.client[0])
        return any(address in network for network in self._trusted)


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with a deadline for each header and each answer.

    The rest of a body that was refused is part of the next header's time. A body that is read has a deadline of its
    own, in `Gate`.
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
        if caller := common_name(transport.get_extra_info("peercert")):
            self.app_state = {**self.app_state, "caller": caller}
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
            self._write_timer = self.loop.call_later(self._waiting.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _look(self) -> None:
        """Start or stop the time for a header, by whether a request is under way."""
        if self._is_lost or (self.cycle is not None and not self.cycle.response_complete):
            self._stop_waiting()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(self._waiting.seconds, self.transport.abort)
            self._waiting.add(self)

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        self._waiting.remove(self)


class _StrictConnection(h11.Connection):
    """h11 takes a line of a header that ends in LF alone; proxies do not agree on that."""

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            data, _ = self.trailing_data
            end = _END_OF_HEADER.search(data)
            if _BARE_LF.search(data, 0, end.end() if end else len(data)):
                raise h11.RemoteProtocolError("a line of the header ends in LF without CR")
        return super().next_event()
