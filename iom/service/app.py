"""The service: `create_app` makes a FastAPI application over an open gallery."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from numpy.typing import NDArray
from pydantic import BaseModel
from starlette.formparsers import MultiPartParser

from iom.data.photographs import TooLargeError
from iom.errors import DataError, EnrolmentError, RevokedError, StoreError
from iom.gallery.gallery import Gallery
from iom.gallery.record import check_subject_id
from iom.service.decoding import BusyError
from iom.service.faces import Faces
from iom.service.gate import LOG, Gate
from iom.service.metrics import Metrics
from iom.service.settings import ServiceSettings
from iom.service.tokens import TokenFile

_PAGE = Path(__file__).parent / "page"
_STATIC = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_STATUS: list[tuple[type[Exception], int]] = [
    (TooLargeError, 413),
    (DataError, 422),
    (RevokedError, 410),
    (EnrolmentError, 409),
    (BusyError, 503),
]
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body cannot be read."},
    401: {"description": "No valid token."},
    403: {"description": "The token does not open this."},
    404: {"description": "Not enrolled."},
    409: {"description": "It contradicts what is enrolled."},
    410: {"description": "Revoked."},
    413: {"description": "Too many bytes or pixels."},
    429: {"description": "Too many requests."},
    503: {"description": "Busy, or the store is out of reach."},
}

Subject = Annotated[str, Form(description="Subject id: 1 to 256 printable characters.")]
Images = Annotated[list[UploadFile], File(description="Faces of the subject.")]
Image = Annotated[UploadFile, File(description="A face.")]


class Stored(BaseModel):
    """What was enrolled."""

    subject: str
    slots: list[int]


class Outcome(BaseModel):
    """Outcome of a verification; distance and threshold only where the service tells scores."""

    match: bool
    distance: int | None = None
    threshold: int | None = None


class Found(BaseModel):
    """Who matches, nearest first."""

    subject: str
    distance: int | None = None


class Revoked(BaseModel):
    """Number of references that were revoked."""

    revoked: int


class Counts(BaseModel):
    """What an application holds."""

    subjects: int
    references: int
    revoked: int


class Health(BaseModel):
    """That the service answers, and whether it aligns photographs."""

    status: str
    aligns: bool


def create_app(
    gallery: Gallery, faces: Faces, tokens: TokenFile, settings: ServiceSettings | None = None
) -> FastAPI:
    """The application; it closes gallery and faces when it ends.

    Args:
        gallery: Open, with a hasher.
        faces: Embeds images.
        tokens: Who may do what.
        settings: Limits.
    """
    settings = settings or ServiceSettings()
    metrics = Metrics()
    # Faces must not reach a disk: Starlette puts larger uploads into temporary files.
    MultiPartParser.spool_max_size = max(settings.largest_body + 1, MultiPartParser.spool_max_size)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        faces.close()
        gallery.close()

    # The usual documentation pages load scripts from elsewhere; the description itself stays.
    app = FastAPI(
        title="iom", version="1", docs_url=None, redoc_url=None, lifespan=lifespan,
        redirect_slashes=False,
    )  # fmt: skip
    app.add_middleware(Gate, tokens=tokens, settings=settings, metrics=metrics)
    _add_errors(app)

    def embedded(images: list[UploadFile]) -> NDArray[Any]:
        if not 1 <= len(images) <= settings.most_images:
            raise DataError(f"images: expected 1 to {settings.most_images}, received {len(images)}")
        return faces.embed([image.file.read() for image in images])

    def post(action: str) -> Callable[..., Any]:
        return app.post(
            f"/v1/{{application}}/{action}",
            operation_id=action,
            dependencies=[Depends(HTTPBearer(auto_error=False)), Depends(_allowed(action))],
            responses=_ERRORS,
            response_model_exclude_none=True,
        )

    @post("enroll")
    def enroll(
        application: str, subject: Subject, images: Images, another: Annotated[bool, Form()] = False
    ) -> Stored:
        """Enrol a subject, or add references to one that is enrolled (`another`)."""
        _checked(subject)
        new = gallery.enroll(application, subject, embedded(images), another=another)
        return Stored(subject=subject, slots=[each.slot for each in new])

    @post("verify")
    def verify(application: str, subject: Subject, image: Image) -> Outcome:
        """Compare a face with the references of a subject."""
        _checked(subject)
        with _missing():
            decision = gallery.verify(application, subject, embedded([image]))
        metrics.decide("verify", decision.match)
        if not settings.scores:
            return Outcome(match=decision.match)
        return Outcome(
            match=decision.match, distance=decision.distance, threshold=decision.threshold
        )

    @post("identify")
    def identify(application: str, image: Image) -> list[Found]:
        """Every subject within the threshold."""
        found = gallery.identify(application, embedded([image]))
        metrics.decide("identify", bool(found))
        return [
            Found(subject=each.subject_id, distance=each.distance if settings.scores else None)
            for each in found
        ]

    @post("revoke")
    def revoke(application: str, subject: Subject) -> Revoked:
        """Refuse all templates of a subject for ever."""
        _checked(subject)
        with _missing():
            return Revoked(revoked=gallery.revoke(application, subject))

    @post("renew")
    def renew(application: str, subject: Subject, images: Images) -> Stored:
        """Revoke what a subject has and enrol it anew under a fresh key."""
        _checked(subject)
        new = gallery.renew(application, subject, embedded(images))
        return Stored(subject=subject, slots=[each.slot for each in new])

    @app.get(
        "/v1/{application}/stats",
        operation_id="stats",
        dependencies=[Depends(HTTPBearer(auto_error=False)), Depends(_allowed("stats"))],
        responses=_ERRORS,
    )
    def stats(application: str) -> Counts:
        """Counts of the application."""
        counts = gallery.store.stats(application)
        return Counts(
            subjects=counts.subjects, references=counts.references, revoked=counts.revoked
        )

    @app.get("/health", operation_id="health")
    def health() -> Health:
        """Whether the record store answers."""
        gallery.store.audit_head()
        return Health(status="ok", aligns=faces.aligns)

    @app.get(
        "/metrics",
        operation_id="metrics",
        dependencies=[Depends(HTTPBearer(auto_error=False)), Depends(_allowed("metrics"))],
        response_class=Response,
    )
    def prometheus() -> Response:
        """Counts for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    for path, (name, kind) in _STATIC.items():
        app.get(path, include_in_schema=False)(_served((_PAGE / name).read_bytes(), kind))
    return app


