"""Parts of every HTTP service of a gallery: errors, guards, health checks, metrics and the routes of an admin."""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Form, HTTPException, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from iom.errors import (
    BusyError,
    DataError,
    DeviceError,
    EnrolmentError,
    NotEnrolledError,
    RateLimitError,
    RevokedError,
    StoreError,
    TokenError,
    TooLargeError,
    UnknownApplicationError,
    WorkerError,
)
from iom.gallery.gallery import Gallery
from iom.gallery.models import MAX_SUBJECT_ID_LENGTH, check_subject_id
from iom.gallery.stores.base import StoreStats
from iom.models.verification import Verification
from iom.service.middleware import HEADERS, LOG, RETRY_SOON, Gate, Metrics
from iom.service.settings import ServiceSettings
from iom.service.tokens import TokenFile

_BEARER = HTTPBearer(auto_error=False, description="Made by `iom make-token`: one application, one role.")
_STATUS: dict[type[Exception], int] = {
    TooLargeError: 413,
    DataError: 422,
    RevokedError: 410,
    NotEnrolledError: 404,
    UnknownApplicationError: 404,
    TokenError: 403,
    DeviceError: 403,
    EnrolmentError: 409,
    BusyError: 503,
}


Score = Annotated[int | None, Field(description="Differing positions; only where the service shows scores.")]


class EnrolResponse(BaseModel):
    """References that were enrolled."""

    subject: str = Field(examples=["alice"])
    slots: list[int] = Field(description="Numbers of the new references among the subject's.", examples=[[0, 1]])


class VerifyResponse(BaseModel):
    """Outcome of a verification."""

    match: bool
    distance: Score = None
    threshold: Score = None

    @classmethod
    def of(cls, decision: Verification, *, scores: bool) -> "VerifyResponse":
        """The answer about a decision, with its distance where `scores` are shown."""
        shown = {"distance": decision.distance, "threshold": decision.threshold} if scores else {}
        return cls(match=decision.match, **shown)


class RevokeResponse(BaseModel):
    """References that were revoked."""

    revoked: int = Field(description="Number of references.", examples=[2])


class ReadyResponse(BaseModel):
    """The service is ready for requests."""

    status: str = "ready"
    aligns: bool = Field(description="Photographs are accepted; otherwise only aligned 112x112 faces.")
    scores: bool = Field(description="Distances are shown.")
    samples: int = Field(description="Number of synthetic faces to try the service with.")
    on_device: bool = Field(default=False, description="Devices make the codes; no image is accepted.")
    manifest: str | None = Field(default=None, description="Path of the manifest of the artefact for devices.")
    other: str | None = Field(default=None, description="Address of the service that has the other shares of codes.")


class Problem(BaseModel):
    """A refused request."""

    detail: str = Field(examples=["image: expected an image, received an empty file"])


