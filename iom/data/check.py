"""Checks of a data set: images, labels, unexpected files."""

import dataclasses
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from iom._files import is_image, is_skipped
from iom.data.formats.bin_files import read_bin_images
from iom.data.formats.conversions import FaceSource, from_folder, from_recordio, from_shards
from iom.data.tfrecord import is_shards, read_manifest, read_records, read_sidecar
from iom.errors import DataError
from iom.photos.images import FORMATS, decode_image, in_threads

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
    digest: str = ""
    pixels: str = ""
    problems: tuple[Finding, ...] = ()


def check_data(path: Path, *, size: int = 112, workers: int = 2, progress: bool = False) -> tuple[int, list[Finding]]:
    """Check a folder of subjects or of shards, a RecordIO file or a `.bin`; the number of images and the findings."""
    if not path.exists():
        raise DataError(f"{path}: does not exist; expected a folder, shards, train.rec or a .bin file")
    if path.is_file() and path.suffix not in (".rec", ".bin"):
        raise DataError(f"{path}: expected a folder, shards, train.rec or a .bin file")
    try:
        source, labelled = _source(path)
        findings = list(_record_findings(path))
    except DataError as error:
        return 0, [Finding("unreadable", str(path), str(error))]

    def examine(row: int) -> _Image:
        return _examine(source, row, size)

    count = len(source.paths)
    images = list(in_threads(examine, range(count), "checking", workers=workers, progress=progress))
    findings += [problem for image in images for problem in image.problems]
    if labelled:
        findings += _repeated(images)
        findings += _single_images(images)
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
    if not (path.is_dir() and is_shards(path)):
        return

    for shard in read_manifest(path)["shards"]:
        rows = read_sidecar(path, shard["file"])
        stored = [(r.path, r.label, r.sha256) for r in rows]
        records = [
            (name, label, hashlib.sha256(data).hexdigest()) for name, label, data in read_records(path / shard["file"])
        ]
        if stored != records:
            yield Finding("unreadable", str(path / shard["file"]), "records contradict the index")


def _examine(source: FaceSource, row: int, size: int) -> _Image:
    place = source.paths[row]
    subject = place.split("/", 1)[0]
    try:
        data = source.read(row)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            shape, mode = image.size, image.mode
            image.load()
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        return _Image(place, subject, problems=(Finding("corrupt", place, _line(error)),))
    digest = hashlib.sha256(data).hexdigest()
    problems = []
    if shape != (size, size):
        problems.append(Finding("wrong_size", place, f"{shape[0]}x{shape[1]}"))
    if mode != "RGB":
        problems.append(Finding("not_rgb", place, mode))
    pixels = ""
    if not problems:
        try:
            pixels = hashlib.sha256(decode_image(data, place, size=size).tobytes()).hexdigest()
        except DataError as error:
            problems.append(Finding("corrupt", place, _line(error)))
    return _Image(place, subject, digest, pixels, tuple(problems))


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


def _single_images(images: list[_Image]) -> Iterator[Finding]:
    of: dict[str, list[str]] = defaultdict(list)
    for image in images:
        of[image.subject].append(image.place)
    for subject, places in sorted(of.items()):
        if len(places) == 1:
            yield Finding("one_image", subject, places[0])


def _unexpected_files(root: Path) -> Iterator[Finding]:
    for entry in sorted(root.iterdir()):
        if is_skipped(entry.name):
            continue
        if entry.is_symlink() and entry.is_dir():
            yield Finding("linked_folder", entry.name)
            continue
        if entry.is_file():
            if entry.name not in EXPECTED_FILES:
                yield Finding("odd_file", entry.name, "not in the folder of a subject")
            continue
        inside = [item for item in sorted(entry.iterdir()) if not is_skipped(item.name)]
        if not any(is_image(item.name) for item in inside):
            yield Finding("empty_folder", entry.name)
        for item in inside:
            if item.is_symlink() and item.is_dir():
                yield Finding("linked_folder", f"{entry.name}/{item.name}")
            elif item.is_dir() or not is_image(item.name):
                yield Finding("odd_file", f"{entry.name}/{item.name}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