def _allowed(action: str) -> Callable[[Request], None]:
    def check(request: Request) -> None:
        token = request.scope.get("iom.token")
        if token is None or not token.allows(action, request.path_params.get("application")):
            raise HTTPException(403, "the token does not open this")

    return check


def _served(content: bytes, kind: str) -> Callable[[], Response]:
    def page() -> Response:
        return Response(content, media_type=kind)

    return page


def _checked(subject: str) -> None:
    try:
        check_subject_id(subject)
    except EnrolmentError as error:
        raise HTTPException(422, str(error)) from None


@contextlib.contextmanager
def _missing() -> Any:
    """Where a subject must be there already, its absence is 404."""
    try:
        yield
    except RevokedError:
        raise
    except EnrolmentError as error:
        raise HTTPException(404, str(error)) from None


def _add_errors(app: FastAPI) -> None:
    for kind, status in _STATUS:
        app.add_exception_handler(kind, _told(status))

    async def store_failed(_: Request, error: Exception) -> JSONResponse:
        LOG.error("record store or key store: %s", error)
        return JSONResponse({"detail": "the store is out of reach"}, status_code=503)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        """FastAPI's own answer repeats what came, which may be a face."""
        found = error.errors() if isinstance(error, RequestValidationError) else []
        told = [{"loc": list(each["loc"]), "msg": each["msg"], "type": each["type"]}
                for each in found]  # fmt: skip
        return JSONResponse({"detail": told}, status_code=422)

    app.add_exception_handler(StoreError, store_failed)
    app.add_exception_handler(RequestValidationError, invalid)


def _told(status: int) -> Callable[[Request, Exception], Any]:
    async def answer(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=status)

    return answer
