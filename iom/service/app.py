"""FastAPI application over an open gallery: its routes and responses."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi import Path as InPath
from numpy.typing import NDArray
from PIL import Image as PillowImage
from prometheus_client import Gauge
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError
from starlette.formparsers import MultiPartParser

import iom.service.routes as shared
from iom.errors import DataError, EnrolmentError, KeyMaterialError
from iom.gallery.gallery import Gallery
from iom.keys import SubjectToken
from iom.photos.detect import DETECTORS, Detect, build_detector
from iom.photos.images import Pixels
from iom.service.face_pipeline import FacePipeline
from iom.service.middleware import Metrics
from iom.service.rate_limit import Backoff
from iom.service.routes import (
    POSTED,
    Application,
    EnrolResponse,
    ReadyResponse,
    Score,
    Subject,
    VerifyResponse,
    problems,
)
from iom.service.settings import ServiceSettings
from iom.service.static_files import add_files, files_under
from iom.service.tokens import TokenFile

_DESCRIPTION = """\
Cancellable face templates: enrol, verify, identify, revoke, renew.

All requests except the page and health checks carry `Authorization: Bearer TOKEN`; a token is valid for one
application and one role. Images are aligned faces of 112x112 pixels or, where `/health/ready` says `aligns`,
photographs of one person. An error is `{"detail": "..."}`; `Retry-After` of 429 and 503 says when to retry.
"""
_FOLDER = Path(__file__).parent / "page"
OPEN_PATHS = shared.OPEN_PATHS.union(files_under(_FOLDER))
OPEN_FOLDER = "/samples/"


class IdentifyMatch(BaseModel):
    """A subject that matches."""

    subject: str = Field(examples=["alice"])
    distance: Score = None


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

    app = shared.new_app(tokens, settings, metrics, description=_DESCRIPTION, is_open=_is_open)
    _add_gallery_routes(app, gallery, faces, metrics, settings)
    state = ReadyResponse(aligns=faces.detect is not None, scores=settings.scores, samples=len(samples))
    shared.add_service_routes(app, gallery, metrics.registry, state)
    _add_samples(app, samples)
    add_files(app, files_under(_FOLDER))
    return app


def _add_gallery_routes(
    app: FastAPI, gallery: Gallery, faces: FacePipeline, metrics: Metrics, settings: ServiceSettings
) -> None:
    backoff = Backoff(settings.failures, gallery.log)
    router = shared.gallery_router()

    def embedded(images: list[UploadFile]) -> NDArray[Any]:
        if not 1 <= len(images) <= settings.max_images:
            raise DataError(f"images: expected 1 to {settings.max_images}, received {len(images)}")
        return faces.embed([image.file.read() for image in images])

    @router.post("/enroll", responses=problems(*POSTED, 409, 410))
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

    @router.post("/verify", responses=problems(*POSTED, 409, 410), response_model_exclude_none=True)
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
        return VerifyResponse.of(decision, scores=settings.scores)

    @router.post("/identify", responses=problems(*POSTED, 409), response_model_exclude_none=True)
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

    @router.post("/renew", responses=problems(*POSTED, 409, 410))
    def renew(
        application: Application, subject: Subject, images: Images, subject_token: SubjectTokenText = None
    ) -> EnrolResponse:
        """Revoke the references of a subject and enrol it anew under a fresh key (and a new token), in one step."""
        new = gallery.renew(subject, embedded(images), application=application, token=_token_of(subject_token))
        return EnrolResponse(subject=subject, slots=[each.slot for each in new])

    @router.post("/align", responses=problems(*POSTED) | _PNG_RESPONSE, response_class=Response)
    def align(application: Application, image: Image) -> Response:
        """Return the aligned 112x112 face that the service would use; nothing is stored or compared."""
        return _png_response(faces.aligned(image.file.read()))

    shared.add_admin_routes(router, gallery)
    app.include_router(router)


def _png_response(face: Pixels) -> Response:
    """A face `(112, 112, 3)` as PNG."""
    stream = io.BytesIO()
    PillowImage.fromarray(face).save(stream, "PNG")
    return Response(stream.getvalue(), media_type="image/png")


def _add_samples(app: FastAPI, samples: Sequence[Pixels]) -> None:
    responses = problems(404, 422, 500) | _PNG_RESPONSE

    @app.get(OPEN_FOLDER + "{number}", tags=["service"], responses=responses, response_class=Response)
    def sample(number: int = InPath(description="0, 1, ...", examples=[0])) -> Response:
        """A synthetic face to try the service with: two images of each person."""
        if not 0 <= number < len(samples):
            raise HTTPException(404, f"expected a number below {len(samples)}")
        return _png_response(samples[number])


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
