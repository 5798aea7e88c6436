"""FastAPI application over an open gallery: its routes and responses."""

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from numpy.typing import NDArray
from PIL import Image as PillowImage
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError
from starlette.formparsers import MultiPartParser

from iom.errors import (
    BusyError,
    DataError,
    EnrolmentError,
    KeyMaterialError,
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
from iom.keys import SubjectToken
from iom.photos.detect import DETECTORS, Detect, build_detector
from iom.photos.images import Pixels
from iom.service.face_pipeline import FacePipeline
from iom.service.middleware import LOG, RETRY_SOON, Gate, Metrics
from iom.service.rate_limit import Backoff
from iom.service.settings import ServiceSettings
from iom.service.tokens import TokenFile

_DESCRIPTION = """\
Cancellable face templates: enrol, verify, identify, revoke, renew.

All requests except the page and health checks carry `Authorization: Bearer TOKEN`; a token is valid for one
application and one role. Images are aligned faces of 112x112 pixels or, where `/health/ready` says `aligns`,
photographs of one person. An error is `{"detail": "..."}`; `Retry-After` of 429 and 503 says when to retry.
"""
_FOLDER = Path(__file__).parent / "page"
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
OPEN_PATHS = frozenset({*_FILES, "/health/live", "/health/ready", "/openapi.json"})
OPEN_FOLDER = "/samples/"
_STATUS: dict[type[Exception], int] = {
    TooLargeError: 413,
    DataError: 422,
    RevokedError: 410,
    NotEnrolledError: 404,
    UnknownApplicationError: 404,
    TokenError: 403,
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


class IdentifyMatch(BaseModel):
    """A subject that matches."""

    subject: str = Field(examples=["alice"])
    distance: Score = None


class RevokeResponse(BaseModel):
    """References that were revoked."""

    revoked: int = Field(description="Number of references.", examples=[2])


class ReadyResponse(BaseModel):
    """The service is ready for requests."""

    status: str = "ready"
    aligns: bool = Field(description="Photographs are accepted; otherwise only aligned 112x112 faces.")
    scores: bool = Field(description="Distances are shown.")
    samples: int = Field(description="Number of synthetic faces to try the service with.")


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


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` argument of a route with these error statuses; FastAPI describes them by HTTP's own names."""
    return {
        status: {"model": Problem, "content": {"application/json": {"example": {"detail": _EXAMPLES[status]}}}}
        for status in sorted(statuses)
    }


def _subject(text: str) -> str:
    try:
        return check_subject_id(text)
    except EnrolmentError as error:
        raise PydanticCustomError("subject_id", "{problem}", {"problem": str(error)}) from None


Application = Annotated[str, InPath(description="Name of the application.", examples=["default"], max_length=64)]
Subject = Annotated[
    str,
    AfterValidator(_subject),
    Form(
        description="Subject id: printable characters, no space at its ends.",
        min_length=1,
        max_length=MAX_SUBJECT_ID_LENGTH,
        examples=["alice"],
    ),
]


def _token(text: str | None) -> str | None:
    try:
        _token_of(text)
    except KeyMaterialError as error:
        raise PydanticCustomError("subject_token", "{problem}", {"problem": str(error)}) from None
    return text


def _token_of(text: str | None) -> SubjectToken | None:
    return SubjectToken.from_text(text) if text else None


SubjectTokenText = Annotated[
    str | None,
    AfterValidator(_token),
    Form(
        description="Token of the subject as text, a part of the key that the service does not keep: a subject that "
        "was enrolled with one is refused without it (403).",
        max_length=80,
        examples=["iom-token-1:..."],
    ),
]
Images = Annotated[list[UploadFile], File(description="Faces of the subject; each becomes a reference.")]
Image = Annotated[UploadFile, File(description="A face: JPEG, PNG, BMP or WebP.")]
_PNG_RESPONSE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {"schema": {"type": "string"}}}}}
_BEARER = HTTPBearer(auto_error=False, description="Made by `iom make-token`: one application, one role.")


def create_app(
    gallery: Gallery,
    faces: FacePipeline,
    tokens: TokenFile,
    settings: ServiceSettings,
    *,
    samples: Sequence[Pixels] = (),
) -> FastAPI:
    """The application over a gallery with a `SharedHasher`; whoever opened gallery and faces closes them.

    `samples` are synthetic faces `(112, 112, 3)` to try the service with, two of each person.
    """
    metrics = Metrics()
    given_up = Gauge("iom_images_given_up", "Images whose decoder was killed.", registry=metrics.registry)
    given_up.set_function(lambda: faces.decoder.given_up)
    # Faces must not reach a disk: Starlette would put larger uploads into temporary files.
    MultiPartParser.spool_max_size = max(settings.max_body + 1, MultiPartParser.spool_max_size)

    # FastAPI's documentation pages load scripts from another host; /openapi.json stays.
    app = FastAPI(
        title="iom",
        version="1",
        summary="Cancellable face templates over HTTP.",
        description=_DESCRIPTION,
        license_info={"name": "MIT", "identifier": "MIT"},
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.add_middleware(Gate, tokens=tokens, settings=settings, metrics=metrics, is_open=_is_open)
    _add_errors(app)
    _add_gallery_routes(app, gallery, faces, metrics, settings)
    _add_service_routes(app, gallery, faces, metrics.registry, settings, samples)
    return app


def _add_gallery_routes(
    app: FastAPI, gallery: Gallery, faces: FacePipeline, metrics: Metrics, settings: ServiceSettings
) -> None:
    backoff = Backoff(settings.failures, gallery.log)
    router = APIRouter(
        prefix="/v1/{application}", tags=["gallery"], dependencies=_GUARDS, responses=_problems(*_GUARDED)
    )

    def embedded(images: list[UploadFile]) -> NDArray[Any]:
        if not 1 <= len(images) <= settings.max_images:
            raise DataError(f"images: expected 1 to {settings.max_images}, received {len(images)}")
        return faces.embed([image.file.read() for image in images])

    @router.post("/enroll", responses=_problems(*_POSTED, 409, 410))
    def enroll(
        application: Application,
        subject: Subject,
        images: Images,
        another: Annotated[bool, Form(description="Add to a subject that is enrolled already.")] = False,
        subject_token: SubjectTokenText = None,
    ) -> EnrolResponse:
        """Enrol a subject; a revoked one is refused (use `renew`)."""
        token = _token_of(subject_token)
        new = gallery.enroll(subject, embedded(images), application=application, another=another, token=token)
        return EnrolResponse(subject=subject, slots=[each.slot for each in new])

    @router.post("/verify", responses=_problems(*_POSTED, 409, 410), response_model_exclude_none=True)
    def verify(
        request: Request,
        application: Application,
        subject: Subject,
        image: Image,
        subject_token: SubjectTokenText = None,
    ) -> VerifyResponse:
        """Compare a face with the references of a subject (1:1)."""
        bearer, token = request.scope["iom.token"].name, _token_of(subject_token)
        with backoff.verification(bearer, application, subject) as attempt:
            decision = gallery.verify(subject, embedded([image]), application=application, token=token)
            attempt.is_match = decision.match
        metrics.decide("verify", decision.match)
        scores = {"distance": decision.distance, "threshold": decision.threshold} if settings.scores else {}
        return VerifyResponse(match=decision.match, **scores)

    @router.post("/identify", responses=_problems(*_POSTED, 409), response_model_exclude_none=True)
    def identify(request: Request, application: Application, image: Image) -> list[IdentifyMatch]:
        """List the subjects within the threshold, nearest first (1:N)."""
        if gallery.application(application).key_mode == "subject":
            references = gallery.store.stats(application).references
            if references > settings.max_keys:
                raise EnrolmentError(
                    f"application {application} has {references} references, each under a key of its own; "
                    f"at most {settings.max_keys} are searched. Verify instead, or use an application with one "
                    "key for all (iom init --key-mode application)"
                )
        with backoff.search(request.scope["iom.token"].name, application) as attempt:
            found = gallery.identify(embedded([image]), application=application)
            attempt.is_match = bool(found)
        metrics.decide("identify", bool(found))
        return [
            IdentifyMatch(subject=each.subject_id, distance=each.distance if settings.scores else None)
            for each in found
        ]

    @router.post("/revoke", responses=_problems(*_POSTED, 410))
    def revoke(application: Application, subject: Subject) -> RevokeResponse:
        """Revoke all templates of a subject for good."""
        return RevokeResponse(revoked=gallery.revoke(subject, application=application))

    @router.post("/renew", responses=_problems(*_POSTED, 409, 410))
    def renew(
        application: Application, subject: Subject, images: Images, subject_token: SubjectTokenText = None
    ) -> EnrolResponse:
        """Revoke the references of a subject and enrol it anew under a fresh key (and a new token), in one step."""
        new = gallery.renew(subject, embedded(images), application=application, token=_token_of(subject_token))
        return EnrolResponse(subject=subject, slots=[each.slot for each in new])

    @router.post("/align", responses=_problems(*_POSTED) | _PNG_RESPONSE, response_class=Response)
    def align(application: Application, image: Image) -> Response:
        """Return the aligned 112x112 face that the service would use; nothing is stored or compared."""
        return _png_response(faces.aligned(image.file.read()))

    @router.get("/stats", responses=_problems(404, 422))
    def stats(application: Application) -> StoreStats:
        """Counts of the application."""
        return gallery.store.stats(gallery.application(application).name)

    app.include_router(router)


def _png_response(face: Pixels) -> Response:
    """A face `(112, 112, 3)` as PNG."""
    stream = io.BytesIO()
    PillowImage.fromarray(face).save(stream, "PNG")
    return Response(stream.getvalue(), media_type="image/png")


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


_GUARDS = [Depends(_BEARER), Depends(_permitted), Depends(_each_field_once)]
_GUARDED, _POSTED = (401, 403, 429, 500, 503), (400, 404, 408, 413, 422)
"""Statuses of all guarded routes, and those that a body adds."""


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


def _add_service_routes(
    app: FastAPI,
    gallery: Gallery,
    faces: FacePipeline,
    registry: CollectorRegistry,
    settings: ServiceSettings,
    samples: Sequence[Pixels],
) -> None:
    router = APIRouter(tags=["service"])

    @router.get("/health/live")
    async def live() -> dict[str, str]:  # async: it answers also while all threads work
        """Whether the process answers; restart it if it does not."""
        return {"status": "live"}

    @router.get("/health/ready", responses=_problems(500, 503))
    def ready() -> ReadyResponse:
        """Whether the stores answer; send no requests if they do not."""
        gallery.store.audit_head()
        gallery.keys.state()
        return ReadyResponse(aligns=faces.detect is not None, scores=settings.scores, samples=len(samples))

    @router.get(OPEN_FOLDER + "{number}", responses=_problems(404, 422, 500) | _PNG_RESPONSE, response_class=Response)
    def sample(number: int = InPath(description="0, 1, ...", examples=[0])) -> Response:
        """A synthetic face to try the service with: two images of each person."""
        if not 0 <= number < len(samples):
            raise HTTPException(404, f"expected a number below {len(samples)}")
        return _png_response(samples[number])

    text: dict[int | str, Any] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @router.get("/metrics", dependencies=_GUARDS, responses=_problems(*_GUARDED) | text, response_class=Response)
    def metrics() -> Response:
        """Metrics in the text format of Prometheus."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    app.include_router(router)
    for path, (name, kind) in _FILES.items():
        app.get(path, include_in_schema=False)(_served((_FOLDER / name).read_bytes(), kind))


def _served(content: bytes, kind: str) -> Callable[[], Response]:
    return lambda: Response(content, media_type=kind)


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def find_detector(name: str, weights: Path | None = None) -> Detect | None:
    """A warm detector of confident faces, by a name of `DETECTORS`; `None` for `none`."""
    if name == "none":
        return None
    detect = build_detector(name, weights=weights)
    min_score = DETECTORS[name].min_score

    def confident(image: Pixels) -> list[Any]:
        return [face for face in detect(image) if face.score >= min_score]

    confident(np.zeros((112, 112, 3), np.uint8))  # so that the first request does not wait for its start
    return confident
