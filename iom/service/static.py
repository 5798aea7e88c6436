"""What needs no token: the page, faces of nobody to try it with, and health."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from fastapi import FastAPI, HTTPException, Response
from fastapi import Path as InPath
from PIL import Image

from iom.data.images import Pixels
from iom.gallery.gallery import Gallery
from iom.service.face_pipeline import Faces
from iom.service.schemas import Live, Ready, problems
from iom.service.settings import ServiceSettings

_FOLDER = Path(__file__).parent / "page"
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
OPEN_PATHS = frozenset({*_FILES, "/health/live", "/health/ready", "/openapi.json"})
OPEN_FOLDER = "/samples/"


def add_pages(
    app: FastAPI, gallery: Gallery, faces: Faces, settings: ServiceSettings, samples: Sequence[Pixels]
) -> None:
    """Add them to an application; see `create_app`."""
    pictures = [_png(face) for face in samples]

    @app.get("/health/live", operation_id="live", tags=["service"])
    async def live() -> Live:  # needs no thread: it answers where all of them are at work
        """Whether the process answers; restart it where it does not."""
        return Live()

    @app.get("/health/ready", operation_id="ready", tags=["service"], responses=problems(500, 503))
    def ready() -> Ready:
        """Whether the stores answer; send it no requests where they do not."""
        gallery.store.audit_head()
        gallery.keys.entries()
        return Ready(aligns=faces.aligns, scores=settings.scores, samples=len(pictures))

    @app.get(
        OPEN_FOLDER + "{number}",
        operation_id="sample",
        tags=["service"],
        response_class=Response,
        responses={**problems(404, 422, 500), 200: {"content": {"image/png": {"schema": {"type": "string"}}}}},
    )
    def sample(number: int = InPath(description="0, 1, ...", examples=[0])) -> Response:
        """A drawn face of nobody, where the service has some: two images of each person."""
        if not 0 <= number < len(pictures):
            raise HTTPException(404, f"expected a number below {len(pictures)}")
        return Response(pictures[number], media_type="image/png")

    for path, (name, kind) in _FILES.items():
        app.get(path, include_in_schema=False)(_served((_FOLDER / name).read_bytes(), kind))


def _png(face: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(face).save(stream, "PNG")
    return stream.getvalue()


def _served(content: bytes, kind: str) -> Callable[[], Response]:
    def page() -> Response:
        return Response(content, media_type=kind)

    return page
