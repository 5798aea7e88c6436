"""FastAPI application over an open gallery, and its assembly for `iom serve`."""

import contextlib
import importlib.util
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import Gauge, generate_latest
from starlette.formparsers import MultiPartParser

from iom.errors import (
    BusyError,
    DataError,
    EnrolmentError,
    NotEnrolledError,
    RevokedError,
    StoreError,
    TooLargeError,
    UnknownApplicationError,
)
from iom.gallery.gallery import Gallery
from iom.keys import TransformKey
from iom.models.face_hasher import FaceHasher
from iom.photos.detect import DETECTORS, Detect, build_detector
from iom.photos.images import Pixels
from iom.service.decoding import Decoder
from iom.service.face_pipeline import FACES_A_CALL, FacePipeline, SharedHasher
from iom.service.middleware import LOG, RETRY_SOON, Gate, Metrics
from iom.service.routes import PNG_RESPONSE, ReadyResponse, add_gallery_routes, guards, png_response, problems
from iom.service.settings import ServiceSettings
from iom.service.tokens import TokenFile, add_token
from iom.synthetic import load_face_model

_DESCRIPTION = """\
Cancellable face templates: enrol, verify, identify, revoke, renew.

All requests except the page and health checks carry `Authorization: Bearer TOKEN`; a token is valid for one
application and one role. Images are aligned faces of 112x112 pixels or, where `/health/ready` says `aligns`,
photographs of one person. An error is `{"detail": "..."}`.
"""
DEMO_SEED = 4
"""Seed of the synthetic faces of `iom serve --demo`, three people that the bundled hasher separates well."""
DEMO_PEOPLE = 3
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
    EnrolmentError: 409,
    BusyError: 503,
}


def create_app(
    gallery: Gallery,
    faces: FacePipeline,
    tokens: TokenFile,
    settings: ServiceSettings | None = None,
    *,
    samples: Sequence[Pixels] = (),
) -> FastAPI:
    """The application, which closes gallery and faces when it ends.

    The gallery's hasher is shared by concurrent requests. `samples` are synthetic faces `(112, 112, 3)` to try the
    service with, two of each person.
    """
    settings = settings or ServiceSettings()
    metrics = Metrics()
    given_up = Gauge("iom_images_given_up", "Images whose decoder was killed.", registry=metrics.registry)
    given_up.set_function(lambda: faces.decoder.given_up)
    if gallery.hasher is not None and not isinstance(gallery.hasher, SharedHasher):
        gallery.hasher = SharedHasher(gallery.hasher)
    # Faces must not reach a disk: Starlette would put larger uploads into temporary files.
    MultiPartParser.spool_max_size = max(settings.max_body + 1, MultiPartParser.spool_max_size)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        faces.decoder.close()
        gallery.close()

    # FastAPI's documentation pages load scripts from another host; /openapi.json stays.
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
    app.add_middleware(Gate, tokens=tokens, settings=settings, metrics=metrics, is_open=_is_open)
    _add_errors(app)
    add_gallery_routes(app, gallery, faces, metrics, settings)
    _add_pages(app, gallery, faces, settings, samples)

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
        """Metrics in the text format of Prometheus."""
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    return app


def _add_errors(app: FastAPI) -> None:
    async def refused(_: Request, error: Exception) -> JSONResponse:
        status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
        return JSONResponse({"detail": str(error)}, status, RETRY_SOON if status == 503 else None)

    async def store_failed(_: Request, error: Exception) -> JSONResponse:
        LOG.error("record store or key store: %s", error)
        return JSONResponse({"detail": "The store is unavailable; retry later"}, 503, RETRY_SOON)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        """Not FastAPI's own answer, which repeats the input: it may be a face."""
        found = error.errors() if isinstance(error, RequestValidationError) else []
        lines = [f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in found]
        return JSONResponse({"detail": "; ".join(lines)}, status_code=422)

    for kind in _STATUS:
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(StoreError, store_failed)
    app.add_exception_handler(RequestValidationError, invalid)


