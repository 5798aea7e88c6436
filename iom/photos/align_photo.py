"""One photograph: read, find faces, choose, align, write; a bad photograph is an outcome."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from iom._files import atomic_path
from iom._registry import lookup
from iom.data.images import Pixels
from iom.errors import ConfigError, DataError
from iom.photos.align import align, face_size
from iom.photos.decode import LARGEST_MEGAPIXELS, TooLargeError, read_photograph
from iom.photos.detect import DETECTORS, Detect, Face

STATUSES = ("aligned", "no_face", "too_small", "damaged", "too_large", "bad_landmarks")
"""`no_face`: none with the score asked for. `bad_landmarks`: they define no transform."""
JPEG_QUALITY = 95


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignSettings:
    """What decides the result; a folder is continued only with the same.

    Raises:
        ConfigError: A value out of range or an unknown choice.
    """

    detector: str = "mtcnn"
    """A name of `DETECTORS`, or `points` where the landmarks are given."""
    which: str = "largest"
    """A name of `CHOICES`: which of several faces."""
    min_score: float | None = None
    """Lowest score of the detector; `None`: the detector's own."""
    min_size: float = 32.0
    """Smallest side, in pixels of the photograph, of what becomes the 112 x 112 face."""
    source: str = ""
    """SHA-256 of the detector's weights or of the list of landmarks, where a file was given."""
    format: str = "jpg"
    """`jpg` (quality 95, full colour resolution) or `png`."""
    largest_megapixels: float = LARGEST_MEGAPIXELS

    def __post_init__(self) -> None:
        lookup(CHOICES, self.which, "choice of faces")
        if self.detector != "points":
            lookup(DETECTORS, self.detector, "detector")
        if self.format not in ("jpg", "png"):
            raise ConfigError(f"expected format jpg or png, received {self.format!r}")
        if not 0.0 <= self.lowest_score <= 1.0:
            raise ConfigError(f"expected min_score from 0 to 1, received {self.min_score}")
        if not (0 <= self.min_size < np.inf and self.largest_megapixels > 0):
            raise ConfigError("expected min_size from 0 and largest_megapixels above 0")

    @property
    def lowest_score(self) -> float:
        """`min_score`, or the detector's own."""
        if self.min_score is not None:
            return self.min_score
        return 0.0 if self.detector == "points" else DETECTORS[self.detector].min_score


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a photograph."""

    status: str
    """One of `STATUSES`; of several faces, the best that happened to one of them."""
    reason: str
    notes: tuple[str, ...]
    faces: tuple[Face, ...]
    """All with the score asked for."""
    files: tuple[str, ...]
    """Beside `faces`: name of the aligned face, or empty."""

    def entry(self) -> dict[str, Any]:
        """As JSON."""
        faces = [[face.score, *face.points.ravel().tolist()] for face in self.faces]
        return {**dataclasses.asdict(dataclasses.replace(self, faces=())), "faces": faces}

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Outcome":
        """Of `entry()`."""
        faces = tuple(Face(np.array(row[1:], np.float64).reshape(5, 2), float(row[0])) for row in entry["faces"])
        notes, files = tuple(entry["notes"]), tuple(entry["files"])
        return cls(str(entry["status"]), str(entry["reason"]), notes, faces, files)


def align_photo(photo: Path, stem: str, output: Path, *, settings: AlignSettings, detect: Detect) -> Outcome:
    """Align the faces of one photograph.

    Args:
        photo: The file.
        stem: Name of its aligned face within `output`, without suffix; with `which: all` the number
            of the face is added.
        output: Folder of the aligned faces.
        settings: See there.
        detect: Faces of the pixels.
    """
    try:
        image, notes = read_photograph(photo, largest_megapixels=settings.largest_megapixels)
    except TooLargeError as error:
        return Outcome("too_large", str(error), (), (), ())
    except DataError as error:
        return Outcome("damaged", str(error), (), (), ())
    faces = tuple(face for face in detect(image) if face.score >= settings.lowest_score)
    if not faces:
        return Outcome("no_face", "", notes, (), ())
    sizes, reason = [], ""
    for face in faces:
        try:
            sizes.append(face_size(face.points, str(photo)))
        except DataError as error:
            sizes.append(-1.0)
            reason = str(error)
    usable = [i for i, size in enumerate(sizes) if size >= max(settings.min_size, 0.0)]
    files = [""] * len(faces)
    for i in CHOICES[settings.which](image, faces, sizes, usable) if usable else []:
        number = f".{i}" if settings.which == "all" else ""
        files[i] = f"{stem}{number}.{settings.format}"
        write_face(output / files[i], align(image, faces[i].points, source=str(photo)))
    if any(files):
        return Outcome("aligned", "", notes, faces, tuple(files))
    if max(sizes) < 0:
        return Outcome("bad_landmarks", reason, notes, faces, tuple(files))
    reason = f"largest face {max(sizes):.0f} pixels, expected {settings.min_size:g} or more"
    return Outcome("too_small", reason, notes, faces, tuple(files))


def write_face(path: Path, face: Pixels) -> None:
    """Write an aligned face, atomically: JPEG of quality 95 without chroma subsampling, or PNG."""
    with atomic_path(path) as temporary:
        if path.suffix == ".png":
            Image.fromarray(face).save(temporary)
        else:
            Image.fromarray(face).save(temporary, quality=JPEG_QUALITY, subsampling=0)


def _largest(image: Pixels, faces: Sequence[Face], sizes: Sequence[float], usable: Sequence[int]) -> list[int]:
    return [max(usable, key=lambda i: sizes[i])]


def _all(image: Pixels, faces: Sequence[Face], sizes: Sequence[float], usable: Sequence[int]) -> list[int]:
    return list(usable)


def _centre(image: Pixels, faces: Sequence[Face], sizes: Sequence[float], usable: Sequence[int]) -> list[int]:
    """The one whose landmarks lie nearest to the middle of the photograph."""
    middle = (np.array([image.shape[1], image.shape[0]]) - 1) / 2
    return [min(usable, key=lambda i: float(np.linalg.norm(faces[i].points.mean(axis=0) - middle)))]


Choice = Callable[[Pixels, Sequence[Face], Sequence[float], Sequence[int]], list[int]]
CHOICES: dict[str, Choice] = {"largest": _largest, "all": _all, "centre": _centre}
