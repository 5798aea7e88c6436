"""A folder of photographs becomes a file of codes: found in parallel, continued when stopped."""

import contextlib
import dataclasses
import hmac
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from iom._files import Listing, atomic_path, check_folder, list_images, text_of
from iom.codes.packing import pack
from iom.errors import ConfigError, DataError, WeightsError
from iom.gallery.models import encoding_id
from iom.keys import TransformKey
from iom.models.face_hasher import FaceHasher
from iom.photos.code_file import FORMAT, pyarrow, schema_of, write_codes
from iom.photos.detectors import Face
from iom.photos.face_finders import SECONDS, FaceFinders
from iom.photos.face_finding import STAGES, STATUSES, FindSettings, Found, FoundFace, Job, mark_of
from iom.photos.parts import Outcome, Parts, outcome_of

PART = 128
"""Photographs of one part: what a killed run loses."""
BATCH = 16
"""Faces embedded at a time."""
HASHED = "hashed"


@dataclasses.dataclass(frozen=True)
class Done:
    """What a run did.

    Attributes:
        counts: Photographs and other files by status, `photographs` and `faces` in all.
        notes: Photographs by note.
        continued: Photographs that an earlier run had finished.
        seconds: Processor time of this run in `decode`, `detect`, `align`, `embed`, `hash` and
            `write`, which other programs do not change; and by the clock `start`, until the first
            worker is ready, and `total`.
    """

    counts: Mapping[str, int]
    notes: Mapping[str, int]
    continued: int
    seconds: Mapping[str, float]


def hash_photos(
    photos: Path,
    output: Path,
    *,
    hasher: FaceHasher,
    key: TransformKey,
    settings: FindSettings,
    landmarks: bool = False,
    weights: Path | None = None,
    points: Mapping[str, Sequence[Face]] | None = None,
    workers: int = 2,
    seconds: float = SECONDS,
    progress: bool = False,
) -> Done:
    """Hash every face of every photograph at and below `photos` under one key.

    Started again with the same arguments it goes on where it was stopped; photographs that changed
    since are done again. What is finished lies in `<output>.parts` until everything is.

    Args:
        photos: Folder.
        output: Parquet file, see `iom.photos.code_file`; beside it comes the report, see
            `report_path`: a line of JSON for each photograph or file without a code, or with a
            note, and the counts in the last.
        hasher: Makes codes.
        key: Of all rows.
        settings: How faces are found.
        landmarks: Write the five points of each face, too.
        weights: File of the detector's weights.
        points: Known landmarks by path within `photos`, for the detector `points`; a photograph
            that is not listed has no face.
        workers: Processes that find faces; 0 finds them in this one.
        seconds: For one photograph.
        progress: Show a progress bar.

    Raises:
        DataError: No folder, no photographs, an output that is finished, within `photos`, or begun
            with other settings, model or key.
        MissingExtraError: A package is not installed.
    """
    pyarrow()
    started = time.perf_counter()
    check_places(photos, output)
    listing = list_images(photos)
    if not listing.images:
        raise DataError(f"{photos}: no photographs among {len(listing.unusable)} other files")
    header = _header(hasher, key, settings, landmarks)
    with Parts.open(output, header) as parts:
        left = [name for name in listing.images if not parts.holds(name, mark_of(photos / name))]
        jobs = (Job(name, None if points is None else points.get(name, ())) for name in left)
        maker = _Rows(hasher, key, header, landmarks)
        results: Iterable[tuple[Job, Found]] = ()
        if left:
            finders = FaceFinders(photos, settings, weights=weights, workers=min(workers, len(left)), seconds=seconds)
            results = finders.found(jobs)
        maker.seconds["start"] = time.perf_counter() - started
        with tqdm(
            total=len(listing.images), initial=len(listing.images) - len(left), unit="photo",
            desc="hashing", disable=not progress,
        ) as bar:  # fmt: skip
            for job, found in results:
                maker.add(job.name, found)
                bar.update()
                if maker.waiting == PART:
                    maker.commit(parts)
        if maker.waiting:
            maker.commit(parts)
        begun = time.process_time()
        outcomes = parts.outcomes(listing.images)
        counts, notes = _write_report(report_path(output), listing, outcomes)
        rows = write_codes(output, header, parts.tables(listing.images))
        if rows != counts["faces"]:
            output.unlink()
            raise DataError(
                f"{output}: the parts hold {rows} faces, their lists {counts['faces']}; remove "
                f"{output.name}.parts and begin anew"
            )
        parts.remove()
        maker.seconds["write"] += time.process_time() - begun
    maker.seconds["total"] = time.perf_counter() - started
    return Done(counts, notes, len(listing.images) - len(left), maker.seconds)


