"""Files that a service gives to anybody: the parts of its page, and models for browsers."""

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from iom._files import sha256_of
from iom.errors import ConfigError

_KINDS = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
_OTHER_KIND = "application/octet-stream"
_HASHED = "client/"
"""Folder of a page whose files have names that change with their content."""
_FOR_EVER, _ASK_FIRST = "public, max-age=31536000, immutable", "no-cache"
_PACKED = ".gz"


@dataclasses.dataclass(frozen=True)
class StaticFile:
    """A file as it is served: its media type, the tag of its content, how long it may be kept, and it in gzip."""

    path: Path
    kind: str
    tag: str
    cache: str
    packed: Path | None = None

    @classmethod
    def of(cls, path: Path, *, digest: str = "", for_ever: bool = False) -> "StaticFile":
        """The file at a path; `digest` is its SHA-256 where that is known, `for_ever` lets clients keep it."""
        packed = path.with_name(path.name + _PACKED)
        return cls(
            path,
            _KINDS.get(path.suffix, _OTHER_KIND),
            (digest or sha256_of(path))[:32],
            _FOR_EVER if for_ever else _ASK_FIRST,
            packed if packed.is_file() else None,
        )

    def response(self, request: Request) -> Response:
        """The answer to a request: the file in pieces, or that the copy of the client is still the same."""
        packed = self.packed if _accepts_gzip(request.headers.get("accept-encoding", "")) else None
        tag = f'"{self.tag}{"-gz" if packed else ""}"'
        headers = {"ETag": tag, "Cache-Control": self.cache, "Accept-Ranges": "none"}
        if self.packed:
            headers["Vary"] = "Accept-Encoding"
        if tag in {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}:
            return Response(status_code=304, headers=headers)
        if packed:
            headers["Content-Encoding"] = "gzip"
        return _WholeFile(packed or self.path, media_type=self.kind, headers=headers)


class _WholeFile(FileResponse):
    """A file in pieces of 64 KiB, so that a slow client takes it as slowly as it can; the header `Range` is ignored.

    Clients of these files need no ranges, and requests for very many of them have been costly to read.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [pair for pair in scope["headers"] if pair[0] != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)


def files_under(folder: Path) -> dict[str, StaticFile]:
    """All files of a folder by their path under `/`; `page.html` is `/` itself, and `NAME.gz` is a form of `NAME`."""
    found = {}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        name = path.relative_to(folder).as_posix()
        if not (name.endswith(_PACKED) and path.with_suffix("").is_file()):
            for_ever = name.startswith(_HASHED)
            found["/" if name == "page.html" else f"/{name}"] = StaticFile.of(path, for_ever=for_ever)
    return found


def add_files(app: FastAPI, files: Mapping[str, StaticFile]) -> None:
    """Routes for files by their paths.

    Raises:
        ConfigError: A path that would be a pattern of paths.
    """
    if bad := next((path for path in files if "{" in path), None):
        raise ConfigError(f"{bad}: expected a name without braces; give the file another one")
    for path, file in files.items():
        app.get(path, include_in_schema=False)(_serving(file))


def _serving(file: StaticFile) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        return file.response(request)

    return serve


def _accepts_gzip(text: str) -> bool:
    for each in text.lower().split(","):
        name, _, weight = each.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
