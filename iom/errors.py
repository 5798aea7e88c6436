"""Errors a user can cause and mend. The command line prints them as one line, no traceback."""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path


class IomError(Exception):
    """Root of every error that this package raises on purpose.

    The message says what was expected, what came, where, and what to do; it never holds a key, an embedding or a code.
    """


class ConfigError(IomError):
    """A configuration names something unknown, or a value is out of range."""


class DataError(IomError):
    """An image, a folder, a pair list or a benchmark file is missing, damaged or inconsistent."""


class SettingsChangedError(DataError):
    """The run of the journal `path` cannot be continued: the settings `changed` differ."""

    def __init__(self, message: str, *, path: Path, changed: tuple[str, ...]) -> None:
        super().__init__(message)
        self.path = path
        self.changed = changed


class WeightsError(IomError):
    """Weights are missing, damaged, or do not fit the architecture or the stated input."""


class CheckpointError(IomError):
    """A run cannot be resumed: its checkpoint is damaged or belongs to another configuration."""


class KeyMaterialError(IomError):
    """A transform key has the wrong length, version or size."""


class KeyKindWarning(UserWarning):
    """Keys of this kind do not hide an embedding from an attacker who has its code."""


class UnmaskedWarning(UserWarning):
    """One key serves all records of an application, and its codes are stored without masks."""


class BystanderWarning(UserWarning):
    """A picture shows further faces; the largest was taken."""


class PrecisionWarning(UserWarning):
    """An artefact computes in another precision here than on the CPU it was made on, and gives other codes."""


class CodeError(IomError):
    """Codes do not have the stated length or alphabet."""


class MissingExtraError(IomError):
    """An optional dependency is needed for this and is not installed."""


def missing_extra(purpose: str, *extras: str, cause: object = None, otherwise: str = "") -> MissingExtraError:
    """The error for optional dependencies that are not installed, with the command for them.

    The command names the packages, as the metadata of the installed `iom` lists them, so that it works wherever `iom`
    came from; where they list none, the folder of the sources. `purpose` is such as "reading model.onnx",
    `extras` are names of `[project.optional-dependencies]`, `otherwise` says how to do without them.
    """
    command = shlex.join(["pip", "install", *_packages_of(extras)])
    return MissingExtraError(
        f"{purpose} needs the extra '{','.join(extras)}', which is not installed"
        f"{f' ({cause})' if cause else ''}: {command}{', or ' if otherwise else ''}{otherwise}"
    )


@contextlib.contextmanager
def needs_extra(purpose: str, *extras: str, otherwise: str = "") -> Iterator[None]:
    """Context of an import of optional dependencies: a missing one is a `missing_extra`, whose arguments it takes.

    A missing module of this package itself stays what it is.
    """
    try:
        yield
    except ImportError as error:
        if str(error.name).startswith("iom."):
            raise
        raise missing_extra(purpose, *extras, cause=error, otherwise=otherwise) from error


TRAIN_MODULES = frozenset({"tensorflow", "keras", "scipy", "sklearn", "numba", "matplotlib"})
"""Modules of the extra `train`: no module that a gallery, the service or `iom verify` needs imports one of them."""


@contextlib.contextmanager
def needs_train(purpose: str) -> Iterator[None]:
    """Context of what imports a module of the extra `train`, at any depth: a missing one is a `missing_extra`."""
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in TRAIN_MODULES:
            raise
        raise missing_extra(purpose, "train", cause=error) from error


def _packages_of(extras: tuple[str, ...]) -> list[str]:
    import importlib.metadata  # slow, and only an error needs it

    found, required = [], []
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        required = importlib.metadata.requires("iom") or []
    for text in required:
        package, _, marker = text.partition(";")
        if marker.replace("'", '"').strip() in {f'extra == "{name}"' for name in extras}:
            found.append(package.strip())
    return sorted(set(found)) or [f"{Path(__file__).parents[1]}[{','.join(extras)}]"]


class BusyError(IomError):
    """There are too many concurrent requests; retry later."""


class RateLimitError(IomError):
    """Too many requests, or too many failed attempts; retry after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PeerError(IomError):
    """Another program at `url` cannot be reached, is not the expected one, or does not answer as expected."""

    def __init__(self, message: str, *, url: str = "") -> None:
        super().__init__(message)
        self.url = url


class NotPermittedError(IomError):
    """The caller is known, but may not do this."""


class WorkerError(IomError):
    """A worker process took too long (`timed_out`), died, or did not start."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class EnrolmentError(IomError):
    """A subject cannot be enrolled, is not enrolled, or an application refuses what came."""


class _SubjectError(EnrolmentError):
    """About the enrolment of `subject_id`."""

    def __init__(self, message: str, *, subject_id: str = "") -> None:
        super().__init__(message)
        self.subject_id = subject_id


class NotEnrolledError(_SubjectError):
    """The subject has no valid reference and never had one that was revoked."""


class AlreadyEnrolledError(_SubjectError):
    """The subject has a valid reference, and none more was asked for."""


class RevokedError(_SubjectError):
    """The template or its key was revoked; it is refused for ever."""


class TokenError(_SubjectError):
    """The token of the subject is missing, is another one, or cannot be read."""


class DeviceError(_SubjectError):
    """A request is not signed by the device of the subject."""


class CardError(IomError):
    """A card is not accepted.

    `status`: `unreadable` (no picture of one card, damaged, of another version), `other_hasher`, `not_sealed` (forged,
    altered, or made under another key) or `expired`; a card on a list of revoked ones is a `RevokedError`.
    """

    def __init__(self, message: str, *, status: str = "unreadable") -> None:
        super().__init__(message)
        self.status = status


class UnknownApplicationError(EnrolmentError):
    """The gallery has no application of that name."""

    def __init__(self, message: str, *, application: str = "") -> None:
        super().__init__(message)
        self.application = application


class FaceError(DataError):
    """An image cannot be used as a face: damaged, of another size or kind, or without exactly one usable face.

    `status` is a key of `iom.photos.photograph.STATUSES`.
    """

    def __init__(self, message: str, *, status: str = "damaged") -> None:
        super().__init__(message)
        self.status = status


class TooLargeError(FaceError):
    """An image has more pixels than allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status="too_large")


class StoreError(IomError):
    """A record store or a key store is missing, damaged, full, locked or of another format."""


class StoreNotFoundError(StoreError):
    """There is no store at `place`, a path or a URL without a password."""

    def __init__(self, message: str, *, place: str = "") -> None:
        super().__init__(message)
        self.place = place


class CorrelationError(StoreError):
    """A dealt correlation is not to be had: used already, of another deal, or none is left.

    `mark` is the lowest index from which on none is used on this side.
    """

    mark = 0

    def __init__(self, message: str, *, mark: int = 0) -> None:
        super().__init__(message)
        self.mark = mark
