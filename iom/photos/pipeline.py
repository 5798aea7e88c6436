"""Photograph pipeline: list, decode, detect, align and measure; then write the faces, or embed and hash them.

`align_photos` and `hash_photos` are one run that ends at different stages: same settings, statuses and workers, results
in the order of the names, and a journal from which the same run started again continues.
"""

import base64
import contextlib
import dataclasses
import hmac
import json
import os
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from iom._files import (
    IMAGE_SUFFIXES,
    Journal,
    Listing,
    atomic_path,
    check_folder,
    csv_text,
    list_images,
    name_of,
    remove_temporary_files,
    text_of,
    write_json,
    write_text,
)
from iom._progress import tqdm
from iom._untrusted import paths_inside
from iom._workers import Handler, WorkerPool
from iom.codes.packing import encoding_id, pack
from iom.errors import ConfigError, DataError, WeightsError, WorkerError
from iom.keys import TransformKey
from iom.photos.align import Face, write_face, write_landmarks
from iom.photos.codes_file import FORMAT, ROW_GROUP, pyarrow, schema_of, write_codes
from iom.photos.images import Pixels
from iom.photos.photograph import (
    STAGES,
    STATUSES,
    PhotoResult,
    PhotoSettings,
    detector_of,
    face_rows,
    faces_of,
    find_faces,
    mark_of,
)

SECONDS = 120.0
"""Time limit of one photograph."""
AHEAD = 64
"""Photographs that may be finished before their turn comes; only their aligned faces are kept."""
BATCH = 16
"""Faces that are hashed at a time; a killed run of `hash_photos` loses at most so many and those of one photograph."""
TRIED_AGAIN = ("unreadable", "gave_up")
"""Statuses of temporary failures: a run that is continued tries the photograph again."""
_NOT_OF_ALIGN = ("hashed", "linked_folder", "not_embedded", "too_blurred")
Points = Mapping[str, Sequence[Face]]


class HashingModel(Protocol):
    """The part of `iom.models.face_hasher.FaceHasher` that hashing photographs needs."""

    code_length: int
    alphabet_size: int

    @property
    def fingerprint(self) -> str: ...

    def embed(self, images: Pixels) -> NDArray[np.float32]: ...

    def hash(self, embeddings: NDArray[np.float32], keys: TransformKey) -> NDArray[Any]: ...


@dataclasses.dataclass(frozen=True)
class PhotoRun:
    """A folder of photographs, and how their faces are found.

    `points` are known landmarks by path within `photos`, for the detector `points`; `workers` processes find faces (0:
    this one); `seconds` bounds one photograph.
    """

    photos: Path
    settings: PhotoSettings
    weights: Path | None = None
    points: Points | None = None
    workers: int = 2
    seconds: float = SECONDS
    progress: bool = False

    @contextlib.contextmanager
    def results(self, names: Sequence[str], left: Sequence[str], label: str) -> Iterator[Iterator[PhotoResult]]:
        """Results of the photographs `left` of `names`, in order; one that hangs or kills its worker fails alone."""
        done = len(names) - len(left)
        with contextlib.ExitStack() as stack:
            results: Iterator[PhotoResult] = iter(())
            if left:
                count = min(max(self.workers, 1), len(left))
                threads = ThreadPoolExecutor(count, thread_name_prefix="iom-photos")
                stack.callback(threads.shutdown, cancel_futures=True)
                results = _in_order(self._finder(count, stack), left, threads)
            yield iter(
                tqdm(results, total=len(names), initial=done, unit="photo", desc=label, disable=not self.progress)
            )

    def _known(self, name: str) -> Sequence[Face] | None:
        return None if self.points is None else self.points.get(name, ())

    def _finder(self, count: int, stack: contextlib.ExitStack) -> Callable[[str], PhotoResult]:
        """What finds the faces of one photograph: this process, or `count` workers."""
        if not self.workers:
            detect = detector_of(self.settings, self.weights)
            return lambda name: find_faces(self.photos, name, self._known(name), settings=self.settings, detect=detect)
        config = [str(self.photos), self.settings.model_dump(), str(self.weights or "")]
        pool = WorkerPool("iom.photos.pipeline:photo_handler", json.dumps(config), workers=count, max_answer=1 << 30)
        stack.callback(pool.close)
        pool.check()

        def find(name: str) -> PhotoResult:
            known = self._known(name)
            request = json.dumps([name, None if known is None else face_rows(known)]).encode()
            try:
                return pool.ask(request, PhotoResult.from_bytes, seconds=self.seconds)
            except WorkerError as error:
                return PhotoResult(name, "gave_up", f"photograph: {error}", mark=mark_of(self.photos / name))

        return find


