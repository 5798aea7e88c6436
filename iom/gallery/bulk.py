"""Bulk enrolment: workers embed the images of many subjects, one process hashes and stores them.

The workers of the engine `ray` are those of Ray Data, on one machine or many. The environment variable RAY_ADDRESS
names a cluster; without it, workers are started here for the time of the call. Embeddings travel through Ray's object
store, which is not spilled to disk; set RAY_USE_TLS=1 on clusters.

Workers hold no key and write nothing; only the process that calls `enroll_in_bulk` has the keys. A batch is one
transaction with whole subjects in it, and the record store alone says who is enrolled: a run that was killed is
repeated, takes the subjects that are missing, and enrols none twice. Revoked subjects are left out.
"""

import dataclasses
import importlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iom._files import Journal, list_subjects
from iom._progress import tqdm
from iom._registry import lookup
from iom._untrusted import path_inside
from iom.data.tfrecord import open_shards
from iom.errors import DataError, EnrolmentError, WeightsError, needs_extra
from iom.gallery.models import check_subject_id
from iom.gallery.ray_cluster import address_of, connect, disconnect, error_of_worker
from iom.models.embedder import Embedder, load_embedder
from iom.photos.picture import one_face

if TYPE_CHECKING:  # workers import this module, and need no gallery
    from iom.gallery.gallery import Gallery

WHOLE_FILE = -1
BATCH = 2048
"""References of a transaction: the most that a killed run embeds again."""
_ROUND = 200_000
"""Images of one Ray data set; its pool of workers is made anew for each."""


@dataclasses.dataclass(frozen=True)
class ImageRow:
    """An image of a subject: `length` bytes (or `WHOLE_FILE`) from `offset` of a file that every worker can read."""

    subject_id: str
    name: str
    file: str
    offset: int = 0
    length: int = WHOLE_FILE


class ImageEmbedding(NamedTuple):
    """Embedding `(D,)` of the image in row `number`, or the reason why there is none."""

    number: int
    embedding: NDArray[np.float32] | None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class WorkerSettings:
    """Workers and their embedder, which `load` makes of `weights` (name, file or artefact).

    `checked` is that of `iom.photos.picture.one_face`.
    """

    weights: str
    fingerprint: str
    batch_size: int = 32
    workers: int = 2
    checked: bool = False
    load: Callable[..., Embedder] = load_embedder


@dataclasses.dataclass(frozen=True)
class BulkSummary:
    """Counts of a run.

    `failed_images` have no embedding, in this run or one before; `failed_subjects` are not enrolled, for want of a
    usable image.
    """

    subjects: int = 0
    references: int = 0
    present: int = 0
    revoked: int = 0
    failed_images: int = 0
    failed_subjects: int = 0


def rows_of_folder(path: Path) -> list[ImageRow]:
    """Rows of a folder `<path>/<subject>/<image>`."""
    root = path.absolute()
    return [ImageRow(name.split("/", 1)[0], name, str(root / name)) for name in list_subjects(path).images]


