"""One photograph: decoded, its faces detected, chosen, aligned and measured; a bad one is a result, not an error."""

import dataclasses
import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from iom._registry import lookup
from iom.config.base import Section
from iom.errors import ConfigError, DataError, FaceError, WorkerError
from iom.photos.align import TEMPLATE, Face, align, face_size, pose_of, qualities_of, similarity
from iom.photos.detect import DETECTORS, MAX_SIDE, Detect, build_detector
from iom.photos.images import MAX_MEGABYTES, MAX_MEGAPIXELS, SIZE, Pixels, decode_image, decode_photograph, file_bytes

STAGES = ("decode", "detect", "align")
STATUSES = {
    "aligned": "has aligned faces",
    "hashed": "has codes",
    "no_face": "no face with the score asked for",
    "several_faces": "more than the one face that was asked for",
    "too_small": "no face of the size asked for",
    "too_blurred": "the face is not sharp enough",
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
FACE_CHOICES = {
    "all": "every face",
    "largest": "the largest",
    "centre": "the one whose landmarks are nearest to the middle",
    "one": "the only one; a photograph of several is refused",
    "dominant": "the largest; refused where another one is at least half as large",
}
BYSTANDER = 0.5
"""Share of the size of the largest face below which others are bystanders for the choice `dominant`."""
_BOX = dict.fromkeys(("left", "top"), -0.5) | dict.fromkeys(("right", "bottom"), SIZE - 0.5)
POINTS, ALIGNED = "points", "aligned"
"""Names in place of a detector's: landmarks are known, or the files are aligned faces."""


class PhotoSettings(Section):
    """All that decides which faces a photograph gives; a run is continued only with the same."""

    detector: str = "mtcnn"
    """A name of `DETECTORS`, `points` or `aligned`."""
    faces: Literal[*FACE_CHOICES] = "all"  # type: ignore[valid-type]
    """A name of `FACE_CHOICES`: which of several faces."""
    min_score: float | None = Field(None, ge=0, le=1)
    """Lowest score of the detector; `None`: the detector's own."""
    min_size: float = Field(32.0, ge=0)
    """Smallest side, in pixels of the photograph, of the square that becomes the 112 x 112 face."""
    source: str = ""
    """SHA-256 of the detector's weights or of the list of landmarks, where a file was given."""
    max_side: int = Field(MAX_SIDE, ge=SIZE)
    """Photographs are shrunk to it for the detector: smaller is faster and misses small faces."""
    max_megapixels: float = Field(MAX_MEGAPIXELS, gt=0)
    max_megabytes: float = Field(MAX_MEGABYTES, gt=0)

    @model_validator(mode="after")
    def _check_detector(self) -> Self:
        if self.detector not in (POINTS, ALIGNED):
            lookup(DETECTORS, self.detector, "detector")
        return self

    @property
    def score(self) -> float:
        """`min_score`, or the detector's own."""
        if self.min_score is not None:
            return self.min_score
        return DETECTORS[self.detector].min_score if self.detector in DETECTORS else 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class AlignedFace:
    """A face of a photograph, aligned: its number by falling score, `crop` `(112, 112, 3)` and `landmarks` `(5, 2)`.

    Landmarks are in pixels of the upright photograph, in the order of `iom.photos.align.POINT_NAMES`. `measures` have
    the names of `iom.photos.codes_file.MEASURES`; `sharpness` and `brightness` alone where the file was an aligned
    face. `left`, `top`, `right`, `bottom`: the upright box around the square that became the aligned face, in pixels of
    the upright photograph; it may reach beyond it. `size`: side of that square. `others`: how many further faces
    `iom.photos.picture.faces` found beside it.
    """

    number: int
    crop: Pixels
    measures: Mapping[str, float]
    landmarks: NDArray[np.float64] = dataclasses.field(default_factory=TEMPLATE.copy)
    others: int = 0

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in pixels of the upright photograph."""
        left, top, right, bottom = (self.measures.get(side, end) for side, end in _BOX.items())
        return left, top, right, bottom

    @property
    def score(self) -> float:
        """Of the detector, 0 to 1; 1 for what was aligned already."""
        return self.measures.get("score", 1.0)

    @property
    def size(self) -> float:
        """Side in pixels of the square that became the crop."""
        return self.measures.get("size", float(SIZE))

    @property
    def pose(self) -> dict[str, float]:
        """`yaw`, `pitch` and `roll` in degrees, as of `iom.photos.align.pose_of`."""
        return {name: self.measures[name] for name in ("yaw", "pitch", "roll") if name in self.measures}

    @property
    def sharpness(self) -> float:
        """As of `iom.photos.align.qualities_of`: low where the face is blurred."""
        return self.measures["sharpness"]

    def __repr__(self) -> str:
        left, top, right, bottom = self.box
        return (
            f"AlignedFace({self.number}: score {self.score:.3f}, size {self.size:.0f}, "
            f"box ({left:.0f}, {top:.0f}, {right:.0f}, {bottom:.0f}), sharpness {self.sharpness:.0f})"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class PhotoResult:
    """The faces of a photograph (`found` all, `faces` the chosen ones), or a status of `STATUSES` and its reason.

    `notes` say how it was read (see `read_photograph`), and `several_faces`, `small_faces_left_out`, `faces_left_out`.
    `mark` is the file's size in bytes and its change time in ns; `seconds` the processor time in each of `STAGES`,
    exact where a process works on one photograph at a time.
    """

    name: str
    status: str
    reason: str = ""
    notes: tuple[str, ...] = ()
    found: tuple[Face, ...] = ()
    faces: tuple[AlignedFace, ...] = ()
    mark: tuple[int, int] = (0, 0)
    seconds: tuple[float, ...] = (0.0, 0.0, 0.0)

    def facts(self) -> dict[str, Any]:
        """The fields that a journal keeps, as JSON."""
        return {"status": self.status, "reason": self.reason, "notes": list(self.notes), "mark": list(self.mark)}

    def to_bytes(self) -> bytes:
        """A line of JSON, then the pixels of the faces."""
        line = dataclasses.asdict(dataclasses.replace(self, found=(), faces=()))
        line["found"] = face_rows(self.found)
        line["faces"] = [[face.number, face.measures] for face in self.faces]
        return b"".join([json.dumps(line).encode(), b"\n", *(face.crop.tobytes() for face in self.faces)])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` gave; anything else is a `WorkerError`."""
        line, _, pixels = data.partition(b"\n")
        try:
            fields = json.loads(line)
            images = np.frombuffer(pixels, np.uint8).reshape(len(fields["faces"]), SIZE, SIZE, 3)
            found = faces_of(fields["found"])
            faces = tuple(
                AlignedFace(number, image, measures, found[number].points if found else TEMPLATE)
                for (number, measures), image in zip(fields["faces"], images, strict=True)
            )
            for name in ("notes", "mark", "seconds"):
                fields[name] = tuple(fields[name])
            return cls(**(fields | {"found": found, "faces": faces}))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise WorkerError("the worker process sent a malformed answer") from error


def find_faces(
    root: Path, name: str, known: Sequence[Face] | None = None, *, settings: PhotoSettings, detect: Detect | None = None
) -> PhotoResult:
    """Read a photograph; find, choose, align and measure its faces, whose landmarks may be `known`."""
    mark, status, reason = mark_of(root / name), "aligned", ""
    notes: tuple[str, ...] = ()
    found: tuple[Face, ...] = ()
    faces: tuple[AlignedFace, ...] = ()
    clock = [time.process_time()]
    try:
        data = file_bytes(root / name, "photograph", max_megabytes=settings.max_megabytes)
        if settings.detector == ALIGNED:
            pixels = decode_image(data, "aligned face", size=SIZE)
            faces = (AlignedFace(0, pixels, qualities_of(pixels)),)
        else:
            image, notes = decode_photograph(data, "photograph", max_megapixels=settings.max_megapixels)
            del data
            clock.append(time.process_time())
            if known is None:
                if detect is None:
                    raise ConfigError(f"the detector {settings.detector} needs the landmarks of {name}")
                known = detect(image)
            clock.append(time.process_time())
            found = tuple(face for face in known if face.score >= settings.score)
            chosen, more = choose_faces(found, image.shape[:2], settings)
            faces = tuple(aligned_face(image, number, found[number], size) for number, size in chosen)
            notes += more
    except FaceError as error:
        status, reason = error.status, str(error)
    except MemoryError:
        status, reason = "too_large", "photograph: decoding takes too much memory"
    spent = [later - earlier for earlier, later in itertools.pairwise([*clock, time.process_time()])]
    return PhotoResult(name, status, reason, notes, found, faces, mark, (*spent, 0.0, 0.0)[:3])


def choose_faces(
    faces: Sequence[Face], shape: tuple[int, ...], settings: PhotoSettings, *, source: str = "photograph"
) -> tuple[list[tuple[int, float]], tuple[str, ...]]:
    """Index and size of each chosen face of an image of this height and width, and notes as in `PhotoResult`.

    `FaceError`, with its `status`, where none is left, or several are where one was asked for.
    """
    if not faces:
        raise FaceError(f"{source}: expected a face, found none", status="no_face")
    sizes, reason = [], ""
    for face in faces:
        try:
            sizes.append(_size_within(shape, face))
        except DataError as error:
            sizes.append(-1.0)
            reason = str(error)
    if max(sizes) < 0:
        raise FaceError(reason, status="bad_landmarks")
    usable = [i for i, size in enumerate(sizes) if size >= settings.min_size]
    if not usable:
        raise FaceError(
            f"{source}: expected a face of {settings.min_size:g} pixels or more, found one of {max(sizes):.0f}",
            status="too_small",
        )
    by_size = sorted(usable, key=lambda i: -sizes[i])
    alone = len(usable) == 1 or (settings.faces == "dominant" and sizes[by_size[1]] < BYSTANDER * sizes[by_size[0]])
    if settings.faces in ("one", "dominant") and not alone:
        raise FaceError(f"{source}: expected one face, found {len(usable)}", status="several_faces")
    chosen = usable if settings.faces == "all" else by_size[:1]
    if settings.faces == "centre":
        middle = (np.array([shape[1], shape[0]]) - 1) / 2
        chosen = [min(usable, key=lambda i: float(np.linalg.norm(faces[i].points.mean(axis=0) - middle)))]
    noted = {
        "several_faces": len(faces) > 1,
        "small_faces_left_out": len(usable) < len(faces),
        "faces_left_out": len(chosen) < len(usable),
    }
    return [(i, sizes[i]) for i in chosen], tuple(note for note, holds in noted.items() if holds)


def mark_of(path: Path) -> tuple[int, int]:
    """`PhotoResult.mark` of a file as it is now; zeros where that is unknown."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return found.st_size, found.st_mtime_ns


def face_rows(faces: Iterable[Face]) -> list[list[float]]:
    """Faces as JSON: score, then the coordinates."""
    return [[face.score, *face.points.ravel().tolist()] for face in faces]


def faces_of(rows: Sequence[Sequence[float]]) -> tuple[Face, ...]:
    """Faces from `face_rows()`."""
    return tuple(Face(np.array(row[1:], np.float64).reshape(5, 2), float(row[0])) for row in rows)


def _size_within(shape: tuple[int, ...], face: Face) -> float:
    """Size of a face of which at least one landmark lies within the photograph."""
    size = face_size(face.points)
    within = (face.points > -1) & (face.points < [shape[1], shape[0]])
    if not within.all(axis=1).any():
        raise DataError("landmarks: all five lie outside of the photograph")
    return size


def aligned_face(image: Pixels, number: int, face: Face, size: float) -> AlignedFace:
    """The face `number` of an image, aligned and measured."""
    crop = align(image, face.points)
    matrix = similarity(face.points)
    corners = np.array([(x, y) for x in (-0.5, SIZE - 0.5) for y in (-0.5, SIZE - 0.5)])
    back = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    box = dict(zip(("left", "top", "right", "bottom"), [*back.min(axis=0), *back.max(axis=0)], strict=True))
    measures = {name: float(value) for name, value in box.items()} | {"score": face.score, "size": size}
    return AlignedFace(number, crop, measures | pose_of(face.points) | qualities_of(crop), face.points)


def detector_of(settings: PhotoSettings, weights: Path | None) -> Detect | None:
    """The detector of the settings; `None` where none is needed."""
    if settings.detector in (POINTS, ALIGNED):
        return None
    return build_detector(settings.detector, weights=weights, max_side=settings.max_side)
