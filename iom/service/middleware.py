"""Middleware: authentication, rate and size limits before a body is read, security headers, log and metrics."""

import asyncio
import logging
import time
import traceback
from collections.abc import Callable, Mapping

from fastapi import HTTPException
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from iom.errors import DataError
from iom.service.rate_limit import RateLimit, client_network
from iom.service.settings import ServiceSettings
from iom.service.tokens import TokenFile

LOG = logging.getLogger("iom.service")
CLOSED_BY_CALLER = 499
"""Status in logs and metrics of a request whose client disconnected."""
RETRY_SOON = {"Retry-After": "1"}
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "content-security-policy": CONTENT_POLICY,
}
"""Headers of every response, where a route has none of the name."""


class Metrics:
    """Prometheus metrics of requests and decisions; no label names a subject."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("iom_requests", "Requests.", ["action", "status"], registry=self.registry)
        self.seconds = Histogram("iom_request_seconds", "Time of a request.", ["action"], registry=self.registry)
        self._decisions = Counter("iom_decisions", "Comparisons.", ["action", "match"], registry=self.registry)

    def decide(self, action: str, match: bool) -> None:
        self._decisions.labels(action, str(match).lower()).inc()


class Gate:
    """ASGI middleware; routes find the token in `scope["iom.token"]` and check what it permits.

    The log holds the token's name, the action, the status and the time: no subject, no application, no path as it was
    received, nothing of a body. Requests for the page are logged at level DEBUG. Paths for which `is_open` holds need
    no token. Each response gets `headers`, where its route has not set one of the name.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: TokenFile,
        settings: ServiceSettings,
        metrics: Metrics,
        is_open: Callable[[str], bool],
        headers: Mapping[str, str] = HEADERS,
    ) -> None:
        self._app, self._tokens = app, tokens
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._settings, self._metrics, self._is_open = settings, metrics, is_open
        self._rate = RateLimit(settings.rate, settings.burst)
        self._without_token = RateLimit(settings.rate, settings.burst)
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status, sent = time.perf_counter(), 500, False

        async def answer(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status, sent = message["status"], True
                own = list(message.get("headers", []))
                known = {name for name, _ in own}
                message["headers"] = own + [pair for pair in self._headers if pair[0] not in known]
            await send(message)

        counts = False
        try:
            self._check(scope)
            counts = not self._is_open(scope["path"])
            self._under_way += counts
            await self._app(scope, self._limited(receive), answer)
        except ClientDisconnect:
            status = CLOSED_BY_CALLER
        except Exception as error:
            refusal = error if isinstance(error, HTTPException) else HTTPException(500, "Internal server error")
            if refusal is not error:
                # The message of an unforeseen error may hold anything; its type and place do not.
                place = traceback.extract_tb(error.__traceback__)[-1]
                LOG.error("%s at %s:%s", type(error).__name__, place.filename, place.lineno)
            if not sent:
                response = JSONResponse({"detail": refusal.detail}, refusal.status_code, refusal.headers)
                await response(scope, receive, answer)
        finally:
            self._under_way -= counts
            route = getattr(scope.get("route"), "path", "")
            parts = [part for part in route.split("/") if part and not part.startswith("{")]
            action = parts[-1] if parts else "page" if route else "none"
            seconds = time.perf_counter() - begin
            self._metrics.requests.labels(action, str(status)).inc()
            self._metrics.seconds.labels(action).observe(seconds)
            name = scope["iom.token"].name if scope.get("iom.token") else "-"
            level = logging.DEBUG if self._is_open(scope["path"]) else logging.INFO
            LOG.log(level, "%s %s %d %.1f ms", name, action, status, 1e3 * seconds)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if not self._is_open(scope["path"]):
            scheme, _, text = headers.get(b"authorization", b"").partition(b" ")
            try:
                token = self._tokens.find(text.decode("latin-1").strip())
            except DataError:
                LOG.error("the token file cannot be read; all requests are refused")
                raise HTTPException(503, "The service is not ready; retry later", RETRY_SOON) from None
            if scheme.lower() != b"bearer" or token is None:
                # Only clients without a token are limited by address: behind a proxy all share one.
                _admit(self._without_token, client_network((scope.get("client") or ("-",))[0]))
                raise HTTPException(401, "A valid bearer token is required", {"WWW-Authenticate": "Bearer"})
            scope["iom.token"] = token
            _admit(self._rate, token.name)
            if self._under_way >= self._settings.max_requests:
                raise HTTPException(503, "Too many concurrent requests; retry later", RETRY_SOON)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self._settings.max_body:
            raise self._too_large()

    def _limited(self, receive: Receive) -> Receive:
        """`receive` with limits on bytes and time; FastAPI replaces errors that are no `HTTPException` in there."""
        total, is_complete = 0, False
        end = time.monotonic() + self._settings.wait_for_body

        async def limited() -> Message:
            nonlocal total, is_complete
            if is_complete:  # what follows is only the disconnection
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), end - time.monotonic())
            except TimeoutError:
                raise HTTPException(408, "The request was received too slowly") from None
            total += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if total > self._settings.max_body:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"The request is too large: at most {self._settings.max_body} bytes")


def _admit(limit: RateLimit, caller: str) -> None:
    if wait := limit.wait(caller):
        raise HTTPException(429, "Too many requests; retry later", {"Retry-After": str(int(wait) + 1)})