def check_places(photos: Path, output: Path) -> None:
    """See that there are photographs to read and that a file of codes can be written.

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


class _Rows:
    """Rows of the part under way: faces wait for a batch, photographs for their faces."""

    def __init__(self, hasher: FaceHasher, key: TransformKey, header: Mapping[str, Any], landmarks: bool) -> None:
        self._hasher, self._key = hasher, key
        self._schema = schema_of(header["encoding"], landmarks=landmarks)
        self._outcomes: dict[str, Outcome] = {}
        self._rows: list[dict[str, Any]] = []
        self._faces: list[tuple[str, FoundFace]] = []
        self.seconds = dict.fromkeys((*STAGES, "embed", "hash", "write"), 0.0)

    @property
    def waiting(self) -> int:
        """Photographs of the part so far."""
        return len(self._outcomes)

    def add(self, name: str, found: Found) -> None:
        """Take up a photograph; its faces are embedded when there are enough."""
        for stage, spent in zip(STAGES, found.seconds, strict=True):
            self.seconds[stage] += spent
        self._outcomes[name] = outcome_of(
            name,
            status=HASHED if found.status == "found" else found.status,
            reason=found.reason,
            notes=list(found.notes),
            faces=len(found.faces),
            mark=list(found.mark),
        )
        self._faces += [(name, face) for face in found.faces]
        while len(self._faces) >= BATCH:
            self._hash(self._faces[:BATCH])
            self._faces = self._faces[BATCH:]

    def commit(self, parts: Parts) -> None:
        """Finish the part."""
        if self._faces:
            self._hash(self._faces)
        pa = pyarrow()
        begun = time.process_time()
        parts.commit(pa.Table.from_pylist(self._rows, schema=self._schema), self._outcomes)
        self.seconds["write"] += time.process_time() - begun
        self._outcomes, self._rows, self._faces = {}, [], []

    def _hash(self, batch: Sequence[tuple[str, FoundFace]]) -> None:
        begun = time.process_time()
        embeddings = embed_all(self._hasher, [face.pixels for _, face in batch])
        embedded = time.process_time()
        known = [(*each, row) for each, row in zip(batch, embeddings, strict=True) if row is not None]
        codes = self._codes([row for _, _, row in known])
        self.seconds["embed"] += embedded - begun
        self.seconds["hash"] += time.process_time() - embedded
        for (name, face, _), code in zip(known, codes, strict=True):
            self._rows.append(_row(name, face, code))
        for (name, _), row in zip(batch, embeddings, strict=True):
            if row is None:
                outcome = self._outcomes[name]
                outcome["faces"] -= 1
                outcome["notes"].append("face_not_embedded")
                if not outcome["faces"]:
                    outcome["status"] = "not_embedded"
                    outcome["reason"] = STATUSES["not_embedded"]

    def _codes(self, rows: Sequence[NDArray[np.float32]]) -> list[bytes]:
        if not rows:
            return []
        codes = self._hasher.hash(np.stack(rows), self._key)
        planes = pack(codes, self._hasher.alphabet_size).planes
        return [np.ascontiguousarray(each, "<u8").tobytes() for each in planes]


def _row(name: str, face: FoundFace, code: bytes) -> dict[str, Any]:
    text, raw = text_of(name)
    row: dict[str, Any] = {
        "photo": text,
        "photo_bytes": raw,
        "face": face.number,
        "sharpness": face.sharpness,
        "brightness": face.brightness,
        "code": code,
    }
    place = face.place
    if place is None:
        return row
    row |= dict(zip(("left", "top", "right", "bottom"), place.box, strict=True))
    row |= {"score": place.score, "size": place.size, **dataclasses.asdict(place.pose)}
    row["landmarks"] = place.points.ravel().tolist()  # the schema takes it or leaves it
    return row


def _header(hasher: FaceHasher, key: TransformKey, settings: FindSettings, landmarks: bool) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "encoding": encoding_id(hasher.code_length, hasher.alphabet_size),
        "model": hasher.fingerprint,
        "key": key_name(key),
        "settings": {**dataclasses.asdict(settings), "min_score": settings.lowest_score, "landmarks": landmarks},
    }


def _write_report(path: Path, listing: Listing, outcomes: Iterable[Outcome]) -> tuple[dict[str, int], dict[str, int]]:
    """Write the lines of what needs a look, and the counts; return counts and notes."""
    status = Counter(each.status for each in listing.unusable)
    noted: Counter[str] = Counter()
    faces = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for outcome in outcomes:
            status[outcome["status"]] += 1
            noted.update(outcome["notes"])
            faces += outcome["faces"]
            if outcome["status"] != HASHED or outcome["notes"]:
                del outcome["mark"]
                stream.write(json.dumps(outcome) + "\n")
        for name, why, reason in listing.unusable:
            line = outcome_of(name, status=why, reason=reason, notes=[], faces=0)
            stream.write(json.dumps(line) + "\n")
        counts = {
            "photographs": len(listing.images),
            "faces": faces,
            **{name: status[name] for name in (HASHED, *STATUSES) if status[name]},
            "hidden_files": listing.hidden,
        }
        notes = dict(sorted(noted.items()))
        stream.write(json.dumps({"counts": counts, "notes": notes}) + "\n")
    return counts, notes


def embed_all(hasher: FaceHasher, faces: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32] | None]:
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
