"""One photograph to its aligned faces, with what is known of each; a bad one is an outcome."""

import dataclasses
import itertools
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from iom._registry import lookup
from iom.data.images import Pixels, decode_image
from iom.errors import ConfigError, DataError
from iom.photos.align import SIZE, align, face_size, similarity
from iom.photos.decode import OtherTypeError, TooLargeError, decode_photograph
from iom.photos.detect import DETECTORS, LARGEST_SIDE, Detect, Face
from iom.photos.quality import Pose, brightness_of, pose_of, sharpness_of

LARGEST_MEGAPIXELS = 64.0
"""Default: what telephones take. A worker needs about ten bytes for each pixel."""
LARGEST_MEGABYTES = 256
STAGES = ("decode", "detect", "align")
STATUSES = {
    "found": "has faces",
    "no_face": "no face with the score asked for",
    "several_faces": "more than the one face that was asked for",
    "too_small": "no face of the size asked for",
    "bad_landmarks": "the landmarks define no face within the photograph",
    "too_large": "more pixels or bytes than allowed",
    "empty": "no bytes",
    "wrong_type": "no photograph of a known kind",
    "damaged": "cannot be decoded",
    "unreadable": "cannot be opened",
    "linked_folder": "a link to a folder, not followed",
    "not_embedded": "the network has no embedding for a face",
    "gave_up": "the process that worked on it took too long, or died",
}
CHOICES = ("all", "largest", "one")
POINTS, ALIGNED = "points", "aligned"
"""Names in place of a detector's: landmarks are known, or the files are aligned faces."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindSettings:
    """What decides the result; a run is continued only with the same.

    Raises:
        ConfigError: A value out of range or an unknown choice.
    """

    detector: str = "mtcnn"
    """A name of `DETECTORS`, `points` or `aligned`."""
    faces: str = "all"
    """`all`, the `largest`, or `one`: a photograph of several is refused."""
    min_score: float | None = None
    """Lowest score of the detector; `None`: the detector's own."""
    min_size: float = 32.0
    """Smallest side, in pixels of the photograph, of what becomes the 112 x 112 face."""
    source: str = ""
    """SHA-256 of the detector's weights or of the list of landmarks, where a file was given."""
    largest_side: int = LARGEST_SIDE
    """Photographs are shrunk to it for the detector: smaller is faster and misses small faces."""
    largest_megapixels: float = LARGEST_MEGAPIXELS
    largest_megabytes: float = LARGEST_MEGABYTES

    def __post_init__(self) -> None:
        if self.detector not in (POINTS, ALIGNED):
            lookup(DETECTORS, self.detector, "detector")
        if self.faces not in CHOICES:
            raise ConfigError(f"faces: expected one of {', '.join(CHOICES)}, received '{self.faces}'")
        if not 0.0 <= self.lowest_score <= 1.0:
            raise ConfigError(f"expected min_score from 0 to 1, received {self.min_score}")
        if not (0 <= self.min_size < np.inf and self.largest_megapixels > 0):
            raise ConfigError("expected min_size from 0 and largest_megapixels above 0")
        if self.largest_side < SIZE:
            raise ConfigError(f"expected largest_side {SIZE} or more, received {self.largest_side}")

    @property
    def lowest_score(self) -> float:
        """`min_score`, or the detector's own."""
        if self.min_score is not None:
            return self.min_score
        return DETECTORS[self.detector].min_score if self.detector in DETECTORS else 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """Where a face was found; there is none where files are aligned faces.

    Attributes:
        score: Of the detector.
        points: Five landmarks in pixels of the upright photograph, `(5, 2)`.
        box: Left, top, right and bottom of the upright box around the square that became the
            aligned face; it may reach beyond the photograph.
        size: Side of that square in pixels.
        pose: Of the head.
    """

    score: float
    points: NDArray[np.float64]
    box: tuple[float, float, float, float]
    size: float
    pose: Pose


@dataclasses.dataclass(frozen=True, eq=False)
class FoundFace:
    """An aligned face `(112, 112, 3)`, its number by falling score, and its measures."""

    number: int
    pixels: Pixels
    place: Place | None
    sharpness: float
    brightness: float


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What became of a photograph.

    Attributes:
        status: One of `STATUSES`.
        reason: Why, where it is not `found`.
        notes: What had to be done to read it (see `read_photograph`), and `several_faces`,
            `small_faces_left_out`, `faces_left_out`.
        faces: Those asked for.
        mark: Size and time of change of the file that was read, in bytes and ns.
        seconds: Of processor time in each of the `STAGES`; exact where one photograph is worked on
            at a time.
    """

    status: str
    reason: str = ""
    notes: tuple[str, ...] = ()
    faces: tuple[FoundFace, ...] = ()
    mark: tuple[int, int] = (0, 0)
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Job(NamedTuple):
    """A photograph by its path within the folder, and its landmarks where they are known."""

    name: str
    known: Sequence[Face] | None = None


class _Refused(Exception):  # noqa: N818 - an outcome, not an error
    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def mark_of(path: Path) -> tuple[int, int]:
    """`Found.mark` of a file as it is now; zeros where it cannot be asked."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return found.st_size, found.st_mtime_ns


