"""Routes of a gallery and their responses: enroll, verify, identify, revoke, renew, align, stats."""

import io
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi import Path as InPath
from fastapi.security import HTTPBearer
from numpy.typing import NDArray
from PIL import Image as PillowImage
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from iom.errors import DataError, EnrolmentError
from iom.gallery.gallery import Gallery
from iom.gallery.models import MAX_SUBJECT_ID_LENGTH, check_subject_id
from iom.gallery.stores.base import StoreStats
from iom.photos.images import Pixels
from iom.service.face_pipeline import FacePipeline
from iom.service.middleware import Backoff, Metrics
from iom.service.settings import ServiceSettings


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]})


class EnrolResponse(BaseModel):
    """References that were enrolled."""

    model_config = _example(subject="alice", slots=[0, 1])
    subject: str
    slots: list[int] = Field(description="Numbers of the new references among the subject's.")


class VerifyResponse(BaseModel):
    """Outcome of a verification."""

    model_config = _example(match=True)
    match: bool
    distance: int | None = Field(default=None, description="Differing positions; only where the service shows scores.")
    threshold: int | None = Field(
        default=None, description="Maximum number of differing positions; only where the service shows scores."
    )


class IdentifyMatch(BaseModel):
    """A subject that matches."""

    model_config = _example(subject="alice")
    subject: str
    distance: int | None = Field(default=None, description="Differing positions; only where the service shows scores.")


class RevokeResponse(BaseModel):
    """References that were revoked."""

    model_config = _example(revoked=2)
    revoked: int = Field(description="Number of references.")


class ReadyResponse(BaseModel):
    """The service is ready for requests."""

    model_config = _example(status="ready", aligns=True, scores=False, samples=0)
    status: str = "ready"
    aligns: bool = Field(description="Photographs are accepted; otherwise only aligned 112x112 faces.")
    scores: bool = Field(description="Distances are shown.")
    samples: int = Field(description="Number of synthetic faces to try the service with.")


class Problem(BaseModel):
    """A refused request."""

    model_config = _example(detail="image: expected an image, received an empty file")
    detail: str


