"""`landmarks.csv`: five landmarks of each face of a folder of photographs.

Columns `photo` (path within the folder, with `/`), `face` (number within the photograph), `score`,
`file` (the aligned face, empty where none was written) and `left_eye_x`, `left_eye_y`, ... in
pixels of the upright photograph, as `iom.photos.align` counts them. Only `photo` and the ten
coordinates are needed; other columns are not read.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from iom._files import write_text
from iom.errors import DataError
from iom.photos.align import POINT_NAMES, is_mirrored
from iom.photos.detect import Face

COORDINATES = tuple(f"{name}_{axis}" for name in POINT_NAMES for axis in "xy")
COLUMNS = ("photo", "face", "score", "file", *COORDINATES)


def read_landmarks(path: Path) -> dict[str, list[Face]]:
    """Faces of each photograph, in the order of the file; a face without a score has 1.

    Raises:
        DataError: Unreadable, no such columns, a line that is not ten numbers, no line at all, or
            landmarks whose left and right are confused.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8, received other bytes") from error
    reader = csv.DictReader(io.StringIO(text))
    faces: dict[str, list[Face]] = {}
    try:
        missing = [name for name in ("photo", *COORDINATES) if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(
                f"{path}: expected columns photo, {', '.join(COORDINATES)}; there is no {', '.join(missing[:3])}"
            )
        for row in reader:
            faces.setdefault(row["photo"], []).append(_face(row, f"{path}, line {reader.line_num}"))
    except csv.Error as error:
        raise DataError(f"{path}: not a table ({error})") from error
    if not faces:
        raise DataError(f"{path}: expected landmarks, received no line")
    _check_sides(faces, path)
    return faces


def write_landmarks(path: Path, rows: Iterable[tuple[str, int, Face, str]]) -> None:
    """Write `(photo, number, face, file)` rows, atomically."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for photo, number, face, file in rows:
        points = [f"{value:.3f}" for value in face.points.ravel()]
        writer.writerow([photo, number, f"{face.score:.6f}", file, *points])
    write_text(path, stream.getvalue())


def _face(row: Mapping[str, str | None], place: str) -> Face:
    try:
        points = np.array([float(row[name] or "") for name in COORDINATES]).reshape(5, 2)
        score = float(row.get("score") or 1.0)
    except (ValueError, TypeError) as error:
        raise DataError(f"{place}: expected ten coordinates and a score as numbers") from error
    if not np.isfinite(points).all() or not np.isfinite(score):
        raise DataError(f"{place}: expected finite numbers")
    return Face(points, score)


def _check_sides(faces: Mapping[str, list[Face]], path: Path) -> None:
    """A profile may look mirrored; most faces of a list do not."""
    mirrored = [is_mirrored(face.points) for listed in faces.values() for face in listed]
    if 2 * sum(mirrored) > len(mirrored):
        raise DataError(
            f"{path}: {sum(mirrored)} of {len(mirrored)} faces have left and right confused: "
            "expected left and right as seen in the image, not the person's"
        )
