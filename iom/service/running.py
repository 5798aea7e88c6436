"""Run the service: bind first, load then, stop after the requests that are under way."""

import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from iom.errors import ConfigError

MOST_CONNECTIONS = 128
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
    ready: Callable[[str], None],
) -> int:
    """Serve until SIGINT or SIGTERM.

    Args:
        opened: Address to the application and to what is told when it serves.
        host: Address to listen on.
        port: Port; 0 is any that is free.
        certificate: PEM, for TLS.
        certificate_key: Its key.
        ready: Called with that text.

    Returns:
        0.

    Raises:
        ConfigError: The address cannot be listened on, or the certificate cannot be used.
    """
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
                limit_concurrency=MOST_CONNECTIONS,
                timeout_keep_alive=10,
                timeout_graceful_shutdown=SECONDS_TO_STOP,
                ssl_certfile=certificate,
                ssl_keyfile=certificate_key,
            )
            try:
                config.load()
            except OSError as error:
                raise ConfigError(
                    f"cannot use the certificate {certificate} with the key {certificate_key}: "
                    f"{error}"
                ) from error
            _Server(config, lambda: ready(text)).run(sockets=[listener])
    return 0


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