_TEXTS: dict[int, tuple[str, str]] = {
    400: ("The body cannot be read.", "There was an error parsing the body"),
    401: ("No valid token.", "A valid bearer token is required"),
    403: ("The token does not permit this.", "The token does not permit this"),
    404: ("Not enrolled.", "subject 'alice' is not enrolled in default"),
    408: ("The request was received too slowly.", "The request was received too slowly"),
    409: ("It conflicts with what is enrolled.", "subject 'alice' is enrolled already"),
    410: ("Revoked.", "subject 'alice' was revoked; renew it to bring it back"),
    413: ("Too many bytes or pixels.", "The request is too large: at most 8388608 bytes"),
    422: ("An invalid field or image.", "photograph: expected a face, found none"),
    429: ("Too many requests or failed attempts; `Retry-After` says when to retry.", "Too many requests; retry later"),
    500: ("An unexpected error.", "Internal server error"),
    503: (
        "Busy, or a store is unavailable; `Retry-After` says when to retry.",
        "Too many concurrent images; retry later",
    ),
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` argument of a route with these error statuses."""
    return {
        status: {
            "model": Problem,
            "description": _TEXTS[status][0],
            "content": {"application/json": {"example": {"detail": _TEXTS[status][1]}}},
        }
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
Images = Annotated[list[UploadFile], File(description="Faces of the subject; each becomes a reference.")]
Image = Annotated[UploadFile, File(description="A face: JPEG, PNG, BMP or WebP.")]
PNG_RESPONSE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {"schema": {"type": "string"}}}}}
_BEARER = HTTPBearer(auto_error=False, description="Made by `iom make-token`: one application, one role.")


def add_gallery_routes(
    app: FastAPI, gallery: Gallery, faces: FacePipeline, metrics: Metrics, settings: ServiceSettings
) -> None:
    """Add the routes to an application; see `create_app`."""
    backoff = Backoff(gallery, settings)

    def embedded(images: list[UploadFile]) -> NDArray[Any]:
        if not 1 <= len(images) <= settings.max_images:
            raise DataError(f"images: expected 1 to {settings.max_images}, received {len(images)}")
        return faces.embed([image.file.read() for image in images])

    def post(action: str, *statuses: int, **options: Any) -> Callable[..., Any]:
        return app.post(
            f"/v1/{{application}}/{action}",
            operation_id=action,
            tags=["gallery"],
            dependencies=guards(action),
            responses={
                **problems(400, 401, 403, 404, 408, 413, 422, 429, 500, 503, *statuses),
                **options.pop("responses", {}),
            },
            response_model_exclude_none=True,
            **options,
        )

    @post("enroll", 409, 410)
    def enroll(
        application: Application,
        subject: Subject,
        images: Images,
        another: Annotated[bool, Form(description="Add to a subject that is enrolled already.")] = False,
    ) -> EnrolResponse:
        """Enrol a subject; a revoked one is refused (use `renew`)."""
        new = gallery.enroll(application, subject, embedded(images), another=another)
        return EnrolResponse(subject=subject, slots=[each.slot for each in new])

    @post("verify", 409, 410)
    def verify(request: Request, application: Application, subject: Subject, image: Image) -> VerifyResponse:
        """Compare a face with the references of a subject (1:1)."""
        token = request.scope["iom.token"].name
        with backoff.verification(token, application, subject) as attempt:
            decision = gallery.verify(application, subject, embedded([image]))
            attempt.is_match = decision.match
        metrics.decide("verify", decision.match)
        if not settings.scores:
            return VerifyResponse(match=decision.match)
        return VerifyResponse(match=decision.match, distance=decision.distance, threshold=decision.threshold)

    @post("identify", 409)
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
            found = gallery.identify(application, embedded([image]))
            attempt.is_match = bool(found)
        metrics.decide("identify", bool(found))
        return [
            IdentifyMatch(subject=each.subject_id, distance=each.distance if settings.scores else None)
            for each in found
        ]

    @post("revoke", 410)
    def revoke(application: Application, subject: Subject) -> RevokeResponse:
        """Revoke all templates of a subject for good."""
        return RevokeResponse(revoked=gallery.revoke(application, subject))

    @post("renew", 409, 410)
    def renew(application: Application, subject: Subject, images: Images) -> EnrolResponse:
        """Revoke the references of a subject and enrol it anew under a fresh key, in one step."""
        new = gallery.renew(application, subject, embedded(images))
        return EnrolResponse(subject=subject, slots=[each.slot for each in new])

    @post("align", response_class=Response, responses=PNG_RESPONSE)
    def align(application: Application, image: Image) -> Response:
        """Return the aligned 112x112 face that the service would use; nothing is stored or compared."""
        return png_response(faces.aligned(image.file.read()))

    @app.get(
        "/v1/{application}/stats",
        operation_id="stats",
        tags=["gallery"],
        dependencies=guards("stats"),
        responses=problems(401, 403, 404, 422, 429, 500, 503),
    )
    def stats(application: Application) -> StoreStats:
        """Counts of the application."""
        return gallery.store.stats(gallery.application(application).name)


def png_response(face: Pixels) -> Response:
    """A face `(112, 112, 3)` as PNG."""
    stream = io.BytesIO()
    PillowImage.fromarray(face).save(stream, "PNG")
    return Response(stream.getvalue(), media_type="image/png")


def guards(action: str) -> list[Any]:
    """Dependencies of a route: its token must permit `action` on the application in its path."""

    def check(request: Request) -> None:
        token = request.scope.get("iom.token")
        if token is None or not token.allows(action, request.path_params.get("application")):
            raise HTTPException(403, "The token does not permit this")

    return [Depends(_BEARER), Depends(check), Depends(_each_field_once)]


async def _each_field_once(request: Request) -> None:
    """Refuse repeated fields: the framework would take the last, a proxy may check the first."""
    if request.method != "POST":
        return
    form = await request.form()  # read already
    for name in form:
        if name != "images" and len(form.getlist(name)) > 1:
            raise HTTPException(422, f"{name}: expected one, received {len(form.getlist(name))}")
