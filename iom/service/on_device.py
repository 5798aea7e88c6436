"""FastAPI application over a gallery of codes that devices make: JSON routes, and the files of the page.

No image, no embedding and no key of a code comes in: a request has a code and the signature of its device over a nonce
that serves once (`iom.gallery.device_messages`). The page, the client library in it and the artefact that it runs are
served from here, under a policy that lets the page load nothing from elsewhere.
"""

import base64
import contextlib
import dataclasses
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.middleware.cors import CORSMiddleware

import iom.service.routes as shared
from iom._untrusted import parse_json
from iom.errors import ConfigError, DeviceError
from iom.gallery.device_messages import HASHER_DIGITS, KEY_DIGITS, NONCE_BYTES, SIGNATURE_BYTES, DeviceMessage
from iom.gallery.models import MAX_SUBJECT_ID_LENGTH
from iom.gallery.on_device import NONCE_SECONDS, OnDeviceGallery
from iom.models.artifact import manifest_path, read_manifest
from iom.service.middleware import CONTENT_POLICY, HEADERS, Metrics
from iom.service.rate_limit import Backoff
from iom.service.routes import (
    POSTED,
    Application,
    EnrolResponse,
    ReadyResponse,
    RevokeResponse,
    VerifyResponse,
    problems,
)
from iom.service.settings import ServiceSettings
from iom.service.static_files import StaticFile, add_files, files_under
from iom.service.tokens import TokenFile

PAGE_FOLDER = Path(__file__).parent / "on_device_page"
"""The built page with the client library; `make web` fills it."""
ARTIFACT_PATH = "/artefact/"
MAX_BODY = 2**18
"""Bytes of a request: the longest code takes 64 KiB, in base64 a third more."""
_DESCRIPTION = """\
Verification on the device: a browser, or another client, keeps face and key, and sends codes.

All requests except the page, its files and health checks carry `Authorization: Bearer TOKEN`; a token is valid for one
application and one role. Bodies are JSON objects; binary values are base64url without padding. Each request about a
subject is signed by the subject's device, over a nonce of `POST /v1/APPLICATION/nonce` that serves once. An error is
`{"detail": "..."}`; `Retry-After` of 429 and 503 says when to retry.
"""
# WebAssembly is compiled by scripts of this origin alone; a worker keeps the page usable without a network.
_POLICY = (
    CONTENT_POLICY.replace("script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'")
    + "; worker-src 'self'; manifest-src 'self'"
)
_ORIGIN = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?")


def _headers(other: str) -> dict[str, str]:
    """Headers of every response; the page may send to the `other` service of shares, too."""
    return {
        **HEADERS,
        "content-security-policy": _POLICY.replace("connect-src 'self'", f"connect-src 'self' {other}".rstrip()),
        # Both isolate the page, without which a browser gives it no threads.
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-embedder-policy": "require-corp",
    }


def decoded(text: object) -> bytes:
    """The bytes of base64url without padding; a text has one form, and no other is accepted."""
    try:
        if isinstance(text, str):
            data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            if encoded(data) == text:
                return data
    except ValueError:
        pass
    raise PydanticCustomError("base64url", "expected base64url without padding")


def encoded(data: bytes) -> str:
    """Bytes as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _sized(size: int) -> AfterValidator:
    def check(data: bytes) -> bytes:
        if len(data) != size:
            raise PydanticCustomError("size", f"expected {size} bytes, received {len(data)}")
        return data

    return AfterValidator(check)


_BASE64 = BeforeValidator(decoded), WithJsonSchema({"type": "string", "description": "base64url without padding"})
_Bytes = Annotated[bytes, *_BASE64]
_Nonce = Annotated[bytes, *_BASE64, _sized(NONCE_BYTES)]
_Signature = Annotated[bytes, *_BASE64, _sized(SIGNATURE_BYTES)]
_SubjectText = Annotated[
    str,
    AfterValidator(shared.checked_subject),
    Field(min_length=1, max_length=MAX_SUBJECT_ID_LENGTH, examples=["alice"]),
]


def _digits(count: int, description: str) -> Any:
    return Field(pattern=rf"^[0-9a-f]{{{count}}}$", description=description)


_Hasher = Annotated[str, _digits(HASHER_DIGITS, "Fingerprint of the hasher, as its manifest has it.")]
_Key = Annotated[str, _digits(KEY_DIGITS, "Public identifier of the transform key.")]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class NonceBody(_Body):
    """An empty object."""


class _Signed(_Body):
    subject: _SubjectText
    nonce: _Nonce
    signature: _Signature

    def message(self, action: str, application: str) -> DeviceMessage:
        """What the signature is over."""
        known = {field.name for field in dataclasses.fields(DeviceMessage)}
        fields = {name: value for name, value in self if name in known and value is not None}
        return DeviceMessage(action=action, application=application, **fields)


class RevokeBody(_Signed):
    """A device revokes its own subject."""


class _Coded(_Signed):
    hasher: _Hasher
    key: _Key
    code: _Bytes


class VerifyBody(_Coded):
    """A code to compare, or a share of it."""

    other: _Bytes | None = Field(default=None, description="Where codes are in shares: what the other service sealed.")


class ShareBody(_Coded):
    """The share of a code, for the service of the other shares."""

    other_nonce: _Nonce = Field(description="The nonce of the request to the other service.")


class EnrolBody(_Coded):
    """A new subject's code and device."""

    device: _Bytes
    returning: bool = Field(default=False, description="Bring a revoked subject back; needs a token of an admin.")


