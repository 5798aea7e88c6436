"""What the service answers, as its OpenAPI description shows it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]})


class Stored(BaseModel):
    """What was enrolled."""

    model_config = _example(subject="alice", slots=[0, 1])
    subject: str
    slots: list[int] = Field(description="Numbers of the new references among the subject's.")


class Outcome(BaseModel):
    """Outcome of a verification."""

    model_config = _example(match=True)
    match: bool
    distance: int | None = Field(default=None, description="Differing positions; only where the service tells scores.")
    threshold: int | None = Field(
        default=None, description="Most positions that may differ; only where the service tells scores."
    )


class Found(BaseModel):
    """A subject that matches."""

    model_config = _example(subject="alice")
    subject: str
    distance: int | None = Field(default=None, description="Differing positions; only where the service tells scores.")


class Revoked(BaseModel):
    """What was revoked."""

    model_config = _example(revoked=2)
    revoked: int = Field(description="Number of references.")


class Counts(BaseModel):
    """What an application holds."""

    model_config = _example(subjects=2, references=3, revoked=1)
    subjects: int
    references: int
    revoked: int


class Live(BaseModel):
    """That the process answers."""

    model_config = _example(status="live")
    status: str = "live"


class Ready(BaseModel):
    """That requests can be served, and how."""

    model_config = _example(status="ready", aligns=True, scores=False, samples=0)
    status: str = "ready"
    aligns: bool = Field(description="Photographs are taken; else only aligned 112x112 faces.")
    scores: bool = Field(description="Distances are told.")
    samples: int = Field(description="Faces of nobody to try the service with.")


class Problem(BaseModel):
    """Why a request was refused."""

    model_config = _example(detail="image: expected an image, received an empty file")
    detail: str


_TEXTS: dict[int, tuple[str, str]] = {
    400: ("The body cannot be read.", "There was an error parsing the body"),
    401: ("No valid token.", "A valid bearer token is required"),
    403: ("The token does not permit this.", "The token does not permit this"),
    404: ("Not enrolled.", "subject 'alice' is not enrolled in default"),
    408: ("The request came in too slowly.", "The request was received too slowly"),
    409: ("It contradicts what is enrolled.", "subject 'alice' is enrolled already"),
    410: ("Revoked.", "subject 'alice' was revoked; renew it to bring it back"),
    413: ("Too many bytes or pixels.", "The request is too large: at most 8388608 bytes"),
    422: ("A field or an image that cannot be used.", "image: expected a face, found none"),
    429: ("Too many requests or failed attempts; `Retry-After` says when to retry.", "Too many requests; retry later"),
    500: ("An unforeseen error.", "Internal server error"),
    503: (
        "Busy, or a store is unavailable; `Retry-After` says when to retry.",
        "Too many concurrent images; retry later",
    ),
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can refuse with these."""
    return {
        status: {
            "model": Problem,
            "description": _TEXTS[status][0],
            "content": {"application/json": {"example": {"detail": _TEXTS[status][1]}}},
        }
        for status in sorted(statuses)
    }
