"""Run the service: bind first, load then, stop after the requests that are under way."""

import asyncio
import contextlib
import ipaddress
import logging
import math
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from iom.errors import ConfigError
from iom.service.connections import Network, timed_protocol
from iom.service.settings import ServiceSettings

SECONDS_TO_STOP = 30
"""For requests that are under way when the service is told to stop."""

Opener = Callable[[str], contextlib.AbstractContextManager[tuple[FastAPI, str]]]


def serve(
    opened: Opener,
    *,
    host: str,
    port: int,
    certificate: Path | None = None,
    certificate_key: Path | None = None,
    proxies: Sequence[str] = (),
    settings: ServiceSettings | None = None,
    ready: Callable[[str], None],
) -> int:
    """Serve until SIGINT or SIGTERM.

    Args:
        opened: Address to the application and to what is told when it serves.
        host: Address to listen on.
        port: Port; 0 is any that is free.
        certificate: PEM, for TLS.
        certificate_key: Its key.
        proxies: Addresses or networks whose `X-Forwarded-For` is believed.
        settings: Limits of connections.
        ready: Called with that text.

    Returns:
        0.

    Raises:
        ConfigError: The address cannot be listened on, the certificate cannot be used, or a proxy
            is not an address.
    """
    settings = settings or ServiceSettings()
    trusted = tuple(_network(each) for each in proxies)
    if (certificate is None) != (certificate_key is None):
        raise ConfigError("expected both a certificate and its key, or neither")
    with _listening(host, port) as listener:
        number = listener.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        with opened(f"http{'s' * (certificate is not None)}://{name}:{number}") as (app, text):
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
            # It tells bytes of bodies that are no forms.
            logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
            config = uvicorn.Config(
                app,
                access_log=False,  # the service writes its own, without paths
                log_config=None,
                log_level="warning",
                server_header=False,
                http=timed_protocol(settings, trusted),
                ws="none",
                loop="none",
                proxy_headers=bool(trusted),
                forwarded_allow_ips=[str(each) for each in trusted],
                timeout_keep_alive=math.ceil(settings.header_seconds),
                timeout_graceful_shutdown=SECONDS_TO_STOP,
                ssl_certfile=certificate,
                ssl_keyfile=certificate_key,
            )
            try:
                config.load()
            except OSError as error:
                raise ConfigError(
                    f"cannot use the certificate {certificate} with the key {certificate_key}: {error}"
                ) from error
            server = _Server(config, lambda: ready(text))
            with asyncio.Runner(loop_factory=lambda: _Loop(settings.header_seconds)) as runner:
                runner.run(server.serve(sockets=[listener]))
    return 0


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose servers give a TLS handshake and its end no more time than a header."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = options["ssl_shutdown_timeout"] = self._seconds
        return await super().create_server(*args, **options)


class _Server(uvicorn.Server):
    """One that says when it serves, and ends quietly: to be stopped is what it is there for."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        before = [signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)]
        try:
            yield
        finally:
            for each, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
                signal.signal(each, handler)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(
            f"--proxy: expected an address or a network such as 10.0.0.0/24, received {text!r}"
        ) from error


def _listening(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on {host}, port {port}: {reason}") from error
    return listener
