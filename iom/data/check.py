"""Checks of a data set: images, labels, unexpected files."""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from iom._files import list_folders, list_images
from iom._untrusted import one_line
from iom.data.formats.conversions import FaceSource, from_folder, from_recordio, from_shards
from iom.data.formats.pair_files import read_bin_images
from iom.data.tfrecord import is_shards, read_manifest, read_records, read_sidecar
from iom.errors import DataError
from iom.photos.images import decode_image, in_threads, open_image

PROBLEMS = {
    "unreadable": "the file itself is damaged, or contradicts its index",
    "corrupt": "not an image, truncated or damaged",
    "wrong_size": "not of the expected size",
    "not_rgb": "grey, palette, CMYK or transparent",
    "same_bytes": "byte for byte another image of the same subject",
    "same_pixels": "the pixels of another image of the same subject, other bytes",
    "two_labels": "the same image under two subjects",
    "one_image": "a subject with a single image",
    "empty_folder": "a folder without images",
    "odd_file": "neither an image nor expected",
    "linked_folder": "a link to a folder, which is not followed",
}
"""Kinds of problems and what they mean."""
EXPECTED_FILES = frozenset({"conversion.json", "align.jsonl", "landmarks.csv", "report.csv", "report.json"})
"""Written beside the faces by `iom convert` and `iom align`."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One problem: a key of `PROBLEMS`, its place, and details."""

    kind: str
    place: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class _Image:
    place: str
    subject: str
    digest: str
    pixels: str
    problems: tuple[Finding, ...]


def check_data(path: Path, *, size: int = 112, workers: int = 2, progress: bool = False) -> tuple[int, list[Finding]]:
    """Check a folder of subjects or of shards, a RecordIO file or a `.bin`; the number of images and the findings."""
    if not path.exists():
        raise DataError(f"{path}: does not exist; expected a folder, shards, train.rec or a .bin file")
    if path.is_file() and path.suffix not in (".rec", ".bin"):
        raise DataError(f"{path}: expected a folder, shards, train.rec or a .bin file")
    try:
        source, labelled = _source(path)
        findings = list(_record_findings(path)) if is_shards(path) else []
    except DataError as error:
        return 0, [Finding("unreadable", str(path), str(error))]
    count = len(source.paths)
    examine = functools.partial(_examine, source, size)
    images = list(in_threads(examine, range(count), "checking", workers=workers, progress=progress))
    findings += [problem for image in images for problem in image.problems]
    if labelled:
        findings += _repeated(images)
        count_of = Counter(image.subject for image in images)
        alone = sorted((image for image in images if count_of[image.subject] == 1), key=lambda image: image.subject)
        findings += [Finding("one_image", image.subject, image.place) for image in alone]
    if path.is_dir() and not is_shards(path) and not (path / "train.rec").is_file():
        findings += _unexpected_files(path)
    return count, findings


def _source(path: Path) -> tuple[FaceSource, bool]:
    """The images, and whether they have labels (those of a `.bin` repeat, as they should)."""
    if path.suffix == ".bin" and path.is_file():
        encoded, _ = read_bin_images(path)
        names = tuple(f"{path.name}/{index}" for index in range(len(encoded)))
        return FaceSource(path, names, lambda row: encoded[row]), False
    if path.suffix == ".rec" or (path / "train.rec").is_file():
        return from_recordio(path), True
    if is_shards(path):
        return from_shards(path), True
    return from_folder(path), True


def _record_findings(path: Path) -> Iterator[Finding]:
    """Reads shards with their CRCs and compares them with their index."""
    for shard in read_manifest(path)["shards"]:
        rows = read_sidecar(path, shard["file"])
        stored = [(r.path, r.label, r.sha256) for r in rows]
        records = [
            (name, label, hashlib.sha256(data).hexdigest()) for name, label, data in read_records(path / shard["file"])
        ]
        if stored != records:
            yield Finding("unreadable", str(path / shard["file"]), "records contradict the index")


def _examine(source: FaceSource, size: int, row: int) -> _Image:
    place = source.paths[row]
    digest = pixels = ""
    problems = []
    try:
        data = source.read(row)
        with open_image(data, place, expected="an image") as image:
            image.load()
            (width, height), mode = image.size, image.mode
        digest = hashlib.sha256(data).hexdigest()
        if (width, height) != (size, size):
            problems.append(Finding("wrong_size", place, f"{width}x{height}"))
        if mode != "RGB":
            problems.append(Finding("not_rgb", place, mode))
        if not problems:
            pixels = hashlib.sha256(decode_image(data, place, size=size).tobytes()).hexdigest()
    except (DataError, OSError) as error:
        problems.append(Finding("corrupt", place, one_line(error)))
    return _Image(place, place.split("/", 1)[0], digest, pixels, tuple(problems))


def _repeated(images: list[_Image]) -> Iterator[Finding]:
    """Each image that repeats an earlier one, once."""
    first: dict[str, _Image] = {}
    for image in images:
        keys = [key for key in (image.digest, image.pixels) if key]
        earlier = next((first[key] for key in keys if key in first), None)
        for key in keys:
            first.setdefault(key, image)
        if earlier is None:
            continue
        kind = "same_bytes" if earlier.digest == image.digest else "same_pixels"
        if earlier.subject != image.subject:
            kind = "two_labels"
        yield Finding(kind, image.place, f"as {earlier.place}")


def _unexpected_files(root: Path) -> Iterator[Finding]:
    listing = list_images(root)
    for name in listing.images:
        if name.count("/") != 1:
            yield Finding("odd_file", name, "not in the folder of a subject")
    for name, status, _ in listing.unusable:
        if name not in EXPECTED_FILES:
            yield Finding("linked_folder" if status == "linked_folder" else "odd_file", name)
    for folder in list_folders(root):
        if folder.name not in listing.subjects:
            yield Finding("empty_folder", folder.name)
