"""Many images become enrolled subjects: embedded by workers, hashed and stored by one process.

Only this process has keys. A batch is enrolled in one transaction, with whole subjects in it, and
what is enrolled is what the record store says: a run that was killed is started again, takes the
subjects that are missing, and none is there twice. Subjects that were revoked stay away.
"""

import dataclasses
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from iom._files import write_text
from iom._untrusted import parse_json
from iom.errors import DataError, EnrolmentError
from iom.gallery.bulk.embedding_worker import Embedded, WorkerSettings
from iom.gallery.bulk.engines import Engine
from iom.gallery.bulk.rows import ImageRow
from iom.gallery.gallery import Gallery
from iom.gallery.models import check_subject_id

BATCH = 2048
"""References of a transaction: what a killed run embeds again."""


@dataclasses.dataclass(frozen=True)
class BulkResult:
    """What a run did.

    Attributes:
        subjects: Enrolled now.
        references: Theirs.
        present: Subjects that were enrolled already.
        revoked: Subjects that were left out since they were revoked.
        failed_images: Images without an embedding, in this run and the ones before.
        failed_subjects: Subjects that are not enrolled: none of their images could be used.
    """

    subjects: int = 0
    references: int = 0
    present: int = 0
    revoked: int = 0
    failed_images: int = 0
    failed_subjects: int = 0


def enroll_in_bulk(
    gallery: Gallery,
    application: str,
    rows: Sequence[ImageRow],
    engine: Engine,
    settings: WorkerSettings,
    *,
    report: Path,
    workers: int = 2,
    batch: int = BATCH,
    progress: bool = False,
) -> BulkResult:
    """Enrol all subjects of `rows` that are not enrolled yet; every image becomes a reference.

    Args:
        gallery: With the hasher of its application.
        application: Its name.
        rows: Images; those of one subject may stand anywhere, best together.
        engine: Embeds.
        settings: Of its workers.
        report: JSON lines: each image that failed and why, in the end the counts.
        workers: How many.
        batch: References of a transaction, or a few more.
        progress: Show a bar.

    Raises:
        DataError: Another run is at work with this report.
        EnrolmentError: No such application, or somebody else enrolled one of the subjects.
    """
    gallery.store.application(application)
    with _Report.open(report) as failures:
        run = _Run(gallery, application, failures, batch)
        wanted = run.missing(rows)
        results = engine(wanted, settings, workers) if wanted else iter(())
        with tqdm(total=len(wanted), unit="image", disable=not progress) as bar:
            for some in results:
                run.take(wanted, some)
                bar.update(len(some))
        run.finish()
        done = run.result()
        failures.finish(dataclasses.asdict(done))
    return done


