"""Photograph pipeline: list, decode, detect, align and measure; then write the faces, or embed and hash them.

`align_photos` and `hash_photos` are one run over a folder that ends at different stages: same settings, statuses and
workers, results in the order of the names, and a journal from which the same run started again continues.
"""

import contextlib
import csv
import dataclasses
import errno
import hmac
import io
import itertools
import json
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from iom._files import (
    IMAGE_SUFFIXES,
    Journal,
    Listing,
    atomic_path,
    check_folder,
    list_images,
    remove_temporary_files,
    write_json,
    write_text,
)
from iom._registry import lookup
from iom._untrusted import paths_inside, read_bytes
from iom._workers import Handler, WorkerPool
from iom.codes.packing import encoding_id, pack
from iom.errors import ConfigError, DataError, FaceError, TooLargeError, WeightsError, WorkerError
from iom.keys import TransformKey
from iom.photos.align import SIZE, Face, align, face_size, similarity, write_face, write_landmarks
from iom.photos.codes_file import FORMAT, TRIED_AGAIN, Outcome, Parts, new_outcome, pyarrow, schema_of, write_codes
from iom.photos.decode import MAX_MEGAPIXELS, decode_photograph
from iom.photos.detect import DETECTORS, MAX_SIDE, Detect, build_detector, use_one_core
from iom.photos.images import Pixels, decode_image
from iom.photos.quality import brightness_of, pose_of, sharpness_of