class RenewBody(_Coded):
    """A code under another key, and perhaps another device."""

    device: _Bytes | None = None
    device_signature: _Signature | None = Field(
        default=None, description="Of the new device over the same message, where `device` is another one."
    )


class NonceResponse(BaseModel):
    """A nonce for one request."""

    nonce: str = Field(description="base64url without padding.")
    seconds: int = Field(description="Time in which it serves.", examples=[NONCE_SECONDS])


class ShareResponse(BaseModel):
    """What the shares of template and probe differ by here."""

    difference: str = Field(description="base64url without padding, sealed for the other service.")


class _StrictJson(Request):
    """A request whose JSON names nothing twice: this service would take the last, a proxy may check the first."""

    async def json(self) -> Any:
        try:
            return parse_json(await self.body(), max_bytes=MAX_BODY, unique_names=True)
        except ValueError as error:
            raise HTTPException(422, f"body: {_without_content(error)}") from None


def _without_content(error: ValueError) -> str:
    """The problem, without the texts of errors that may repeat the body."""
    text = str(error)
    return text if text.startswith("expected") else "expected a JSON object in UTF-8 with each name once"


class _StrictRoute(APIRoute):
    def get_route_handler(self) -> Any:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Any:
            return await handle(_StrictJson(request.scope, request.receive))

        return strict


