"""Five-point alignment to the template of a recogniser, such as ArcFace's; pose, sharpness, brightness.

A point (x, y) counts from the centre of the first pixel, x to the right and y down, as in OpenCV. Points stand in the
order of `TEMPLATE`, left and right as seen in the image.

`landmarks.csv` holds five landmarks of each face of a folder of photographs. Columns `photo` (path within the folder,
with `/`), `face` (number within the photograph), `score`, `file` (the aligned face, empty where none was written) and
`left_eye_x`, `left_eye_y`, ... in pixels of the upright photograph; only `photo` and the coordinates are needed.
"""

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from iom._files import atomic_path, csv_text, write_text
from iom._untrusted import read_text, reading
from iom.errors import DataError
from iom.photos.images import SIZE, Pixels, in_threads, read_photograph

JPEG_QUALITY = 95
STAMP = "landmarks.sha256"
"""File in a folder of `aligned_crops`."""
POINT_NAMES = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)

COORDINATES = tuple(f"{name}_{axis}" for name in POINT_NAMES for axis in "xy")
COLUMNS = ("photo", "face", "score", "file", *COORDINATES)

# Below it the points are one point, or their mirror image, for all that float64 can tell.
_TOLERANCE = 1e-9
EDGE = 16
"""Pixels on each side of an aligned face that are not looked at: hair, background, black."""
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
# Towards the camera, in pixels of the template (1.8 mm on a face whose eyes are 63 mm apart): the
# tip of the nose stands 36 mm before the eyes, the corners of the mouth 9 mm.
DEPTHS = np.array([0.0, 0.0, 20.0, 5.0, 5.0])


@dataclasses.dataclass(frozen=True, eq=False)
class Face:
    """One face of a photograph: `points` (5, 2) in the order of `TEMPLATE`, score in 0..1."""

    points: NDArray[np.float64]
    score: float