_EXAMPLES = {
    400: "There was an error parsing the body",
    401: "A valid bearer token is required",
    403: "The token does not permit this",
    404: "subject 'alice' is not enrolled in default",
    408: "The request was received too slowly",
    409: "subject 'alice' is enrolled already",
    410: "subject 'alice' was revoked; renew it to bring it back",
    413: "The request is too large: at most 8388608 bytes",
    422: "photograph: expected a face, found none",
    429: "Too many requests; retry later",
    500: "Internal server error",
    503: "Too many concurrent images; retry later",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` argument of a route with these error statuses; FastAPI describes them by HTTP's own names."""
    return {
        status: {"model": Problem, "content": {"application/json": {"example": {"detail": _EXAMPLES[status]}}}}
        for status in sorted(statuses)
    }


def checked_subject(text: str) -> str:
    """A subject id in NFC; for pydantic."""
    try:
        return check_subject_id(text)
    except EnrolmentError as error:
        raise PydanticCustomError("subject_id", "{problem}", {"problem": str(error)}) from None


Application = Annotated[str, InPath(description="Name of the application.", examples=["default"], max_length=64)]
Subject = Annotated[
    str,
    AfterValidator(checked_subject),
    Form(
        description="Subject id: printable characters, no space at its ends.",
        min_length=1,
        max_length=MAX_SUBJECT_ID_LENGTH,
        examples=["alice"],
    ),
]


def _permitted(request: Request) -> None:
    """Refuse a token that does not permit the route's action on the application in its path."""
    token = request.scope.get("iom.token")
    if token is None or not token.allows(request.scope["route"].name, request.path_params.get("application")):
        raise HTTPException(403, "The token does not permit this")


async def _each_field_once(request: Request) -> None:
    """Refuse repeated fields: the framework would take the last, a proxy may check the first."""
    if request.method != "POST":
        return
    form = await request.form()  # read already
    for name in form:
        if name != "images" and len(form.getlist(name)) > 1:
            raise HTTPException(422, f"{name}: expected one, received {len(form.getlist(name))}")


GUARDS = [Depends(_BEARER), Depends(_permitted)]
GUARDED, POSTED = (401, 403, 429, 500, 503), (400, 404, 408, 413, 422)
"""Statuses of all guarded routes, and those that a body adds."""


OPEN_PATHS = frozenset({"/health/live", "/health/ready", "/openapi.json"})
"""Paths that need no token in every service."""


def new_app(
    tokens: TokenFile,
    settings: ServiceSettings,
    metrics: Metrics,
    *,
    description: str,
    is_open: Callable[[str], bool],
    headers: Mapping[str, str] = HEADERS,
) -> FastAPI:
    """An application with its gate and its errors, and no routes yet; `is_open` and `headers` are those of `Gate`."""
    # FastAPI's documentation pages load scripts from another host; /openapi.json stays.
    app = FastAPI(
        title="iom",
        version="1",
        summary="Cancellable face templates over HTTP.",
        description=description,
        license_info={"name": "MIT", "identifier": "MIT"},
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.add_middleware(Gate, tokens=tokens, settings=settings, metrics=metrics, is_open=is_open, headers=headers)
    _add_errors(app)
    return app


def gallery_router(*, forms: bool = True) -> APIRouter:
    """A router for the guarded routes of an application, which take forms."""
    guards = [*GUARDS, Depends(_each_field_once)] if forms else GUARDS
    return APIRouter(prefix="/v1/{application}", tags=["gallery"], dependencies=guards, responses=problems(*GUARDED))


def add_admin_routes(router: APIRouter, gallery: Gallery) -> None:
    """Routes that need nothing of a subject."""

    @router.post("/revoke", responses=problems(*POSTED, 410))
    def revoke(application: Application, subject: Subject) -> RevokeResponse:
        """Revoke all templates of a subject for good."""
        return RevokeResponse(revoked=gallery.revoke(subject, application=application))

    @router.get("/stats", responses=problems(404, 422))
    def stats(application: Application) -> StoreStats:
        """Counts of the application."""
        return gallery.store.stats(gallery.application(application).name)


def add_service_routes(app: FastAPI, gallery: Gallery, registry: CollectorRegistry, state: ReadyResponse) -> None:
    """Health checks, of which `ready` answers with `state`, and metrics."""
    router = APIRouter(tags=["service"])

    @router.get("/health/live")
    async def live() -> dict[str, str]:  # async: it answers also while all threads work
        """Whether the process answers; restart it if it does not."""
        return {"status": "live"}

    @router.get("/health/ready", responses=problems(500, 503))
    def ready() -> ReadyResponse:
        """Whether the stores answer; send no requests if they do not."""
        gallery.store.audit_head()
        gallery.keys.state()
        return state

    text: dict[int | str, Any] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @router.get(
        "/metrics", name="metrics", dependencies=GUARDS, responses=problems(*GUARDED) | text, response_class=Response
    )
    def scrape() -> Response:
        """Metrics in the text format of Prometheus."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    app.include_router(router)


def _add_errors(app: FastAPI) -> None:
    async def refused(_: Request, error: Exception) -> JSONResponse:
        status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
        return JSONResponse({"detail": str(error)}, status, RETRY_SOON if status == 503 else None)

    async def limited(_: Request, error: Exception) -> JSONResponse:
        wait = error.retry_after if isinstance(error, RateLimitError) else 1.0
        return JSONResponse({"detail": str(error)}, 429, {"Retry-After": str(math.ceil(wait))})

    async def store_failed(_: Request, error: Exception) -> JSONResponse:
        LOG.error("record store, key store or search: %s", error)
        return JSONResponse({"detail": "The store is unavailable; retry later"}, 503, RETRY_SOON)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        """Not FastAPI's own answer, which repeats the input: it may be a face."""
        found = error.errors() if isinstance(error, RequestValidationError) else []
        lines = [f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in found]
        return JSONResponse({"detail": "; ".join(lines)}, status_code=422)

    for kind in _STATUS:
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(RateLimitError, limited)
    app.add_exception_handler(StoreError, store_failed)
    app.add_exception_handler(WorkerError, store_failed)
    app.add_exception_handler(RequestValidationError, invalid)