def photo_handler(config: str) -> Handler:
    """The handler of a worker: a request is a name and known landmarks as JSON, an answer `PhotoResult.to_bytes()`."""
    root, fields, weights = json.loads(config)
    settings = PhotoSettings(**fields)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the settings have the limit
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"  # each worker has one core
    detect = detector_of(settings, Path(weights) if weights else None)

    def find(request: bytes) -> bytes:
        name, known = json.loads(request)
        faces = None if known is None else faces_of(known)
        return find_faces(Path(root), name, faces, settings=settings, detect=detect).to_bytes()

    return find


def _in_order(
    find: Callable[[str], PhotoResult], names: Sequence[str], threads: ThreadPoolExecutor
) -> Iterator[PhotoResult]:
    waiting: deque[Future[PhotoResult]] = deque()
    for name in names:
        waiting.append(threads.submit(find, name))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class PhotoJournal(Journal):
    """Finished photographs of a run; of one that changed, the last entry counts. See `iom._files.Journal`."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(path, settings)
        self._position_of: dict[str, int] = {}  # entries stay on disk: there may be millions
        self._mark_of: dict[str, tuple[int, ...]] = {}
        try:
            for position, entry in self.entries():
                self._note(position, entry)
        except (DataError, KeyError, TypeError, ValueError) as error:
            self.close()
            raise self.damaged() from error

    def holds(self, name: str, mark: Sequence[int]) -> bool:
        """Whether the photograph is finished and has not changed since."""
        return self._mark_of.get(name) == tuple(mark)

    def finish(self, entry: Mapping[str, Any], *, durable: bool = False) -> None:
        """Note a finished photograph, an entry of `entry_of`."""
        self._note(self.add(entry, durable=durable), entry)

    def of(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Entries of finished photographs, in the order of `names`."""
        return (self.read(self._position_of[name]) for name in names)

    def _note(self, position: int, entry: Mapping[str, Any]) -> None:
        raw = entry.get("photo_bytes")
        name = name_of(entry["photo"], None if raw is None else bytes.fromhex(raw))
        self._mark_of[name] = () if entry["status"] in TRIED_AGAIN else tuple(entry["mark"])
        self._position_of[name] = position


def entry_of(name: str, **facts: Any) -> dict[str, Any]:
    """An entry as JSON takes it; a path that is not UTF-8 stands beside its text, as hex."""
    text, raw = text_of(name)
    return {"photo": text, **({} if raw is None else {"photo_bytes": raw.hex()}), **facts}


def align_photos(run: PhotoRun, output: Path, *, format: str = "jpg") -> dict[str, Any]:
    """Align every photograph of a run into `output`, keeping the folders; returns the contents of `report.json`.

    Beside the faces `.../<name>.jpg` come `landmarks.csv` (all faces found), `report.csv` (photographs that need a
    look), `report.json`, and the journal `align.jsonl`. Photographs that changed, or whose faces are gone, are done
    again. The suffix stays in the name where photographs of one folder differ in it alone; with `faces: all` the number
    of the face is added. `format` is `jpg` (quality 95, full colour resolution) or `png`.
    """
    if format not in ("jpg", "png"):
        raise ConfigError(f"expected format jpg or png, received {format!r}")
    names, others = find_photographs(run.photos, output, run.points)
    stems = _stems(names)
    settings = run.settings.model_dump() | {"format": format}
    path = output / "align.jsonl"
    if not path.is_file() and output.is_dir() and any(output.iterdir()):
        raise DataError(f"{output}: expected a new or empty folder, or one of an interrupted run, received other files")
    with PhotoJournal(path, settings) as journal:
        _check_entries(journal, output)
        remove_temporary_files(output)
        left = [name for name in names if not _is_aligned(journal, name, run.photos, output)]
        with run.results(names, left, "aligning") as results:
            for result in results:
                files = [""] * len(result.found)
                for face in result.faces:
                    number = f".{face.number}" if run.settings.faces == "all" else ""
                    files[face.number] = f"{stems[result.name]}{number}.{format}"
                    write_face(output / files[face.number], face.crop)
                journal.finish(entry_of(result.name, **result.facts(), faces=face_rows(result.found), files=files))
        report = _write_align_reports(output, list(journal.of(names)))
    report |= {"other_files": others, "done_before": len(names) - len(left), "settings": settings}
    write_json(output / "report.json", report)
    return report


def _is_aligned(journal: PhotoJournal, name: str, photos: Path, output: Path) -> bool:
    """Whether a photograph has not changed since it was finished, and its faces are there."""
    if not journal.holds(name, mark_of(photos / name)):
        return False
    (entry,) = journal.of([name])
    return all((output / file).is_file() for file in entry["files"] if file)


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