@dataclasses.dataclass(frozen=True)
class FaceTemplate:
    """Where a recogniser expects the face: in a chip of `size` pixels a side, at `scale` (x, y) + `shift`.

    (x, y) are coordinates in the ArcFace crop of 112 x 112 pixels, whose landmarks are `TEMPLATE`.
    """

    name: str
    size: int
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    def matrix(self, points: ArrayLike, source: str = "landmarks") -> NDArray[np.float64]:
        """Similarity transform `(2, 3)` from landmarks `(5, 2)` to the chip; see `similarity`."""
        matrix = self.scale * similarity(points, source)
        matrix[:, 2] += self.shift
        return matrix

    def chips(self, crops: Pixels) -> Pixels:
        """Chips `(N, S, S, 3)` of ArcFace crops `(N, 112, 112, 3)`; rows and columns beyond a crop repeat its edge.

        What is a chip already stays as it is.
        """
        if self.name == ARCFACE or crops.shape[1] == self.size:
            return crops
        reach = int(
            np.ceil(max(0.0, *np.abs(self.shift), self.size - self.scale * SIZE - min(self.shift)) / self.scale)
        )
        padded = np.pad(crops, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
        turn = np.eye(2) / self.scale
        shift = reach - np.array(self.shift) / self.scale
        chips = np.empty((len(crops), self.size, self.size, 3), np.uint8)
        for i, crop in enumerate(padded):
            chips[i] = _sampled(Image.fromarray(crop), turn, _corner_shift(turn, shift), self.size)
        return chips


ARCFACE = "arcface"
TEMPLATES = {
    ARCFACE: FaceTemplate(ARCFACE, SIZE),  # Deng et al., CVPR 2019
    "dlib": FaceTemplate(
        "dlib", 150, scale=1.491, shift=(-9.4, -29.8)
    ),  # eyes where dlib's get_face_chip_details puts them
}


def similarity(points: ArrayLike, source: str = "landmarks") -> NDArray[np.float64]:
    """Least-squares similarity transform (rotation, scale, shift) `(2, 3)` from `points` `(5, 2)` to `TEMPLATE`.

    Umeyama (TPAMI 1991), eq. 40 to 42. With points as complex numbers, centred, a proper similarity is one factor a =
    sum(conj(x) y) / sum(|x|^2): never a mirror image. Template position = matrix @ (x, y, 1).
    """
    given = np.asarray(points, np.float64)
    if given.shape != TEMPLATE.shape or not np.isfinite(given).all():
        raise DataError(
            f"{source}: expected five landmarks (x, y) of finite numbers, received "
            f"{'numbers that are not finite' if given.shape == TEMPLATE.shape else given.shape}"
        )
    centred, mean = _centred(given)
    target, target_mean = _centred(TEMPLATE)
    spread = float((np.abs(centred) ** 2).sum())
    if spread <= _TOLERANCE * max(1.0, abs(mean)) ** 2:
        raise DataError(f"{source}: expected five different landmarks, received one point")
    factor = (centred.conj() * target).sum() / spread
    if abs(factor) * np.sqrt(spread) <= _TOLERANCE:
        raise DataError(f"{source}: the landmarks define no rotation; are they of a face?")
    shift = target_mean - factor * mean
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def is_mirrored(points: ArrayLike) -> bool:
    """Whether the points fit the mirrored template better, as with left and right confused."""
    centred, _ = _centred(np.asarray(points, np.float64))
    target, _ = _centred(TEMPLATE)
    return bool(abs((centred * target).sum()) > abs((centred.conj() * target).sum()))


def align(
    image: Pixels,
    points: ArrayLike,
    *,
    template: FaceTemplate | None = None,
    source: str = "landmarks",
    smooth: bool = True,
) -> Pixels:
    """The face with these landmarks as `template` has it `(S, S, 3)`; black where the photograph `(H, W, 3)` ends.

    `template` `None` is ArcFace's, S 112. `smooth` averages blocks of pixels first where the face is at least twice too
    large, since bilinear sampling alone would skip pixels; `False` samples as InsightFace does.
    """
    template = template or TEMPLATES[ARCFACE]
    matrix, side = template.matrix(points, source), template.size
    back = np.linalg.inv(np.vstack([matrix, [0.0, 0.0, 1.0]]))[:2]
    pixels = float(np.hypot(matrix[0, 0], matrix[1, 0])) ** -1  # photograph pixels for one of ours
    factor = max(1, int(min(pixels, *image.shape[:2]))) if smooth else 1
    turn, shift = back[:, :2], _corner_shift(back[:, :2], back[:, 2])
    # The part that is sampled, in whole blocks: Pillow copies what it is given, and of a large photograph, a face costs
    # less than the copy.
    corners = turn @ [[0, 0, side, side], [0, side, 0, side]] + shift[:, None]
    size = np.array([image.shape[1], image.shape[0]])
    first = np.clip(corners.min(axis=1) - 2 * factor, 0, size).astype(np.int64) // factor * factor
    last = np.minimum(-(-np.clip(corners.max(axis=1) + 2 * factor, 0, size) // factor).astype(np.int64) * factor, size)
    if not (first < last).all():
        return np.zeros((side, side, 3), np.uint8)
    picture = Image.fromarray(image[first[1] : last[1], first[0] : last[0]])
    shift = shift - first
    if factor >= 2:
        picture = picture.reduce(factor)
        turn, shift = turn / factor, shift / factor
    return _sampled(picture, turn, shift, side)


def _corner_shift(turn: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shift between corners of first pixels, from which Pillow counts, half a pixel before their centres."""
    corner: NDArray[np.float64] = shift + 0.5 - turn @ [0.5, 0.5]
    return corner


def _sampled(picture: Image.Image, turn: NDArray[np.float64], shift: NDArray[np.float64], side: int) -> Pixels:
    coefficients = (turn[0, 0], turn[0, 1], shift[0], turn[1, 0], turn[1, 1], shift[1])
    aligned = picture.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(aligned, np.uint8)


def face_size(points: ArrayLike) -> float:
    """Side in pixels of the square of the photograph that becomes the aligned face."""
    matrix = similarity(points)
    return SIZE / float(np.hypot(matrix[0, 0], matrix[1, 0]))


def _centred(points: NDArray[np.float64]) -> tuple[NDArray[np.complex128], complex]:
    values = points[:, 0] + 1j * points[:, 1]
    return values - values.mean(), complex(values.mean())


def write_face(path: Path, face: Pixels) -> None:
    """Write an aligned face, atomically: JPEG of quality 95 without chroma subsampling, or PNG."""
    with atomic_path(path) as temporary:
        Image.fromarray(face).save(temporary, quality=JPEG_QUALITY, subsampling=0)  # PNG takes neither


def aligned_crops(
    crops: Sequence[Path], points: NDArray[np.float64], folder: Path, *, progress: bool = False
) -> tuple[Path, ...]:
    """Align loose crops by landmarks `(N, 5, 2)` into `folder`, as `<number>.png`; existing faces are kept.

    As InsightFace evaluates IJB-B and IJB-C: bilinear sampling without smoothing, black outside.
    """
    text = "\n".join(path.as_posix() for path in crops)
    stamp = hashlib.sha256(text.encode() + np.ascontiguousarray(points).tobytes()).hexdigest()
    if not folder.is_dir() or not any(folder.iterdir()):
        write_text(folder / STAMP, stamp + "\n")
    elif not (folder / STAMP).is_file() or (folder / STAMP).read_text(encoding="utf-8").strip() != stamp:
        raise DataError(
            f"{folder}: expected faces aligned from these crops and landmarks, found others; "
            "name another folder, or remove it"
        )
    files = tuple(folder / f"{i // 1000:04d}" / f"{i:07d}.png" for i in range(len(crops)))

    def write(i: int) -> None:
        if not files[i].is_file():
            image, _ = read_photograph(crops[i])
            write_face(files[i], align(image, points[i], source=str(crops[i]), smooth=False))

    for _ in in_threads(write, range(len(crops)), "aligning", unit="face", workers=2, progress=progress):
        pass
    return files


def read_landmarks(path: Path) -> dict[str, list[Face]]:
    """Faces of each photograph, in the order of the file; a face without a score has 1."""
    reader = csv.DictReader(io.StringIO(read_text(path)))
    faces: dict[str, list[Face]] = {}
    with reading(path, "a table of landmarks"):
        missing = [name for name in ("photo", *COORDINATES) if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(
                f"{path}: expected columns photo, {', '.join(COORDINATES)}; there is no {', '.join(missing[:3])}"
            )
        for row in reader:
            faces.setdefault(row["photo"], []).append(_face(row, f"{path}, line {reader.line_num}"))
    if not faces:
        raise DataError(f"{path}: expected landmarks, received no line")
    mirrored = [is_mirrored(face.points) for listed in faces.values() for face in listed]
    if 2 * sum(mirrored) > len(mirrored):  # a single profile may look so
        raise DataError(
            f"{path}: {sum(mirrored)} of {len(mirrored)} faces have left and right confused: "
            "expected left and right as seen in the image, not the person's"
        )
    return faces


def write_landmarks(path: Path, rows: Iterable[tuple[str, int, Face, str]]) -> None:
    """Write `(photo, number, face, file)` rows, atomically."""
    cells = (
        (photo, number, f"{face.score:.6f}", file, *(f"{value:.3f}" for value in face.points.ravel()))
        for photo, number, face, file in rows
    )
    write_text(path, csv_text(COLUMNS, (dict(zip(COLUMNS, row, strict=True)) for row in cells)))


def _face(row: Mapping[str, str | None], place: str) -> Face:
    try:
        points = np.array([float(row[name] or "") for name in COORDINATES]).reshape(5, 2)
        score = float(row.get("score") or 1.0)
    except (ValueError, TypeError) as error:
        raise DataError(f"{place}: expected ten coordinates and a score as numbers") from error
    if not np.isfinite(points).all() or not np.isfinite(score):
        raise DataError(f"{place}: expected finite numbers")
    return Face(points, score)


def head_shape() -> NDArray[np.float64]:
    """Five points of a frontal head `(5, 3)`, centred: x right, y down, z towards the camera."""
    points = np.column_stack([TEMPLATE, DEPTHS])
    mirrored = points[[1, 0, 2, 4, 3]] * [-1, 1, 1]
    shape = (points - points.mean(axis=0) + mirrored - mirrored.mean(axis=0)) / 2
    return np.asarray(shape, np.float64)


def pose_of(points: ArrayLike) -> dict[str, float]:
    """`yaw`, `pitch` and `roll` in degrees of a head whose points are `points` `(5, 2)`, under scaled orthography.

    As seen in the image, 0 for the frontal face of the template: pitch first, then yaw, then roll. Positive yaw: the
    nose points to the right; pitch: down; roll: the line through the eyes is turned clockwise. The affine camera that
    takes `head_shape` to the points by least squares, and the rotation next to it (POS of DeMenthon and Davis, IJCV
    1995, with all points at once). For any one person it is some degrees off.
    """
    given = np.asarray(points, np.float64)
    camera, *_ = np.linalg.lstsq(head_shape(), given - given.mean(axis=0), rcond=None)
    left, _, right = np.linalg.svd(camera.T, full_matrices=False)
    across, down = left @ right  # of the head's three axes, how far each goes right and down
    towards = np.cross(across, down)
    roll = np.arctan2(down[0], across[0])
    nose_right = np.cos(roll) * across[2] + np.sin(roll) * down[2]
    nose_down = np.cos(roll) * down[2] - np.sin(roll) * across[2]
    yaw = np.arctan2(nose_right, towards[2])
    pitch = np.arctan2(nose_down, np.hypot(nose_right, towards[2]))
    return {"yaw": float(np.degrees(yaw)), "pitch": float(np.degrees(pitch)), "roll": float(np.degrees(roll))}


def qualities_of(face: Pixels) -> dict[str, float]:
    """`sharpness` and `brightness` of an aligned face: variance of the Laplacian, and mean, 0 to 255, of its luminance.

    The former (Pech-Pacheco et al., ICPR 2000) is low where a face is blurred, or enlarged much.
    """
    grey = face[EDGE : SIZE - EDGE, EDGE : SIZE - EDGE].astype(np.float64) @ np.array(LUMINANCE)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return {"sharpness": float(laplacian.var()), "brightness": float(grey.mean())}