def _add_pages(
    app: FastAPI, gallery: Gallery, faces: FacePipeline, settings: ServiceSettings, samples: Sequence[Pixels]
) -> None:
    @app.get("/health/live", operation_id="live", tags=["service"])
    async def live() -> dict[str, str]:  # async: it answers also while all threads work
        """Whether the process answers; restart it if it does not."""
        return {"status": "live"}

    @app.get("/health/ready", operation_id="ready", tags=["service"], responses=problems(500, 503))
    def ready() -> ReadyResponse:
        """Whether the stores answer; send no requests if they do not."""
        gallery.store.audit_head()
        gallery.keys.state()
        return ReadyResponse(aligns=faces.aligns, scores=settings.scores, samples=len(samples))

    @app.get(
        OPEN_FOLDER + "{number}",
        operation_id="sample",
        tags=["service"],
        response_class=Response,
        responses={**problems(404, 422, 500), **PNG_RESPONSE},
    )
    def sample(number: int = InPath(description="0, 1, ...", examples=[0])) -> Response:
        """A synthetic face to try the service with: two images of each person."""
        if not 0 <= number < len(samples):
            raise HTTPException(404, f"expected a number below {len(samples)}")
        return png_response(samples[number])

    for path, (name, kind) in _FILES.items():
        app.get(path, include_in_schema=False)(_served((_FOLDER / name).read_bytes(), kind))


def _served(content: bytes, kind: str) -> Callable[[], Response]:
    return lambda: Response(content, media_type=kind)


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def make_demo(folder: Path, application: str) -> tuple[str, str, Path, str]:
    """URLs of record store and key store of a throwaway gallery in `folder`, a token file and its one token."""
    tokens = folder / "tokens.json"
    token = add_token(tokens, name="demo", application=application, role="admin")
    keys = f"file:{folder / 'demo.keys'}?key-file={folder / 'demo.wrap'}"
    return f"sqlite:///{folder / 'demo.db'}", keys, tokens, token


@contextlib.contextmanager
def open_service(
    address: str,
    gallery: Gallery,
    tokens: TokenFile,
    settings: ServiceSettings,
    *,
    load_hasher: Callable[[], FaceHasher],
    load_detector: Callable[[], Detect | None] = lambda: None,
    application: str = "default",
    demo_token: str = "",
) -> Iterator[tuple[FastAPI, str]]:
    """Load the models; yield the application, which closes the gallery, and the greeting to print when it serves.

    `address` is the base URL for the greeting. `load_hasher` loads the hasher, of one face a call, and `load_detector`
    the detector, without which only aligned faces are accepted. With `demo_token`, a token of `make_demo`, the service
    offers synthetic faces, and `application` is made in the gallery and named in the page's address.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(gallery.close)
        detect = load_detector()
        gallery.hasher = shared = _shared(load_hasher())
        samples: list[Pixels] = []
        accepted = "aligned faces of 112x112 only" if detect is None else "photographs are aligned"
        lines = [f"serving on {address}", accepted]
        if demo_token:
            gallery.create_application(application)
            samples = list(load_face_model().sample(DEMO_PEOPLE, 2, seed=DEMO_SEED)[0])
            lines.append(f"\nopen  {address}/#application={application}&token={demo_token}\n")
            lines.append("the gallery and this token are deleted when you stop the service with Ctrl-C")
        decoder = Decoder(settings, photographs=detect is not None)
        stack.callback(decoder.close)
        decoder.start()
        app = create_app(gallery, FacePipeline(shared, decoder, detect), tokens, settings, samples=samples)
        stack.pop_all()  # from here on the application closes them
        yield app, "\n".join(lines)


def _shared(hasher: FaceHasher) -> SharedHasher:
    """The hasher for several threads, warm for both batch sizes."""
    size = hasher.input_size
    noise = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    for faces in (1, FACES_A_CALL):
        rows = hasher.with_batch_size(faces).embed(noise)
    hasher.hash(rows, TransformKey.generate())
    return SharedHasher(hasher)


def find_detector(name: str, weights: Path | None = None) -> Detect | None:
    """A warm detector of confident faces, by a name of `DETECTORS`, `none`, or `auto` (mtcnn where it is installed)."""
    if name == "auto":
        name = "mtcnn" if importlib.util.find_spec("mtcnn") else "none"
    if name == "none":
        return None
    detect = build_detector(name, weights=weights)
    min_score = DETECTORS[name].min_score

    def confident(image: Pixels) -> list[Any]:
        return [face for face in detect(image) if face.score >= min_score]

    confident(np.zeros((112, 112, 3), np.uint8))  # so that the first request does not wait for its start
    return confident
