"""Server for other programs of an installation, over mutual TLS: an action and bytes in, bytes out.

The caller is the common name of its certificate, see `iom._peers`, whose `PeerClient` is the other side.
"""

import asyncio
import contextlib
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from starlette.types import Receive, Scope, Send

from iom._peers import PREFIX, TlsFiles, error_to_json
from iom.errors import (
    BusyError,
    DataError,
    IomError,
    NotPermittedError,
    PeerError,
    RateLimitError,
    StoreError,
    WorkerError,
)
from iom.service.rate_limit import RateLimit
from iom.service.server import listening, serve
from iom.service.settings import ConnectionSettings

LOG = logging.getLogger("iom.service")
Handler: TypeAlias = Callable[[str, bytes], bytes]
"""An action: name of the caller and body of the request to the body of the answer. It runs in a thread."""
PEER_SETTINGS = ConnectionSettings(header_seconds=30.0, rate=2000.0, burst=4000)
"""Limits for callers that are programs; connections live longer than a `PeerClient` keeps an unused one."""
_THREADS = 16
_STATUS: tuple[tuple[type[IomError], int], ...] = (
    (NotPermittedError, 403),
    (RateLimitError, 429),
    (BusyError, 503),
    (StoreError, 503),
    (PeerError, 502),
    (DataError, 422),
)
"""Status of an error, the first that fits; 409 for all others."""


class PeerApp:
    """ASGI application of actions, served at `POST /v1/ACTION`; whoever made it closes it.

    Args:
        handlers: Function of each action. An `IomError` of it reaches the caller as the same class; any other error
            is logged by its type and place alone, and the caller is told nothing of it.
        settings: Limits of a request and of a caller.
        admit: Called with the caller and the action before the body is read; it raises an `IomError` for a caller that
            may not ask for it. Without it, all may whose certificate the authority signed.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        settings: ConnectionSettings = PEER_SETTINGS,
        *,
        admit: Callable[[str, str], None] = lambda caller, action: None,
    ) -> None:
        self._handlers, self._settings = dict(handlers), settings
        self._admit = admit
        self._rate = RateLimit(settings.rate, settings.burst)
        self._pool = ThreadPoolExecutor(_THREADS, "peers")
        self._under_way = 0

    def close(self) -> None:
        """Wait for running handlers and end the threads."""
        self._pool.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin, caller, action = time.perf_counter(), scope["state"].get("caller", ""), "none"
        self._under_way += 1
        try:
            action, handler = self._admitted(scope, caller)
            body = await self._body(scope, receive)
            if body is None:
                return  # the caller is gone
            answer = await asyncio.get_running_loop().run_in_executor(self._pool, handler, caller, body)
            status, retry = 200, 0.0
        except IomError as error:
            answer, retry = error_to_json(error), float(getattr(error, "retry_after", 0))
            status = next((status for kind, status in _STATUS if isinstance(error, kind)), 409)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            LOG.error("%s at %s:%s", type(error).__name__, place.filename, place.lineno)
            answer, status, retry = error_to_json(WorkerError("internal error of the server; see its log")), 500, 0.0
        finally:
            self._under_way -= 1
        LOG.debug("%s %s %d %.1f ms", caller or "-", action, status, 1e3 * (time.perf_counter() - begin))
        if status >= 400:
            LOG.info("%s %s refused: %d", caller or "-", action, status)
        headers = [(b"content-length", b"%d" % len(answer)), (b"cache-control", b"no-store")]
        if retry:
            headers.append((b"retry-after", b"%d" % (int(retry) + 1)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _admitted(self, scope: Scope, caller: str) -> tuple[str, Handler]:
        """The action of a request and its function."""
        if not caller:
            raise NotPermittedError("expected a certificate with one common name of letters, digits and '_.-'")
        if wait := self._rate.wait(caller):
            raise RateLimitError(f"too many requests; retry in {wait:.1f} s", retry_after=wait)
        if self._under_way > self._settings.max_requests:
            raise BusyError("too many concurrent requests; retry later")
        path, method = scope["path"], scope["method"]
        action = path[len(PREFIX) :] if path.startswith(PREFIX) else ""
        if method != "POST" or action not in self._handlers:
            raise DataError(f"expected POST {PREFIX}ACTION, one of {', '.join(sorted(self._handlers))}")
        self._admit(caller, action)
        return action, self._handlers[action]

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        most = self._settings.max_body
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not length.isdigit() or int(length[:20]) > most:
            raise DataError(f"the request is too large: at most {most} bytes")
        parts, total = [], 0
        try:
            async with asyncio.timeout(self._settings.wait_for_body):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    total += len(parts[-1])
                    if total > most:
                        raise DataError(f"the request is too large: at most {most} bytes")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise DataError("the request was received too slowly") from None


def serve_peers(
    app: PeerApp,
    listener: socket.socket,
    tls: TlsFiles,
    settings: ConnectionSettings = PEER_SETTINGS,
    *,
    ready: Callable[[], None] = lambda: None,
    stop: threading.Event | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, or until `stop` is set; `tls` needs its authority, and TLS 1.3 is required."""
    tls.check()
    with contextlib.closing(app):
        serve(app, listener, settings, tls=tls, ready=ready, stop=stop)


@contextlib.contextmanager
def peers_in_background(
    app: PeerApp, tls: TlsFiles, settings: ConnectionSettings = PEER_SETTINGS, *, host: str = "127.0.0.1", port: int = 0
) -> Iterator[str]:
    """Serve in a thread of its own, for tests and benchmarks; yields the URL."""
    stop, ready = threading.Event(), threading.Event()
    problem: list[BaseException] = []

    def work() -> None:
        try:
            serve_peers(app, listener, tls, settings, ready=ready.set, stop=stop)
        except BaseException as error:
            problem.append(error)
        finally:
            ready.set()

    with listening(host, port) as listener:
        thread = threading.Thread(target=work, name="peers")
        thread.start()
        try:
            ready.wait()
            if problem:
                raise problem[0]
            yield f"https://{host}:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()
