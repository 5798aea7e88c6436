"""Response models of the service, as its OpenAPI description shows them."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


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


class StatsResponse(BaseModel):
    """Counts of an application."""

    model_config = _example(subjects=2, references=3, revoked=1)
    subjects: int
    references: int
    revoked: int


class LiveResponse(BaseModel):
    """The process answers."""

    model_config = _example(status="live")
    status: str = "live"


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