def rows_of_list(path: Path) -> list[ImageRow]:
    """Rows of a text file with lines `<image><tab><subject>`; images lie in its folder or below."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list of images {path}: {error}") from error
    root, rows = path.absolute().parent, []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, tab, subject = line.partition("\t")
        if not tab or not name or not subject or "\t" in subject:
            raise DataError(f"{path}, line {number}: expected <image><tab><subject>")
        file = path_inside(root, name, source=f"{path}, line {number}")
        rows.append(ImageRow(subject, name, str(file)))
    return sorted(rows, key=lambda row: (row.subject_id, row.name))


def rows_of_shards(path: Path) -> list[ImageRow]:
    """Rows of a folder of TFRecord shards, as `iom convert` writes them."""
    rows = [
        ImageRow(name.split("/", 1)[0], name, str(row.shard.absolute()), row.offset, row.length)
        for name, row in open_shards(path).items()
    ]
    return sorted(rows, key=lambda row: (row.subject_id, row.name))


SOURCES: dict[str, Callable[[Path], list[ImageRow]]] = {
    "folder": rows_of_folder,
    "list": rows_of_list,
    "tfrecord": rows_of_shards,
}
"""Reader of each kind of source; rows of one subject stand together."""


def read_rows(kind: str, path: Path) -> list[ImageRow]:
    """Rows of a source of a kind."""
    rows = lookup(SOURCES, kind, "source")(path)
    if not rows:
        raise DataError(f"{path}: expected images, found none")
    return rows


class EmbeddingWorker:
    """Embeds images; made once in each worker."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._embedder = settings.load(settings.weights, batch_size=settings.batch_size)
        self._checked = settings.checked
        if self._embedder.fingerprint != settings.fingerprint:
            raise WeightsError(
                f"worker: the weights {settings.weights} differ from those of the gallery's "
                "process; give every machine the same files"
            )

    def embed(self, rows: Sequence[ImageRow], numbers: Sequence[int]) -> list[ImageEmbedding]:
        """Embed images; results are in any order, and a damaged image does not affect the others."""
        results, images = [], {}
        for number, row in zip(numbers, rows, strict=True):
            try:
                images[number] = self._read(row)
            except DataError as error:
                results.append(ImageEmbedding(number, None, str(error)))
        return results + self._embed_images(images)

    def _embed_images(self, images: dict[int, NDArray[np.uint8]]) -> list[ImageEmbedding]:
        if not images:
            return []
        try:
            return list(map(ImageEmbedding, images, self._embedder.embed(np.stack(list(images.values())))))
        except WeightsError as error:
            if len(images) == 1:
                return [ImageEmbedding(number, None, str(error)) for number in images]
            return [result for number, image in images.items() for result in self._embed_images({number: image})]

    def _read(self, row: ImageRow) -> NDArray[np.uint8]:
        try:
            with open(row.file, "rb") as stream:  # noqa: PTH123 - a path from another machine
                stream.seek(row.offset)
                data = stream.read(row.length)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}") from error
        if row.length != WHOLE_FILE and len(data) != row.length:
            raise DataError("cannot be read: its file is shorter")
        template = self._embedder.template.name
        chip, _ = one_face(data, template=template, source=row.name, checked=self._checked)
        pixels: NDArray[np.uint8] = self._embedder.chips(chip[None])[0]
        return pixels

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of `ImageRow` and `number` in; `number`, `embedding`, `problem` out."""
        columns = [np.asarray(batch[field.name]).tolist() for field in dataclasses.fields(ImageRow)]
        rows = [ImageRow(*values) for values in zip(*columns, strict=True)]
        numbers, embeddings, problems = zip(*self.embed(rows, np.asarray(batch["number"]).tolist()), strict=True)
        none = np.zeros(self._embedder.embedding_size, np.float32)
        return {
            "number": np.array(numbers),
            "embedding": np.stack([none if row is None else row for row in embeddings]),
            "problem": np.array(problems, object),
        }


Engine = Callable[[Sequence[ImageRow], WorkerSettings], Iterator[list[ImageEmbedding]]]
"""`(rows, settings)` to results in any order, each row at least once."""


def embed_here(rows: Sequence[ImageRow], settings: WorkerSettings) -> Iterator[list[ImageEmbedding]]:
    """Engine without workers: this process embeds one batch after the other."""
    worker = EmbeddingWorker(settings)
    for start in range(0, len(rows), settings.batch_size):
        part = rows[start : start + settings.batch_size]
        yield worker.embed(part, range(start, start + len(part)))


def enroll_in_bulk(
    gallery: "Gallery",
    application: str,
    rows: Sequence[ImageRow],
    engine: Engine,
    settings: WorkerSettings,
    *,
    report: Path,
    batch: int = BATCH,
    progress: bool = False,
) -> BulkSummary:
    """Enrol all subjects of `rows` that are not enrolled yet; every image becomes a reference.

    The rows of one subject should be adjacent; a transaction has `batch` references or a few more. `report` is a
    journal of the images that failed and why, and of the counts of each run; the last line about an image counts, and
    has an empty `problem` where a later run embedded it. A `DataError` says that another run writes this report.
    """
    gallery.store.application(application)
    with Journal(report, {"command": "bulk-enroll", "application": application}) as journal:
        run = _Run(gallery, application, journal, batch)
        wanted = run.missing(rows)
        results = engine(wanted, settings) if wanted else iter(())
        with tqdm(total=len(wanted), unit="image", disable=not progress) as bar:
            for some in results:
                run.take(wanted, some)
                bar.update(len(some))
        summary = run.finish()
        journal.add({"counts": dataclasses.asdict(summary)}, durable=True)
    return summary


class _Run:
    """Subjects wait until all of their images are embedded, batches until they are full."""

    def __init__(self, gallery: "Gallery", application: str, journal: Journal, batch: int) -> None:
        self._gallery, self._application = gallery, application
        self._journal, self._batch = journal, batch
        self._problems = {
            str(entry["image"]): str(entry.get("problem", "")) for _, entry in journal.entries() if "image" in entry
        }
        self._waiting: defaultdict[str, dict[int, NDArray[np.float32]]] = defaultdict(dict)
        self._open: Counter[str] = Counter()
        self._seen: set[int] = set()
        self._ids: list[str] = []
        self._rows: list[NDArray[np.float32]] = []
        self._counts: Counter[str] = Counter()

    def missing(self, rows: Sequence[ImageRow]) -> list[ImageRow]:
        """Rows of subjects who are neither enrolled nor revoked, with their ids in NFC."""
        store, name = self._gallery.store, self._application
        gone = self._gallery.keys.revoked(name)
        present = {each.subject_id for page in store.pages(name) for each in page if each.record not in gone}
        revoked = {each.subject_id for each in [*store.tombstones(name), *gone.values()]} - present
        subjects, invalid, wanted = set(), set(), []
        for row in rows:
            try:
                subject = check_subject_id(row.subject_id)
            except EnrolmentError as error:
                invalid.add(row.subject_id)
                self._note(row.name, str(error))
                continue
            subjects.add(subject)
            if subject not in present and subject not in revoked:
                wanted.append(row if subject == row.subject_id else dataclasses.replace(row, subject_id=subject))
        self._counts["present"] = len(subjects & present)
        self._counts["revoked"] = len(subjects & revoked)
        self._counts["failed_subjects"] = len(invalid)
        self._open.update(row.subject_id for row in wanted)
        return wanted

    def take(self, rows: Sequence[ImageRow], results: Sequence[ImageEmbedding]) -> None:
        """Results of some images; a second result of one, after a worker was lost, is dropped."""
        for number, embedding, problem in results:
            if number in self._seen:
                continue
            self._seen.add(number)
            subject = rows[number].subject_id
            self._note(rows[number].name, problem)
            if embedding is not None:
                self._waiting[subject][number] = embedding
            self._open[subject] -= 1
            if not self._open[subject]:
                held = self._waiting.pop(subject, {})
                self._counts["subjects" if held else "failed_subjects"] += 1
                self._ids += [subject] * len(held)
                self._rows += [held[each] for each in sorted(held)]
        if len(self._ids) >= self._batch:
            self._flush()

    def finish(self) -> BulkSummary:
        self._flush()
        if lost := sum(self._open.values()):
            raise DataError(f"the engine lost {lost} images; start the same command again")
        return BulkSummary(**self._counts, failed_images=sum(map(bool, self._problems.values())))

    def _note(self, image: str, problem: str) -> None:
        """Note the problem of an image, or that it is solved, before the batch: no later run reads it then."""
        if problem != self._problems.get(image, ""):
            self._problems[image] = problem
            self._journal.add({"image": image, "problem": problem}, durable=True)

    def _flush(self) -> None:
        if self._ids:
            self._gallery.enroll_many(self._ids, np.stack(self._rows), application=self._application)
            self._counts["references"] += len(self._ids)
            self._ids, self._rows = [], []


def embed_on_ray(rows: Sequence[ImageRow], settings: WorkerSettings) -> Iterator[list[ImageEmbedding]]:
    """Embed images on Ray; an `iom.gallery.bulk.Engine`."""
    other = "use --engine here"
    ray = connect(address_of(""), "the engine ray", "bulk", cpus=settings.workers, otherwise=other)
    try:
        with needs_extra("the engine ray", "bulk", otherwise=other):
            importlib.import_module("ray.data")
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        for start in range(0, len(rows), _ROUND):
            yield from _round(ray, rows[start : start + _ROUND], start, settings)
    except ray.exceptions.RayError as error:
        raise error_of_worker(error) from error
    finally:
        disconnect()


def _round(ray: Any, rows: Sequence[ImageRow], first: int, settings: WorkerSettings) -> Iterator[list[ImageEmbedding]]:
    items = [{"number": number, **dataclasses.asdict(row)} for number, row in enumerate(rows, first)]
    blocks = max(settings.workers, -(-len(items) // (4 * settings.batch_size)))
    data = ray.data.from_items(items, override_num_blocks=min(blocks, len(items))).map_batches(
        EmbeddingWorker,
        fn_constructor_args=(settings,),
        batch_size=settings.batch_size,
        batch_format="numpy",
        concurrency=settings.workers,
        num_cpus=1,
    )
    for part in data.iter_batches(batch_size=None, batch_format="numpy"):
        columns = zip(part["number"].tolist(), part["embedding"], part["problem"], strict=True)
        yield [ImageEmbedding(number, None if text else row.copy(), str(text)) for number, row, text in columns]


ENGINES: dict[str, Engine] = {"ray": embed_on_ray, "here": embed_here}