MAX_MEGABYTES = 256.0
SECONDS = 120.0
"""For one photograph."""
AHEAD = 64
"""Photographs that may be finished before their turn comes; only their aligned faces are kept."""
PART = 128
"""Photographs of one part of a file of codes: what a killed run loses."""
BATCH = 16
"""Faces embedded at a time."""
STAGES = ("decode", "detect", "align")
STATUSES = {
    "aligned": "has aligned faces",
    "hashed": "has codes",
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
_HASH_STATUSES = ("hashed", "linked_folder", "not_embedded")
FACE_CHOICES = {
    "all": "every face",
    "largest": "the largest",
    "centre": "the one whose landmarks are nearest to the middle",
    "one": "the only one; a photograph of several is refused",
    "dominant": "the largest; refused where another one is at least half as large",
}
BYSTANDER = 0.5
"""Share of the size of the largest face below which others are bystanders for the choice `dominant`."""
POINTS, ALIGNED = "points", "aligned"
"""Names in place of a detector's: landmarks are known, or the files are aligned faces."""
JOURNAL = "align.jsonl"
Points = Mapping[str, Sequence[Face]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoSettings:
    """All that decides which faces a photograph gives; a run is continued only with the same.

    Raises:
        ConfigError: A value out of range or an unknown choice.
    """

    detector: str = "mtcnn"
    """A name of `DETECTORS`, `points` or `aligned`."""
    faces: str = "all"
    """A name of `FACE_CHOICES`: which of several faces."""
    min_score: float | None = None
    """Lowest score of the detector; `None`: the detector's own."""
    min_size: float = 32.0
    """Smallest side, in pixels of the photograph, of what becomes the 112 x 112 face."""
    source: str = ""
    """SHA-256 of the detector's weights or of the list of landmarks, where a file was given."""
    max_side: int = MAX_SIDE
    """Photographs are shrunk to it for the detector: smaller is faster and misses small faces."""
    max_megapixels: float = MAX_MEGAPIXELS
    max_megabytes: float = MAX_MEGABYTES

    def __post_init__(self) -> None:
        if self.detector not in (POINTS, ALIGNED):
            lookup(DETECTORS, self.detector, "detector")
        lookup(FACE_CHOICES, self.faces, "choice of faces")
        if not 0.0 <= self.score <= 1.0:
            raise ConfigError(f"expected min_score from 0 to 1, received {self.min_score}")
        if not (0 <= self.min_size < np.inf and self.max_megapixels > 0 and self.max_megabytes > 0):
            raise ConfigError("expected min_size from 0, and max_megapixels and max_megabytes above 0")
        if self.max_side < SIZE:
            raise ConfigError(f"expected max_side {SIZE} or more, received {self.max_side}")

    @property
    def score(self) -> float:
        """`min_score`, or the detector's own."""
        if self.min_score is not None:
            return self.min_score
        return DETECTORS[self.detector].min_score if self.detector in DETECTORS else 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class AlignedFace:
    """An aligned face and its measures.

    Attributes:
        number: By falling score, among the faces with the score asked for.
        pixels: `(112, 112, 3)`.
        measures: By the names of `iom.photos.codes_file.MEASURES`; `sharpness` and `brightness` alone where the file
            was an aligned face. `left`, `top`, `right`, `bottom`: the upright box, in pixels of the upright photograph,
            around the square that became the aligned face; it may reach beyond the photograph. `size`: side of that
            square. `score`: of the detector. `yaw`, `pitch`, `roll`: see `iom.photos.quality.Pose`.
    """

    number: int
    pixels: Pixels
    measures: Mapping[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class PhotoResult:
    """The faces of a photograph, or why there are none.

    Attributes:
        name: Path within the folder.
        status: A key of `STATUSES`.
        reason: Why, where it is not `aligned`.
        notes: What had to be done to read it (see `read_photograph`), and `several_faces`, `small_faces_left_out`,
            `faces_left_out`.
        found: All faces with the score asked for.
        faces: The chosen ones.
        mark: Size and time of change of the file that was read, in bytes and ns.
        seconds: Of processor time in each of `STAGES`; exact where a process works on one photograph at a time.
    """

    name: str
    status: str
    reason: str = ""
    notes: tuple[str, ...] = ()
    found: tuple[Face, ...] = ()
    faces: tuple[AlignedFace, ...] = ()
    mark: tuple[int, int] = (0, 0)
    seconds: tuple[float, ...] = (0.0, 0.0, 0.0)

    def to_bytes(self) -> bytes:
        """A line of JSON, then the pixels of the faces."""
        line = dataclasses.asdict(dataclasses.replace(self, found=(), faces=()))
        line["found"] = face_rows(self.found)
        line["faces"] = [[face.number, face.measures] for face in self.faces]
        return b"".join([json.dumps(line).encode(), b"\n", *(face.pixels.tobytes() for face in self.faces)])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Of `to_bytes()`.

        Raises:
            WorkerError: Something else.
        """
        line, _, pixels = data.partition(b"\n")
        try:
            fields = json.loads(line)
            images = np.frombuffer(pixels, np.uint8).reshape(len(fields["faces"]), SIZE, SIZE, 3)
            faces = tuple(
                AlignedFace(number, image, measures)
                for (number, measures), image in zip(fields["faces"], images, strict=True)
            )
            for name in ("notes", "mark", "seconds"):
                fields[name] = tuple(fields[name])
            return cls(**(fields | {"found": faces_of(fields["found"]), "faces": faces}))
        except (ValueError, KeyError, TypeError) as error:
            raise WorkerError("the worker process sent a malformed answer") from error


class Job(NamedTuple):
    """A photograph by its path within the folder, and its landmarks where they are known."""

    name: str
    known: Sequence[Face] | None = None


class HashingModel(Protocol):
    """The part of `iom.models.face_hasher.FaceHasher` that hashing photographs needs."""

    code_length: int
    alphabet_size: int

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def embed(self, images: Pixels) -> NDArray[np.float32]: ...  # noqa: D102

    def hash(self, embeddings: NDArray[np.float32], keys: TransformKey) -> NDArray[Any]: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class HashSummary:
    """Counts of a run of `hash_photos`.

    Attributes:
        counts: Photographs and other files by status, `photographs` and `faces` in all.
        notes: Photographs by note.
        continued: Photographs that an earlier run had finished.
        seconds: Processor time of this run in `decode`, `detect`, `align`, `embed`, `hash` and `write`, which other
            programs do not change; and by the clock `start`, until the first worker is ready, and `total`.
    """

    counts: Mapping[str, int]
    notes: Mapping[str, int]
    continued: int
    seconds: Mapping[str, float]


def align_photos(
    photos: Path,
    output: Path,
    *,
    settings: PhotoSettings,
    format: str = "jpg",
    weights: Path | None = None,
    points: Points | None = None,
    workers: int = 1,
    seconds: float = SECONDS,
    progress: bool = False,
) -> dict[str, Any]:
    """Align every photograph at and below `photos`, keeping the folders.

    Beside the faces come `landmarks.csv` (all faces found), `report.csv` (photographs that need a look), `report.json`,
    and the journal `align.jsonl`. Photographs that changed, or whose faces are gone, are done again.

    Args:
        photos: Folder.
        output: Folder of the aligned faces, `.../<name>.jpg`; photographs of one folder that differ in their suffix
            alone keep it in the name, and with `faces: all` the number of the face is added.
        settings: Which faces.
        format: `jpg` (quality 95, full colour resolution) or `png`.
        weights: File of the detector's weights.
        points: Known landmarks by path within `photos`, for the detector `points`; only listed photographs are read.
        workers: Processes that find faces; 0 finds them in this one.
        seconds: For one photograph.
        progress: Show a progress bar.

    Returns:
        The contents of `report.json`.

    Raises:
        DataError: No photographs, a missing listed one, an output with other settings or within `photos`.
        MissingExtraError: The detector's package is not installed.
    """
    if format not in ("jpg", "png"):
        raise ConfigError(f"expected format jpg or png, received {format!r}")
    names, others = find_photographs(photos, output, points)
    stems = _stems(names)
    with _align_journal(output, settings, format) as journal:
        remove_temporary_files(output)
        entries = _entries_of(journal, output)
        left = [name for name in names if not _is_finished(entries.get(name), photos / name, output)]
        jobs = [Job(name, None if points is None else points[name]) for name in left]
        with _results(photos, jobs, settings, weights=weights, workers=workers, seconds=seconds) as results:
            for result in _bar(results, names, left, "aligning", progress):
                files = [""] * len(result.found)
                for face in result.faces:
                    number = f".{face.number}" if settings.faces == "all" else ""
                    files[face.number] = f"{stems[result.name]}{number}.{format}"
                    write_face(output / files[face.number], face.pixels)
                entry = {"photo": result.name, "mark": result.mark, "status": result.status, "reason": result.reason}
                entry |= {"notes": result.notes, "faces": face_rows(result.found), "files": files}
                journal.add(entry)
                entries[result.name] = entry
    report = {
        **_write_align_reports(output, {name: entries[name] for name in names}),
        "other_files": others,
        "done_before": len(names) - len(left),
        "settings": dataclasses.asdict(settings) | {"format": format},
    }
    write_json(output / "report.json", report)
    return report


def hash_photos(
    photos: Path,
    output: Path,
    *,
    hasher: HashingModel,
    key: TransformKey,
    settings: PhotoSettings,
    landmarks: bool = False,
    weights: Path | None = None,
    points: Points | None = None,
    workers: int = 2,
    seconds: float = SECONDS,
    progress: bool = False,
) -> HashSummary:
    """Hash every face of every photograph at and below `photos` under one key.

    Photographs that changed since an earlier run are done again. Finished ones are in `<output>.parts` until all are.

    Args:
        photos: Folder.
        output: Parquet file, see `iom.photos.codes_file`; beside it comes the report, see `report_path`: a line of JSON
            for each photograph or file without a code, or with a note, and the counts in the last.
        hasher: Embeds and hashes.
        key: Of all rows.
        settings: Which faces.
        landmarks: Write the five points of each face, too.
        weights: File of the detector's weights.
        points: Known landmarks by path within `photos`, for the detector `points`; a photograph that is not listed has
            no face.
        workers: Processes that find faces; 0 finds them in this one.
        seconds: For one photograph.
        progress: Show a progress bar.

    Raises:
        DataError: No folder, no photographs, an output that is finished, within `photos`, or begun with other settings,
            model or key.
        MissingExtraError: A package is not installed.
    """
    pa = pyarrow()
    started = time.perf_counter()
    check_places(photos, output)
    listing = list_images(photos)
    if not listing.images:
        raise DataError(f"{photos}: no photographs among {len(listing.unusable)} other files")
    header: dict[str, Any] = {
        "format": FORMAT,
        "encoding": encoding_id(hasher.code_length, hasher.alphabet_size),
        "model": hasher.fingerprint,
        "key": key_name(key),
        "settings": {**dataclasses.asdict(settings), "min_score": settings.score, "landmarks": landmarks},
    }
    with Parts(output, header) as parts:
        left = [name for name in listing.images if not parts.holds(name, mark_of(photos / name))]
        jobs = [Job(name, None if points is None else points.get(name, ())) for name in left]
        rows = _HashedRows(hasher, key)
        schema = schema_of(header["encoding"], landmarks=landmarks)

        def commit() -> None:
            table, outcomes = rows.take()
            with _timed(rows.seconds, "write"):
                parts.commit(pa.Table.from_pylist(table, schema=schema), outcomes)

        with _results(photos, jobs, settings, weights=weights, workers=workers, seconds=seconds) as results:
            rows.seconds["start"] = time.perf_counter() - started
            for result in _bar(results, listing.images, left, "hashing", progress):
                rows.add(result)
                if len(rows) == PART:
                    commit()
        if len(rows):
            commit()
        with _timed(rows.seconds, "write"):
            counts, notes = _write_hash_report(report_path(output), listing, parts.outcomes(listing.images))
            written = write_codes(output, header, parts.tables(listing.images))
            if written != counts["faces"]:
                raise DataError(
                    f"{output}: expected {counts['faces']} rows, wrote {written}; remove it and {output.name}.parts "
                    "and begin anew"
                )
            parts.remove()
    rows.seconds["total"] = time.perf_counter() - started
    return HashSummary(counts, notes, len(listing.images) - len(left), rows.seconds)


def find_faces(root: Path, job: Job, *, settings: PhotoSettings, detect: Detect | None = None) -> PhotoResult:
    """Read a photograph; find, choose, align and measure its faces. A bad photograph is a result, not an error.

    Args:
        root: Folder of the photographs.
        job: Which one.
        settings: Which faces.
        detect: Finds faces where the landmarks are not known.
    """
    result = PhotoResult(job.name, "aligned", mark=mark_of(root / job.name))
    clock = [time.process_time()]
    try:
        data = _read(root / job.name, settings)
        if settings.detector == ALIGNED:
            pixels = decode_image(data, "aligned face", size=SIZE)
            result = dataclasses.replace(result, faces=(AlignedFace(0, pixels, _qualities(pixels)),))
        else:
            image, notes = decode_photograph(data, "photograph", max_megapixels=settings.max_megapixels)
            del data
            clock.append(time.process_time())
            if job.known is None and detect is None:
                raise ConfigError(f"the detector {settings.detector} needs the landmarks of {job.name}")
            found = job.known if job.known is not None else detect(image) if detect else ()
            clock.append(time.process_time())
            found = tuple(face for face in found if face.score >= settings.score)
            result = dataclasses.replace(result, notes=notes, found=found)
            chosen, more = choose_faces(found, image.shape[:2], settings)
            faces = tuple(_aligned_face(image, number, found[number], size) for number, size in chosen)
            result = dataclasses.replace(result, notes=(*notes, *more), faces=faces)
    except FaceError as error:
        result = dataclasses.replace(result, status=error.status, reason=str(error))
    except MemoryError:
        result = dataclasses.replace(result, status="too_large", reason="photograph: decoding takes too much memory")
    spent = [later - earlier for earlier, later in itertools.pairwise([*clock, time.process_time()])]
    return dataclasses.replace(result, seconds=(*spent, 0.0, 0.0)[:3])


def choose_faces(
    faces: Sequence[Face], shape: tuple[int, ...], settings: PhotoSettings
) -> tuple[list[tuple[int, float]], tuple[str, ...]]:
    """The faces asked for, of those that a detector found in an image of this height and width.

    Returns:
        Index and size (see `PhotoSettings.min_size`) of each; and notes, as in `PhotoResult`.

    Raises:
        FaceError: None is left, or there are several where one was asked for; `status` says which.
    """
    if not faces:
        raise FaceError("photograph: expected a face, found none", status="no_face")
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
            f"photograph: expected a face of {settings.min_size:g} pixels or more, found one of {max(sizes):.0f}",
            status="too_small",
        )
    by_size = sorted(usable, key=lambda i: -sizes[i])
    alone = len(usable) == 1 or (settings.faces == "dominant" and sizes[by_size[1]] < BYSTANDER * sizes[by_size[0]])
    if settings.faces in ("one", "dominant") and not alone:
        raise FaceError(f"photograph: expected one face, found {len(usable)}", status="several_faces")
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


def photo_handler(config: str) -> Handler:
    """The handler of a worker: a request is a `Job` as JSON, an answer is `PhotoResult.to_bytes()`."""
    given = json.loads(config)
    root, settings = Path(given["root"]), PhotoSettings(**given["settings"])
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the settings have the limit
    use_one_core(settings.detector)
    detect = _detector(settings, Path(given["weights"]) if given["weights"] else None)

    def find(request: bytes) -> bytes:
        name, known = json.loads(request)
        job = Job(name, None if known is None else faces_of(known))
        return find_faces(root, job, settings=settings, detect=detect).to_bytes()

    return find


def find_photographs(photos: Path, output: Path, points: Points | None) -> tuple[list[str], dict[str, int]]:
    """Photographs by path within the folder, and how many files of each other kind there are."""
    listing = list_images(photos)
    root, target = photos.resolve(), output.resolve()
    if target == root or root in target.parents:
        raise DataError(f"{output}: expected an output folder outside of {photos}")
    names = list(listing.images)
    others = Counter(
        Path(name).suffix.lower() or "no suffix" if status == "wrong_type" else status.replace("_", " ")
        for name, status, _ in listing.unusable
    )
    if points is not None:
        if missing := sorted(set(points) - set(names)):
            raise DataError(
                f"{photos}: {len(missing)} of {len(points)} listed photographs are missing: {', '.join(missing[:3])}"
            )
        names = [name for name in names if name in points]
    if not names:
        raise DataError(f"{photos}: no photographs ({', '.join(IMAGE_SUFFIXES)})")
    return names, dict(others)


def check_places(photos: Path, output: Path) -> None:
    """Check that there is a folder of photographs and that a file of codes can be written.

    Raises:
        ConfigError, DataError: As `hash_photos`.
    """
    check_folder(photos)
    if output.suffix != ".parquet":
        raise ConfigError(f"{output}: expected a name that ends in .parquet")
    if output.is_dir():
        raise DataError(f"{output}: expected a file to write, received a folder")
    if photos.resolve() in output.resolve().parents:
        raise DataError(f"{output}: expected an output outside of {photos}")


def report_path(output: Path) -> Path:
    """The report beside a file of codes."""
    return output.with_name(f"{output.stem}.report.jsonl")


def key_name(key: TransformKey) -> str:
    """Public name of a key, by which two files are known to be under the same one."""
    return hmac.digest(key.secret, b"iom/code-file/key/v1", "sha256").hex()[:32]


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
    """Of `face_rows()`."""
    return tuple(Face(np.array(row[1:], np.float64).reshape(5, 2), float(row[0])) for row in rows)


def _read(path: Path, settings: PhotoSettings) -> bytes:
    try:
        return read_bytes(path, int(settings.max_megabytes * 1e6))
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise TooLargeError(f"photograph: {error.strerror}") from error
        status = "wrong_type" if error.errno == errno.EINVAL else "unreadable"
        raise FaceError(str(error.strerror or error), status=status) from error


def _size_within(shape: tuple[int, ...], face: Face) -> float:
    """Size of a face of which at least one landmark lies within the photograph."""
    size = face_size(face.points)
    within = (face.points > -1) & (face.points < [shape[1], shape[0]])
    if not within.all(axis=1).any():
        raise DataError("landmarks: all five lie outside of the photograph")
    return size


def _aligned_face(image: Pixels, number: int, face: Face, size: float) -> AlignedFace:
    pixels = align(image, face.points)
    matrix = similarity(face.points)
    corners = np.array([(x, y) for x in (-0.5, SIZE - 0.5) for y in (-0.5, SIZE - 0.5)])
    back = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    box = dict(zip(("left", "top", "right", "bottom"), [*back.min(axis=0), *back.max(axis=0)], strict=True))
    pose = dataclasses.asdict(pose_of(face.points))
    measures = {name: float(value) for name, value in box.items()} | {"score": face.score, "size": size, **pose}
    return AlignedFace(number, pixels, measures | _qualities(pixels))


def _qualities(pixels: Pixels) -> dict[str, float]:
    return {"sharpness": sharpness_of(pixels), "brightness": brightness_of(pixels)}


def _detector(settings: PhotoSettings, weights: Path | None) -> Detect | None:
    if settings.detector in (POINTS, ALIGNED):
        return None
    return build_detector(settings.detector, weights=weights, max_side=settings.max_side)


@contextlib.contextmanager
def _results(
    root: Path, jobs: Sequence[Job], settings: PhotoSettings, *, weights: Path | None, workers: int, seconds: float
) -> Iterator[Iterator[PhotoResult]]:
    """Results in the order of `jobs`; a photograph whose process hangs or dies costs itself only.

    Raises:
        IomError: The detector cannot be built.
    """
    if not jobs:
        yield iter(())
        return
    count = min(max(workers, 1), len(jobs))
    with contextlib.ExitStack() as stack:
        threads = ThreadPoolExecutor(count, thread_name_prefix="iom-photos")
        stack.callback(threads.shutdown, cancel_futures=True)
        if workers:
            config = {"root": str(root), "settings": dataclasses.asdict(settings), "weights": str(weights or "")}
            pool = WorkerPool(
                "iom.photos.pipeline:photo_handler", json.dumps(config), workers=count, max_answer=1 << 30
            )
            stack.callback(pool.close)
            pool.check()

            def find(job: Job) -> PhotoResult:
                return _asked(pool, root, job, seconds)
        else:
            detect = _detector(settings, weights)

            def find(job: Job) -> PhotoResult:
                return find_faces(root, job, settings=settings, detect=detect)

        yield _in_order(find, jobs, threads)


def _in_order(
    find: Callable[[Job], PhotoResult], jobs: Sequence[Job], threads: ThreadPoolExecutor
) -> Iterator[PhotoResult]:
    waiting: deque[Future[PhotoResult]] = deque()
    for job in jobs:
        waiting.append(threads.submit(find, job))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _asked(pool: WorkerPool, root: Path, job: Job, seconds: float) -> PhotoResult:
    request = json.dumps([job.name, None if job.known is None else face_rows(job.known)]).encode()
    try:
        return pool.ask(request, PhotoResult.from_bytes, seconds=seconds)
    except WorkerError as error:
        reason = f"photograph: {error}"
        return PhotoResult(job.name, "gave_up", reason, mark=mark_of(root / job.name))


def _bar(
    results: Iterator[PhotoResult], names: Sequence[str], left: Sequence[str], label: str, progress: bool
) -> Iterator[PhotoResult]:
    done = len(names) - len(left)
    yield from tqdm(results, total=len(names), initial=done, unit="photo", desc=label, disable=not progress)


def _stems(names: Sequence[str]) -> dict[str, str]:
    """Name without suffix, or with it where two would become one."""
    short = {name: Path(name).with_suffix("").as_posix() for name in names}
    count = Counter(stem.casefold() for stem in short.values())
    return {name: stem if count[stem.casefold()] == 1 else name for name, stem in short.items()}


def _align_journal(output: Path, settings: PhotoSettings, format: str) -> Journal:
    path = output / JOURNAL
    if not path.is_file() and output.is_dir() and any(output.iterdir()):
        raise DataError(f"{output}: expected a new or empty folder, or one of an interrupted run, received other files")
    return Journal(path, dataclasses.asdict(settings) | {"format": format})


def _entries_of(journal: Journal, output: Path) -> dict[str, dict[str, Any]]:
    """Finished photographs by name, each entry checked."""
    entries = {}
    for _, entry in journal.entries():
        try:
            paths_inside(output, filter(None, entry["files"]), source=journal.path)
            entries[entry["photo"]] = entry | {
                "status": str(entry["status"]),
                "reason": str(entry["reason"]),
                "notes": [str(note) for note in entry["notes"]],
                "mark": [int(number) for number in entry["mark"]],
                "faces": face_rows(faces_of(entry["faces"])),
            }
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise journal.damaged() from error
    return entries


def _is_finished(entry: Mapping[str, Any] | None, photo: Path, output: Path) -> bool:
    """Whether a photograph has not changed since its entry was written, and its faces are there."""
    if entry is None or entry["status"] in TRIED_AGAIN or tuple(entry["mark"]) != mark_of(photo):
        return False
    return all((output / file).is_file() for file in entry["files"] if file)


def _write_align_reports(output: Path, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Write `landmarks.csv` and `report.csv`; return the counts for `report.json`."""
    write_landmarks(
        output / "landmarks.csv",
        (
            (name, number, face, file)
            for name, entry in entries.items()
            for number, (face, file) in enumerate(zip(faces_of(entry["faces"]), entry["files"], strict=True))
        ),
    )
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("photo", "status", "faces", "notes", "reason"))
    for name, entry in entries.items():
        if entry["status"] != "aligned" or entry["notes"] or len(entry["faces"]) > 1:
            writer.writerow((name, entry["status"], len(entry["faces"]), " ".join(entry["notes"]), entry["reason"]))
    write_text(output / "report.csv", stream.getvalue())
    status = Counter(entry["status"] for entry in entries.values())
    return {
        "photographs": len(entries),
        "faces_written": sum(sum(map(bool, entry["files"])) for entry in entries.values()),
        **{
            name: status[name]
            for name in STATUSES
            if name not in ("hashed", "linked_folder", "not_embedded", "several_faces")
        },
        "several_faces": sum(len(entry["faces"]) > 1 for entry in entries.values()),
        "notes": dict(Counter(note for entry in entries.values() for note in entry["notes"])),
    }


class _HashedRows:
    """Rows of the part under way: faces wait for a batch, photographs for their faces."""

    def __init__(self, hasher: HashingModel, key: TransformKey) -> None:
        self._hasher, self._key = hasher, key
        self._outcomes: dict[str, Outcome] = {}
        self._rows: list[dict[str, Any]] = []
        self._waiting: list[tuple[PhotoResult, AlignedFace]] = []
        self.seconds = dict.fromkeys((*STAGES, "embed", "hash", "write"), 0.0)

    def __len__(self) -> int:
        """Number of photographs so far."""
        return len(self._outcomes)

    def add(self, result: PhotoResult) -> None:
        """Take up a photograph; its faces are embedded when there are enough."""
        for stage, spent in zip(STAGES, result.seconds, strict=True):
            self.seconds[stage] += spent
        self._outcomes[result.name] = new_outcome(
            result.name,
            status="hashed" if result.status == "aligned" else result.status,
            reason=result.reason,
            notes=list(result.notes),
            faces=len(result.faces),
            mark=list(result.mark),
        )
        self._waiting += [(result, face) for face in result.faces]
        while len(self._waiting) >= BATCH:
            self._hash(self._waiting[:BATCH])
            self._waiting = self._waiting[BATCH:]

    def take(self) -> tuple[list[dict[str, Any]], list[Outcome]]:
        """Rows and outcomes of the finished part."""
        if self._waiting:
            self._hash(self._waiting)
        taken = self._rows, list(self._outcomes.values())
        self._outcomes, self._rows, self._waiting = {}, [], []
        return taken

    def _hash(self, batch: Sequence[tuple[PhotoResult, AlignedFace]]) -> None:
        with _timed(self.seconds, "embed"):
            embeddings = embed_all(self._hasher, [face.pixels for _, face in batch])
        with _timed(self.seconds, "hash"):
            codes = iter(self._codes([row for row in embeddings if row is not None]))
        for (result, face), row in zip(batch, embeddings, strict=True):
            outcome = self._outcomes[result.name]
            if row is not None:
                self._rows.append(_row(outcome, result, face, next(codes)))
                continue
            outcome["faces"] -= 1
            outcome["notes"].append("face_not_embedded")
            if not outcome["faces"]:
                outcome |= {"status": "not_embedded", "reason": STATUSES["not_embedded"]}

    def _codes(self, rows: Sequence[NDArray[np.float32]]) -> list[bytes]:
        if not rows:
            return []
        codes = self._hasher.hash(np.stack(rows), self._key)
        planes = pack(codes, self._hasher.alphabet_size).planes
        return [np.ascontiguousarray(each, "<u8").tobytes() for each in planes]


def _row(outcome: Outcome, result: PhotoResult, face: AlignedFace, code: bytes) -> dict[str, Any]:
    raw = outcome.get("photo_bytes")
    row = {"photo": outcome["photo"], "photo_bytes": None if raw is None else bytes.fromhex(raw)}
    row |= {"face": face.number, **face.measures, "code": code}
    if result.found:  # the schema takes the landmarks or leaves them
        row["landmarks"] = result.found[face.number].points.ravel().tolist()
    return row


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    begun = time.process_time()
    yield
    seconds[stage] += time.process_time() - begun


def _write_hash_report(
    path: Path, listing: Listing, outcomes: Iterable[Outcome]
) -> tuple[dict[str, int], dict[str, int]]:
    """Write the lines of what needs a look, and the counts; return counts and notes."""
    status = Counter(each.status for each in listing.unusable)
    noted: Counter[str] = Counter()
    faces = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for outcome in outcomes:
            status[outcome["status"]] += 1
            noted.update(outcome["notes"])
            faces += outcome["faces"]
            if outcome["status"] != "hashed" or outcome["notes"]:
                del outcome["mark"]
                stream.write(json.dumps(outcome) + "\n")
        for name, why, reason in listing.unusable:
            stream.write(json.dumps(new_outcome(name, status=why, reason=reason, notes=[], faces=0)) + "\n")
        counts = {
            "photographs": len(listing.images),
            "faces": faces,
            **{name: status[name] for name in STATUSES if status[name]},
            "hidden_files": listing.hidden,
        }
        notes = dict(sorted(noted.items()))
        stream.write(json.dumps({"counts": counts, "notes": notes}) + "\n")
    return counts, notes


def embed_all(hasher: HashingModel, faces: Sequence[Pixels]) -> list[NDArray[np.float32] | None]:
    """Embedding of each face, `None` where the network has none, as perhaps of a black square.

    Raises:
        WeightsError: It has none for any of several faces: the weights are at fault.
    """
    with contextlib.suppress(WeightsError):
        return list(hasher.embed(np.stack(faces)))
    found: list[NDArray[np.float32] | None] = []
    problem: WeightsError | None = None
    for face in faces:
        try:
            found.append(hasher.embed(face[None])[0])
        except WeightsError as error:
            found.append(None)
            problem = error
    if problem is not None and len(faces) > 1 and all(row is None for row in found):
        raise problem
    return found
