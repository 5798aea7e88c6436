"""The service: `create_app` makes a FastAPI application over an open gallery."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.formparsers import MultiPartParser

from iom.data.images import Pixels
from iom.errors import BusyError, DataError, EnrolmentError, RevokedError, StoreError
from iom.gallery.gallery import Gallery
from iom.photos.photographs import TooLargeError
from iom.service.batched_models import SharedHasher
from iom.service.face_pipeline import Faces
from iom.service.metrics import Metrics
from iom.service.middleware import LOG, RETRY_SOON, Gate
from iom.service.routes import add_verbs, guards
from iom.service.schemas import problems
from iom.service.settings import ServiceSettings
from iom.service.static import add_pages
from iom.service.tokens import TokenFile

_DESCRIPTION = """\
Cancellable face templates: enrol, verify, identify, revoke, renew.

Every request but those for the page and for health carries `Authorization: Bearer TOKEN`; a token
opens one application for one role. Images are aligned faces of 112x112 pixels or, where
`/health/ready` says `aligns`, photographs of one person. A refusal is `{"detail": "..."}`.
"""
_STATUS: list[tuple[type[Exception], int]] = [
    (TooLargeError, 413),
    (DataError, 422),
    (RevokedError, 410),
    (EnrolmentError, 409),
    (BusyError, 503),
]


def create_app(
    gallery: Gallery,
    faces: Faces,
    tokens: TokenFile,
    settings: ServiceSettings | None = None,
    *,
    samples: Sequence[Pixels] = (),
) -> FastAPI:
    """The application; it closes gallery and faces when it ends.

    Args:
        gallery: Open, with a hasher; from here on requests share the hasher, unless it is shared
            already.
        faces: Embeds images.
        tokens: Who may do what.
        settings: Limits.
        samples: Faces of nobody `(112, 112, 3)` to try it with, two of each person.
    """
    settings = settings or ServiceSettings()
    metrics = Metrics()
    metrics.watch("iom_images_given_up", "Images whose decoder was ended.", lambda: faces.decoder.given_up)
    if gallery.hasher is not None and not isinstance(gallery.hasher, SharedHasher):
        gallery.hasher = SharedHasher(gallery.hasher)
    # Faces must not reach a disk: Starlette puts larger uploads into temporary files.
    MultiPartParser.spool_max_size = max(settings.largest_body + 1, MultiPartParser.spool_max_size)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        faces.close()
        gallery.close()

    # The usual documentation pages load scripts from elsewhere; the description itself stays.
    app = FastAPI(
        title="iom",
        version="1",
        summary="Cancellable face templates over HTTP.",
        description=_DESCRIPTION,
        license_info={"name": "MIT", "identifier": "MIT"},
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.add_middleware(Gate, tokens=tokens, settings=settings, metrics=metrics)
    _add_errors(app)
    add_verbs(app, gallery, faces, metrics, settings)
    add_pages(app, gallery, faces, settings, samples)

    @app.get(
        "/metrics",
        operation_id="metrics",
        tags=["service"],
        dependencies=guards("metrics"),
        response_class=Response,
        responses={
            **problems(401, 403, 429, 500, 503),
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        },
    )
    def prometheus() -> Response:
        """Counts for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    return app


def _add_errors(app: FastAPI) -> None:
    for kind, status in _STATUS:
        app.add_exception_handler(kind, _told(status))

    async def store_failed(_: Request, error: Exception) -> JSONResponse:
        LOG.error("record store or key store: %s", error)
        return JSONResponse({"detail": "The store is unavailable; retry later"}, 503, RETRY_SOON)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        """FastAPI's own answer repeats what came, which may be a face."""
        found = error.errors() if isinstance(error, RequestValidationError) else []
        lines = [f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in found]
        return JSONResponse({"detail": "; ".join(lines)}, status_code=422)

    app.add_exception_handler(StoreError, store_failed)
    app.add_exception_handler(RequestValidationError, invalid)


def _told(status: int) -> Callable[[Request, Exception], Any]:
    async def answer(_: Request, error: Exception) -> JSONResponse:
        headers = RETRY_SOON if status == 503 else None
        return JSONResponse({"detail": str(error)}, status, headers)

    return answer