def find_faces(root: Path, job: Job, *, settings: FindSettings, detect: Detect | None = None) -> Found:
    """Read a photograph, find, choose and align its faces.

    Args:
        root: Folder of the photographs.
        job: Which one.
        settings: See there.
        detect: Where the landmarks are not known.
    """
    mark, clock = mark_of(root / job.name), [time.process_time()]
    try:
        data = _read(root / job.name, settings)
        if settings.detector == ALIGNED:
            pixels = decode_image(data, "aligned face", size=SIZE)
            face = FoundFace(0, pixels, None, sharpness_of(pixels), brightness_of(pixels))
            return Found("found", faces=(face,), mark=mark, seconds=_stages(clock))
        image, notes = decode_photograph(data, "photograph", largest_megapixels=settings.largest_megapixels)
    except _Refused as refused:
        return Found(refused.status, str(refused), mark=mark)
    except TooLargeError as error:
        return Found("too_large", str(error), mark=mark)
    except OtherTypeError as error:
        return Found("wrong_type", str(error), mark=mark)
    except DataError as error:
        return Found("damaged", str(error), mark=mark)
    except MemoryError:
        return Found("too_large", "photograph: it takes too much memory to decode", mark=mark)
    del data
    clock.append(time.process_time())
    assert job.known is not None or detect is not None  # noqa: S101 - one or the other is given
    found = job.known if job.known is not None else detect(image)  # type: ignore[misc]
    clock.append(time.process_time())
    try:
        faces, more = _chosen(image, found, settings)
    except _Refused as refused:
        return Found(refused.status, str(refused), notes, (), mark, _stages(clock))
    return Found("found", "", (*notes, *more), faces, mark, _stages(clock))


def _read(path: Path, settings: FindSettings) -> bytes:
    """Bytes of a regular file; anything else would block, or never end."""
    limit = int(settings.largest_megabytes * 1e6)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as stream:  # noqa: PTH123 - of a handle
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                raise _Refused("wrong_type", "no regular file")
            if facts.st_size > limit:
                raise _Refused(
                    "too_large",
                    f"photograph: expected at most {settings.largest_megabytes:g} megabytes, "
                    f"received {facts.st_size / 1e6:.0f}",
                )
            data = stream.read(limit + 1)
    except OSError as error:
        raise _Refused("unreadable", str(error.strerror or error)) from error
    if not data:
        raise _Refused("empty", "photograph: expected an image, received an empty file")
    return data


def _chosen(
    image: Pixels, found: Sequence[Face], settings: FindSettings
) -> tuple[tuple[FoundFace, ...], tuple[str, ...]]:
    faces = [face for face in found if face.score >= settings.lowest_score]
    if not faces:
        raise _Refused("no_face", "")
    sizes, reason = [], ""
    for face in faces:
        try:
            sizes.append(_size_within(image, face))
        except DataError as error:
            sizes.append(-1.0)
            reason = str(error)
    usable = [i for i, size in enumerate(sizes) if size >= settings.min_size]
    if max(sizes) < 0:
        raise _Refused("bad_landmarks", reason)
    if not usable:
        raise _Refused("too_small", f"largest face {max(sizes):.0f} pixels, expected {settings.min_size:g} or more")
    if settings.faces == "one" and len(usable) > 1:
        raise _Refused("several_faces", f"expected one face, found {len(usable)}")
    notes = ["several_faces"] if len(faces) > 1 else []
    if len(usable) < len(faces):
        notes.append("small_faces_left_out")
    if settings.faces == "largest" and len(usable) > 1:
        usable = [max(usable, key=lambda i: sizes[i])]
        notes.append("faces_left_out")
    return tuple(_face(image, i, faces[i], sizes[i]) for i in usable), tuple(notes)


def _size_within(image: Pixels, face: Face) -> float:
    """Side of a face of which at least one landmark lies within the photograph."""
    size = face_size(face.points)
    height, width = image.shape[:2]
    within = (face.points > -1) & (face.points < [width, height])
    if not within.all(axis=1).any():
        raise DataError("landmarks: all five lie outside of the photograph")
    return size


def _face(image: Pixels, number: int, face: Face, size: float) -> FoundFace:
    pixels = align(image, face.points)
    matrix = similarity(face.points)
    corners = np.array([(x, y) for x in (-0.5, SIZE - 0.5) for y in (-0.5, SIZE - 0.5)])
    back = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    (left, top), (right, bottom) = back.min(axis=0).tolist(), back.max(axis=0).tolist()
    place = Place(face.score, face.points, (left, top, right, bottom), size, pose_of(face.points))
    return FoundFace(number, pixels, place, sharpness_of(pixels), brightness_of(pixels))


def _stages(clock: Sequence[float]) -> tuple[float, float, float]:
    times = [*clock, time.process_time()]
    passed = [later - earlier for earlier, later in itertools.pairwise(times)]
    decode, detect, aligned = [*passed, 0.0, 0.0][:3]
    return decode, detect, aligned