def create_on_device_app(
    gallery: OnDeviceGallery,
    artifact: Path,
    tokens: TokenFile,
    settings: ServiceSettings,
    *,
    page: Path | None = None,
    other: str = "",
) -> FastAPI:
    """The application over a gallery; whoever opened it closes it.

    Args:
        gallery: Gallery of applications in key mode `device`, or with a `side` in key mode `device-share`.
        artifact: `NAME.web`, the artefact that devices run, with its manifest beside it.
        tokens: Who may ask.
        settings: Limits; a body has `MAX_BODY` bytes at most.
        page: Folder of the built page; by default `PAGE_FOLDER`. Where the gallery is on side b there is none.
        other: Where codes are in shares: on side a the address of the other service, on side b the address that the
            page comes from, such as `https://faces.example`.

    Raises:
        ConfigError: The page is not built.
        WeightsError: The artefact is missing or damaged.
    """
    side = gallery.side.name if gallery.side else ""
    if bool(side) != bool(other) or not (_ORIGIN.fullmatch(other) or not other):
        raise ConfigError(
            f"other: expected the address of the other service of shares, https://HOST[:PORT], received {other!r:.100}"
        )
    files = {} if side == "b" else {**page_files(page), **artifact_files(artifact)}
    settings = dataclasses.replace(settings, max_body=min(settings.max_body, MAX_BODY))
    open_paths = shared.OPEN_PATHS.union(files)
    metrics = Metrics()
    app = shared.new_app(
        tokens,
        settings,
        metrics,
        description=_DESCRIPTION,
        is_open=open_paths.__contains__,
        headers=_headers(other if side == "a" else ""),
    )
    if side == "b":  # outside of the gate: a browser asks without a token whether it may ask
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[other],
            allow_methods=["POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    router = shared.gallery_router(forms=False)
    router.route_class = _StrictRoute
    _add_code_routes(router, gallery, metrics, settings)
    app.include_router(router)
    forms = shared.gallery_router()
    shared.add_admin_routes(forms, gallery)
    app.include_router(forms)
    address = ARTIFACT_PATH + urllib.parse.quote(manifest_path(artifact).name)
    state = ReadyResponse(
        aligns=False,
        scores=settings.scores,
        samples=0,
        on_device=True,
        manifest=None if side == "b" else address,
        other=other if side == "a" else None,
    )
    shared.add_service_routes(app, gallery, metrics.registry, state)
    add_files(app, files)
    return app


def page_files(folder: Path | None = None) -> dict[str, StaticFile]:
    """The files of the built page by path, by default those of `PAGE_FOLDER`; a `ConfigError` where it is not built."""
    folder = folder or PAGE_FOLDER
    if not (folder / "page.html").is_file():
        raise ConfigError(f"the page for devices is not built: expected {folder / 'page.html'}; run make web")
    return files_under(folder)


def artifact_files(artifact: Path) -> dict[str, StaticFile]:
    """The files of an artefact and its manifest by path."""
    manifest = read_manifest(artifact)
    found = {
        ARTIFACT_PATH + name: StaticFile.of(artifact.parent / name, digest=digest)
        for name, digest in manifest.files.items()
    }
    path = manifest_path(artifact)
    return {**found, ARTIFACT_PATH + path.name: StaticFile.of(path)}


def _add_code_routes(router: APIRouter, gallery: OnDeviceGallery, metrics: Metrics, settings: ServiceSettings) -> None:
    backoff = Backoff(settings.failures, gallery.log)

    @router.post("/nonce", name="nonce", responses=problems(*POSTED))
    def nonce(application: Application, body: NonceBody) -> NonceResponse:
        """A nonce for one signed request."""
        return NonceResponse(nonce=encoded(gallery.new_nonce(application)), seconds=NONCE_SECONDS)

    @router.post("/enroll-code", name="enroll-code", responses=problems(*POSTED, 409, 410))
    def enroll(request: Request, application: Application, body: EnrolBody) -> EnrolResponse:
        """Enrol a subject's code and device, which signs; a revoked subject is refused."""
        if body.returning and not request.scope["iom.token"].allows("revoke", application):
            raise HTTPException(403, "The token does not permit to bring a revoked subject back")
        message = body.message("enroll", application)
        with _counted(backoff, request, message):
            new = gallery.enroll_code(message, body.signature, returning=body.returning)
        return EnrolResponse(subject=body.subject, slots=[new.slot])

    if gallery.side is not None and gallery.side.name == "b":
        _add_share_route(router, gallery, backoff)
    else:
        _add_verify_route(router, gallery, backoff, metrics, settings)

    @router.post("/renew-code", name="renew-code", responses=problems(*POSTED, 409, 410))
    def renew(request: Request, application: Application, body: RenewBody) -> EnrolResponse:
        """Replace a subject's code by one under another key, in one step; its device signs, and so does a new one."""
        message = body.message("renew", application)
        with _counted(backoff, request, message):
            new = gallery.renew_code(message, body.signature, body.device_signature or b"")
        return EnrolResponse(subject=body.subject, slots=[new.slot])

    @router.post("/revoke-code", name="revoke-code", responses=problems(*POSTED, 409, 410))
    def revoke(request: Request, application: Application, body: RevokeBody) -> RevokeResponse:
        """Revoke a subject for good; its device signs."""
        message = body.message("revoke", application)
        with _counted(backoff, request, message):
            return RevokeResponse(revoked=gallery.revoke_code(message, body.signature))


def _add_verify_route(
    router: APIRouter, gallery: OnDeviceGallery, backoff: Backoff, metrics: Metrics, settings: ServiceSettings
) -> None:
    @router.post(
        "/verify-code", name="verify-code", responses=problems(*POSTED, 409, 410), response_model_exclude_none=True
    )
    def verify(request: Request, application: Application, body: VerifyBody) -> VerifyResponse:
        """Compare a code with the one of a subject, whose device signs."""
        message = body.message("verify", application)
        with _counted(backoff, request, message):
            enrolled = gallery.admit(message, body.signature)
        with backoff.verification(request.scope["iom.token"].name, application, body.subject) as attempt:
            decision = gallery.compare(enrolled, message, body.other or b"")
            attempt.is_match = decision.match
        metrics.decide("verify", decision.match)
        return VerifyResponse.of(decision, scores=settings.scores)


def _add_share_route(router: APIRouter, gallery: OnDeviceGallery, backoff: Backoff) -> None:
    @router.post("/verify-share", name="verify-share", responses=problems(*POSTED, 409, 410))
    def difference(request: Request, application: Application, body: ShareBody) -> ShareResponse:
        """What the share of a code differs by from the one of a subject, whose device signs; the other service decides.

        This one does not learn the outcome, and counts every attempt as one that failed.
        """
        message = body.message("verify", application)
        with _counted(backoff, request, message):
            enrolled = gallery.admit(message, body.signature)
        with backoff.verification(request.scope["iom.token"].name, application, body.subject) as attempt:
            sealed = gallery.difference(enrolled, message, body.other_nonce)
            attempt.is_match = False
        return ShareResponse(difference=encoded(sealed))


@contextlib.contextmanager
def _counted(backoff: Backoff, request: Request, message: DeviceMessage) -> Iterator[None]:
    """Count requests that the device of the subject did not sign, under a budget that no verification takes from."""
    try:
        yield
    except DeviceError:
        backoff.refusal(request.scope["iom.token"].name, message.application, message.subject)
        raise