def _stems(names: Sequence[str]) -> dict[str, str]:
    """Name without suffix, or with it where two would become one."""
    short = {name: Path(name).with_suffix("").as_posix() for name in names}
    count = Counter(stem.casefold() for stem in short.values())
    return {name: stem if count[stem.casefold()] == 1 else name for name, stem in short.items()}


def _check_entries(journal: PhotoJournal, output: Path) -> None:
    """Refuse a journal of aligned faces that is damaged or names files outside of its folder."""
    try:
        for _, entry in journal.entries():
            paths_inside(output, filter(None, entry["files"]), source=journal.path)
            faces_of(entry["faces"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise journal.damaged() from error


def _write_align_reports(output: Path, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write `landmarks.csv` and `report.csv`; return the counts for `report.json`."""
    write_landmarks(
        output / "landmarks.csv",
        (
            (entry["photo"], number, face, file)
            for entry in entries
            for number, (face, file) in enumerate(zip(faces_of(entry["faces"]), entry["files"], strict=True))
        ),
    )
    rows = (
        entry | {"faces": len(entry["faces"]), "notes": " ".join(entry["notes"])}
        for entry in entries
        if entry["status"] != "aligned" or entry["notes"] or len(entry["faces"]) > 1
    )
    write_text(output / "report.csv", csv_text(("photo", "status", "faces", "notes", "reason"), rows))
    status = Counter(entry["status"] for entry in entries)
    return {
        "photographs": len(entries),
        "faces_written": sum(sum(map(bool, entry["files"])) for entry in entries),
        **{name: status[name] for name in STATUSES if name not in _NOT_OF_ALIGN},
        "several_faces": sum(len(entry["faces"]) > 1 for entry in entries),
        "notes": dict(Counter(note for entry in entries for note in entry["notes"])),
    }


@dataclasses.dataclass(frozen=True)
class HashSummary:
    """Counts of a run of `hash_photos`: photographs by status and by note, `photographs` and `faces` in all.

    `continued` are those that an earlier run had finished. `seconds` are processor time in `decode`, `detect`, `align`,
    `embed`, `hash` and `write`, and by the clock `start` (until the first worker is ready) and `total`.
    """

    counts: Mapping[str, int]
    notes: Mapping[str, int]
    continued: int
    seconds: Mapping[str, float]


def hash_photos(
    run: PhotoRun, output: Path, *, hasher: HashingModel, key: TransformKey, landmarks: bool = False
) -> HashSummary:
    """Hash every face of every photograph of a run under one key, into the Parquet file `output`.

    The format is that of `iom.photos.codes_file`; `landmarks` adds five points of each face. Finished photographs are
    in `<output>.journal` until all are; those that changed since then are done again. The report (`report_path`) has a
    line of JSON for each photograph or file without a code or with a note, and the counts in the last.
    """
    pyarrow()
    started = time.perf_counter()
    check_places(run.photos, output)
    names = list_images(run.photos)
    if not names.images:
        raise DataError(f"{run.photos}: no photographs among {len(names.unusable)} other files")
    header: dict[str, Any] = {
        "format": FORMAT,
        "encoding": encoding_id(hasher.code_length, hasher.alphabet_size),
        "model": hasher.fingerprint,
        "key": hmac.digest(key.secret, b"iom/code-file/key/v1", "sha256").hex()[:32],  # its public name
        "settings": {**run.settings.model_dump(), "min_score": run.settings.score, "landmarks": landmarks},
    }
    with _hash_journal(output, header) as journal:
        left = [name for name in names.images if not journal.holds(name, mark_of(run.photos / name))]
        hashing = _Hashing(hasher, key, journal)
        with run.results(names.images, left, "hashing") as results:
            hashing.seconds["start"] = time.perf_counter() - started
            for result in results:
                hashing.add(result)
        hashing.finish()
        with _timed(hashing.seconds, "write"):
            counts, notes = _write_hash_report(report_path(output), names, journal)
            write_codes(output, header, _tables(journal, names.images, header))
            journal.path.unlink()
    hashing.seconds["total"] = time.perf_counter() - started
    return HashSummary(counts, notes, len(names.images) - len(left), hashing.seconds)


def check_places(photos: Path, output: Path) -> None:
    """Check that there is a folder of photographs and that a file of codes can be written."""
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


def _hash_journal(output: Path, header: Mapping[str, Any]) -> PhotoJournal:
    path = output.with_name(f"{output.name}.journal")
    if (parts := output.with_name(f"{output.name}.parts")).is_dir():
        raise DataError(
            f"{parts}: begun by an older version of iom; finish it with that version, or remove it to begin anew"
        )
    if output.exists() and not path.exists():
        raise DataError(f"{output} exists already and is finished; remove it, or name another output")
    return PhotoJournal(path, {**header, **header["settings"], "settings": None})


class _Hashing:
    """Photographs with faces that wait until these fill a batch, and the processor time of each step."""

    def __init__(self, hasher: HashingModel, key: TransformKey, journal: PhotoJournal) -> None:
        self._hasher, self._key, self._journal = hasher, key, journal
        self._waiting: list[PhotoResult] = []
        self.seconds = dict.fromkeys((*STAGES, "embed", "hash", "write"), 0.0)

    def add(self, result: PhotoResult) -> None:
        """Take up a photograph; its faces are hashed when there are enough for a batch."""
        for stage, spent in zip(STAGES, result.seconds, strict=True):
            self.seconds[stage] += spent
        if not result.faces:
            with _timed(self.seconds, "write"):
                self._note(result, [])
            return
        self._waiting.append(result)
        if sum(len(each.faces) for each in self._waiting) >= BATCH:
            self.finish()

    def finish(self) -> None:
        """Hash the faces of all that wait, and note them as finished."""
        if not self._waiting:
            return
        faces = [face.crop for result in self._waiting for face in result.faces]
        with _timed(self.seconds, "embed"):
            embeddings = embed_all(self._hasher, faces)
        with _timed(self.seconds, "hash"):
            known = [row for row in embeddings if row is not None]
            codes = self._hasher.hash(np.stack(known), self._key) if known else np.zeros((0, 1), np.uint8)
            planes = pack(codes, self._hasher.alphabet_size).planes.astype("<u8")
            texts = iter([base64.b64encode(each.tobytes()).decode() for each in planes])
        found = iter(embeddings)
        with _timed(self.seconds, "write"):
            for result in self._waiting:
                rows = []
                for face in result.faces:
                    if next(found) is not None:
                        points = result.found[face.number].points.ravel().tolist() if result.found else None
                        rows.append({"face": face.number, **face.measures, "landmarks": points, "code": next(texts)})
                self._note(result, rows)
        self._waiting = []

    def _note(self, result: PhotoResult, rows: list[dict[str, Any]]) -> None:
        facts = result.facts()
        if rows:
            facts["status"] = "hashed"
        elif result.faces:
            facts |= {"status": "not_embedded", "reason": STATUSES["not_embedded"]}
        facts["notes"] += ["face_not_embedded"] * (len(result.faces) - len(rows))
        self._journal.finish(entry_of(result.name, **facts, faces=len(rows), rows=rows), durable=True)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    begun = time.process_time()
    yield
    seconds[stage] += time.process_time() - begun


def _tables(journal: PhotoJournal, names: Sequence[str], header: Mapping[str, Any]) -> Iterator[Any]:
    """Rows of finished photographs, a row group at a time in memory."""
    schema = schema_of(header)
    table = pyarrow().Table.from_pylist
    rows: list[dict[str, Any]] = []
    try:
        for entry in journal.of(names):
            raw = entry.get("photo_bytes")
            photo = {"photo": entry["photo"], "photo_bytes": None if raw is None else bytes.fromhex(raw)}
            rows += [photo | row | {"code": base64.b64decode(row["code"])} for row in entry["rows"]]
            if len(rows) >= ROW_GROUP:
                yield table(rows, schema=schema)
                rows = []
        if rows:
            yield table(rows, schema=schema)
    except (KeyError, TypeError, ValueError) as error:
        raise journal.damaged() from error


def _write_hash_report(path: Path, listing: Listing, journal: PhotoJournal) -> tuple[dict[str, int], dict[str, int]]:
    """Write a line for each photograph that needs a look, and the counts; return counts and notes."""
    status = Counter(each.status for each in listing.unusable)
    noted: Counter[str] = Counter()
    faces = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for entry in journal.of(listing.images):
            status[entry["status"]] += 1
            noted.update(entry["notes"])
            faces += entry["faces"]
            if entry["status"] != "hashed" or entry["notes"]:
                del entry["mark"], entry["rows"]
                stream.write(json.dumps(entry) + "\n")
        for name, why, reason in listing.unusable:
            stream.write(json.dumps(entry_of(name, status=why, reason=reason, notes=[], faces=0)) + "\n")
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
    """Embedding of each face, `None` where there is none (a black square); `WeightsError` where no face has one."""
    try:
        return list(hasher.embed(np.stack(faces)))
    except WeightsError:
        if len(faces) == 1:
            return [None]
        found = [row for face in faces for row in embed_all(hasher, [face])]
        if all(row is None for row in found):
            raise
        return found