class _Run:
    """Subjects wait until all of their images are there, batches until they are full."""

    def __init__(self, gallery: Gallery, application: str, failures: "_Report", batch: int) -> None:
        self._gallery, self._application = gallery, application
        self._failures, self._batch = failures, batch
        self._waiting: dict[str, list[tuple[int, NDArray[np.float32]]]] = {}
        self._open: Counter[str] = Counter()
        self._seen: set[int] = set()
        self._ready: list[str] = []
        self._ready_references = 0
        self._counts: Counter[str] = Counter()

    def missing(self, rows: Sequence[ImageRow]) -> list[ImageRow]:
        """Rows of subjects that are neither enrolled nor revoked."""
        present, revoked = self._known()
        subjects = {row.subject_id for row in rows}
        self._counts["present"] = len(subjects & present)
        self._counts["revoked"] = len((subjects & revoked) - present)
        odd = {subject: problem for subject in subjects if (problem := _odd(subject))}
        self._failures.add({row.name: odd[row.subject_id] for row in rows if row.subject_id in odd})
        self._counts["failed_subjects"] = len(odd)
        left_out = present | revoked | set(odd)
        wanted = [row for row in rows if row.subject_id not in left_out]
        self._open.update(row.subject_id for row in wanted)
        return wanted

    def take(self, rows: Sequence[ImageRow], results: Sequence[Embedded]) -> None:
        """Results of some images; a second result of one, after a worker was lost, is dropped."""
        for number, embedding, problem in results:
            if number in self._seen:
                continue
            self._seen.add(number)
            row = rows[number]
            held = self._waiting.setdefault(row.subject_id, [])
            if embedding is None:
                self._failures.add({row.name: problem})
            else:
                self._failures.solved(row.name)
                held.append((number, embedding))
            self._open[row.subject_id] -= 1
            if not self._open[row.subject_id]:
                self._complete(row.subject_id)
        if self._ready_references >= self._batch:
            self._flush()

    def finish(self) -> None:
        """Enrol what is left.

        Raises:
            DataError: The engine did not give a result for every image.
        """
        self._flush()
        if lost := sum(self._open.values()):
            raise DataError(f"the engine lost {lost} images; start the same command again")

    def result(self) -> BulkResult:
        return BulkResult(**self._counts, failed_images=len(self._failures))

    def _complete(self, subject_id: str) -> None:
        if not self._waiting[subject_id]:
            del self._waiting[subject_id]
            self._counts["failed_subjects"] += 1
            return
        self._ready.append(subject_id)
        self._ready_references += len(self._waiting[subject_id])

    def _flush(self) -> None:
        self._failures.sync()  # a subject that is enrolled is not looked at again
        if not self._ready:
            return
        ids, embeddings = [], []
        for subject_id in self._ready:
            of_subject = sorted(self._waiting.pop(subject_id), key=lambda pair: pair[0])
            ids += [subject_id] * len(of_subject)
            embeddings += [row for _, row in of_subject]
        self._gallery.enroll_many(self._application, ids, np.stack(embeddings))
        self._counts["subjects"] += len(self._ready)
        self._counts["references"] += len(ids)
        self._ready, self._ready_references = [], 0

    def _known(self) -> tuple[set[str], set[str]]:
        """Subjects that are enrolled, and those that were revoked."""
        store, name = self._gallery.store, self._application
        forgotten = self._gallery.keys.revoked(name)
        present: set[str] = set()
        after = -1
        while page := store.scan(name, after=after):
            after = page[-1].record
            present.update(each.subject_id for each in page if each.record not in forgotten)
        revoked = {stone.subject_id for stone in store.tombstones(name)}
        return present, revoked | {each.subject_id for each in forgotten.values()}


class _Report:
    """Failures by image, appended while a run is at work, written anew at its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] = dict(_lines(path))
        self._new: dict[str, str] = {}

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator["_Report"]:
        """Hold the report; a second run waits for nobody and is refused."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(f"{path}: another run is at work with this report") from error
            yield cls(path)

    def __len__(self) -> int:
        return len(self._known | self._new)

    def add(self, problems: Mapping[str, str]) -> None:
        self._new.update(problems)

    def solved(self, name: str) -> None:
        self._known.pop(name, None)

    def sync(self) -> None:
        if not self._new:
            return
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write("\n")  # ends a line that a killed run left incomplete
            stream.writelines(_line(name, problem) for name, problem in self._new.items())
            stream.flush()
            os.fsync(stream.fileno())
        self._known |= self._new
        self._new = {}

    def finish(self, counts: Mapping[str, int]) -> None:
        found = self._known | self._new
        lines = [_line(name, found[name]) for name in sorted(found)]
        write_text(self._path, "".join(lines) + json.dumps({"counts": dict(counts)}) + "\n")


def _line(name: str, problem: str) -> str:
    return json.dumps({"image": name, "problem": problem}) + "\n"


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = parse_json(line)
            yield str(found["image"]), str(found["problem"])
        except (ValueError, KeyError, TypeError):
            continue  # an empty line, the counts, or the last line of a run that was killed


def _odd(subject_id: str) -> str:
    try:
        check_subject_id(subject_id)
    except EnrolmentError as error:
        return str(error)
    return ""
