"""Conversions between folders, TFRecord shards, RecordIO, and files of pairs; resumable, and read back when finished.

A record of a shard is a `tf.train.Example` with `image/encoded`, `image/filename` and `image/source_id` (the label), as
arcface-tf2 reads them, and `image/subject`. TFRecord guards it with CRC-32C.
"""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from iom._files import (
    TEMPORARY,
    Journal,
    atomic_path,
    list_subjects,
    remove_temporary_files,
    sha256_of,
    write_json,
    write_text,
)
from iom._progress import tqdm
from iom._untrusted import paths_inside
from iom.data.benchmarks.pair_lists import read_pair_list
from iom.data.formats.pair_files import read_bin_images, read_carray, write_bin
from iom.data.formats.recordio import read_record_file
from iom.data.tfrecord import FORMAT, MANIFEST, ShardRow, open_shards, read_records, read_sidecar
from iom.errors import ConfigError, DataError
from iom.photos.images import decode_image, in_threads

IMAGES = "images"
PAIRS = "pairs.txt"
LISTING = "conversion.json"
JOURNAL = ".conversion.jsonl"
SIGNATURES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png"}
RECORD_HEAD = 12
RECORD_TAIL = 4


@dataclasses.dataclass(frozen=True, eq=False)
class FaceSource:
    """Labelled images of any format: `paths` `<subject>/<file>` `(N,)`, sorted by subject, and their encoded bytes."""

    root: Path
    paths: tuple[str, ...]
    read: Callable[[int], bytes]
    notes: tuple[str, ...] = ()

    @property
    def subjects(self) -> list[str]:
        """Subject names; a label is an index into them."""
        return sorted({path.split("/", 1)[0] for path in self.paths})


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Settings of a conversion of labelled images: side of an image, images a shard, and how it is run."""

    size: int = 112
    per_shard: int = 4096
    workers: int = 2
    skip_damaged: bool = False
    progress: bool = False

    def read(self, source: FaceSource, row: int) -> tuple[bytes, str]:
        """Encoded image of a row that decodes, or with `skip_damaged` no bytes and the reason."""
        try:
            data = source.read(row)
            decode_image(data, f"{source.root}: {source.paths[row]}", size=self.size)
        except (DataError, OSError) as error:
            if not self.skip_damaged:
                raise DataError(f"{error}; --skip-damaged leaves such images out") from error
            return b"", str(error)
        return data, ""


def from_folder(root: Path) -> FaceSource:
    """A folder `<root>/<subject>/<image>`."""
    listing = list_subjects(root)
    paths, linked = listing.images, listing.linked_folders
    notes = (f"{linked} links to folders are not followed",) if linked else ()
    return FaceSource(root, paths, lambda row: (root / paths[row]).read_bytes(), notes)


def from_recordio(root: Path) -> FaceSource:
    """`train.rec` with `train.idx` beside it, or the folder they lie in."""
    path = root / "train.rec" if root.is_dir() else root
    records = read_record_file(path)
    names = []
    for row, (key, label) in enumerate(zip(records.keys, records.labels, strict=True)):
        data = records.read(row)
        suffix = next((suffix for signature, suffix in SIGNATURES.items() if data.startswith(signature)), "")
        if not suffix:
            raise DataError(f"{path}: record {key}: expected a JPEG or PNG, found {data[:4]!r}")
        names.append(f"{label:08d}/{key:09d}.{suffix}")
    notes = () if records.cross_checked else ("no identity ranges: labels could not be checked",)
    order = sorted(range(len(names)), key=names.__getitem__)
    return FaceSource(path, tuple(names[row] for row in order), lambda row: records.read(order[row]), notes)


def from_shards(root: Path) -> FaceSource:
    """A folder of TFRecord shards of this package."""
    shards = open_shards(root, verify=True)
    rows = list(shards.values())
    return FaceSource(root, tuple(shards), lambda row: rows[row].read_bytes())


def convert(
    kind: tuple[str, str], source: Path, target: Path, *, progress: bool = False, **settings: Any
) -> dict[str, Any]:
    """Convert data into another kind, of `CONVERSIONS`; returns the manifest, which also lies in or beside the target.

    `settings` are those of `Conversion`, for labelled images; started again, an interrupted conversion of them goes on.
    """
    if kind not in CONVERSIONS:
        known = ", ".join(f"{a} to {b}" for a, b in CONVERSIONS)
        raise ConfigError(f"cannot convert {kind[0]} to {kind[1]}; there are: {known}")
    if kind[0] in PAIR_SOURCES:
        pairs = PAIR_SOURCES[kind[0]](source)
        for index, data in enumerate(tqdm(pairs.images, "images checked", unit="image", disable=not progress)):
            decode_image(data, f"{source}: image {index}", size=None)
        return PAIR_WRITERS[kind[1]](pairs, target)
    faces = FACE_SOURCES[kind[0]](source)
    if not faces.paths:
        raise DataError(f"{source}: expected images, found none")
    return FACE_WRITERS[kind[1]](faces, target, Conversion(progress=progress, **settings))


def write_folder(source: FaceSource, root: Path, conversion: Conversion) -> dict[str, Any]:
    """Write each image byte for byte as `<root>/<subject>/<file>`; an image that is there already, whole, is kept.

    Bytes behind the end of an image are copied with it: nothing runs them, and the file is not executable. The manifest
    with subjects and SHA-256 is `conversion.json` beside the subjects. A name that leads out of `root` is refused.
    """
    targets = paths_inside(root, source.paths, source=source.root)
    for name in source.paths:
        if name.partition("/")[0] in (LISTING, JOURNAL) or f"/{TEMPORARY}" in f"/{name}":
            raise DataError(
                f"{source.root}: expected another name than {name!r}, which conversions keep for their own files"
            )

    def write(row: int) -> tuple[str, str, str]:
        data, problem = conversion.read(source, row)
        if problem:
            return source.paths[row], "", problem
        target = targets[row]
        if not (target.is_file() and target.read_bytes() == data):
            with atomic_path(target) as temporary:
                temporary.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        if sha256_of(target) != digest:
            raise DataError(f"{target}: does not read back as written; full disk?")
        return source.paths[row], digest, ""

    with _journal(root, source, {"to": "folder", "size": conversion.size}):
        rows, workers = range(len(source.paths)), conversion.workers
        written = list(in_threads(write, rows, "images", workers=workers, progress=conversion.progress))
    manifest = {
        "source": source.root.name,
        "notes": list(source.notes),
        "images": sum(bool(digest) for _, digest, _ in written),
        "skipped": [problem for _, _, problem in written if problem],
        "subjects": source.subjects,
        "sha256": {name: digest for name, digest, _ in written if digest},
    }
    write_json(root / LISTING, manifest)
    return manifest


def write_shards(source: FaceSource, root: Path, conversion: Conversion) -> dict[str, Any]:
    """Write TFRecord shards and `manifest.json`, and read them back; started again, finished ones are kept."""
    subjects = source.subjects
    label_of = {name: label for label, name in enumerate(subjects)}
    count, per_shard = len(source.paths), conversion.per_shard

    def write(number: int) -> dict[str, Any]:
        path = root / f"{number:05d}.tfrecord"
        part = range(number * per_shard, min((number + 1) * per_shard, count))
        rows, skipped = _write_shard(source, part, path, label_of, conversion)
        _verify(path, rows)
        sidecar = path.with_suffix(".tsv")
        write_text(sidecar, "".join(f"{r.offset}\t{r.length}\t{r.label}\t{r.sha256}\t{r.path}\n" for r in rows))
        return {
            "file": path.name,
            "images": len(rows),
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
            "index_sha256": sha256_of(sidecar),
            "skipped": skipped,
        }

    with _journal(root, source, {"to": "tfrecord", "size": conversion.size, "per_shard": per_shard}) as journal:
        numbers = range(-(-count // per_shard))
        finished = {number: shard for number, shard in _finished_shards(root, journal) if number in numbers}
        left = [number for number in numbers if number not in finished]
        workers, progress = conversion.workers, conversion.progress
        written = in_threads(write, left, "shards", unit="shard", workers=workers, progress=progress)
        for number, shard in zip(left, written, strict=True):
            journal.add({"shard": shard}, durable=True)
            finished[number] = shard
    shards = [finished[number] for number in numbers]
    manifest = {
        "format": FORMAT,
        "source": source.root.name,
        "notes": list(source.notes),
        "size": conversion.size,
        "images": sum(shard["images"] for shard in shards),
        "skipped": [text for shard in shards for text in shard["skipped"]],
        "subjects": subjects,
        "shards": [{k: v for k, v in shard.items() if k != "skipped"} for shard in shards],
    }
    write_json(root / MANIFEST, manifest)
    return manifest


def _journal(root: Path, source: FaceSource, settings: dict[str, Any]) -> Journal:
    """Journal of a conversion, new in an empty folder or of the same conversion."""
    root.mkdir(parents=True, exist_ok=True)
    remove_temporary_files(root)
    if not (root / JOURNAL).is_file() and any(root.iterdir()):
        raise DataError(f"{root}: expected a new or empty folder, or a conversion to go on with")
    names = hashlib.sha256("\n".join(source.paths).encode()).hexdigest()
    stat = source.root.stat()
    changed = None if source.root.is_dir() else [stat.st_size, stat.st_mtime_ns]
    plan = {"source": source.root.name, "names_sha256": names, "changed": changed}
    return Journal(root / JOURNAL, settings | plan)


def _finished_shards(root: Path, journal: Journal) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and description of each shard of the journal that is still whole."""
    for _, entry in journal.entries():
        try:
            shard = entry["shard"]
            path = root / shard["file"]
            if sha256_of(path) != shard["sha256"]:
                continue
            read_sidecar(root, path.name, shard["index_sha256"])
            yield int(path.stem), shard
        except (OSError, ValueError, KeyError, TypeError, DataError):
            continue


def _write_shard(
    source: FaceSource, part: range, path: Path, label_of: dict[str, int], conversion: Conversion
) -> tuple[list[ShardRow], list[str]]:
    import tensorflow as tf

    Feature = tf.train.Feature  # noqa: N806 - a class
    rows: list[ShardRow] = []
    skipped: list[str] = []
    place = 0
    with atomic_path(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for index in part:
            data, problem = conversion.read(source, index)
            if problem:
                skipped.append(problem)
                continue
            name = source.paths[index]
            subject = name.split("/", 1)[0]
            values = {"image/encoded": data, "image/filename": name.encode(), "image/subject": subject.encode()}
            features = {name: Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in values.items()}
            features["image/source_id"] = Feature(int64_list=tf.train.Int64List(value=[label_of[subject]]))
            example = tf.train.Example(features=tf.train.Features(feature=features))
            record = bytes(example.SerializeToString(deterministic=True))
            offset = place + RECORD_HEAD + record.index(data)
            digest = hashlib.sha256(data).hexdigest()
            rows.append(ShardRow(path, offset, len(data), label_of[subject], digest, name))
            writer.write(record)
            place += RECORD_HEAD + len(record) + RECORD_TAIL
    return rows, skipped


def _verify(path: Path, rows: list[ShardRow]) -> None:
    """Read the records (with their CRCs) and the index again; both must hold the written images."""
    with path.open("rb") as stream:
        for (name, label, data), row in zip(read_records(path), rows, strict=True):
            stream.seek(row.offset)
            same = stream.read(row.length) == data
            if not same or (name, label, hashlib.sha256(data).hexdigest()) != (row.path, row.label, row.sha256):
                raise DataError(f"{path}: '{row.path}' does not read back as written; full disk?")


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedPairs:
    """Pairs of encoded images: `left` and `right` are rows of `images`."""

    images: Sequence[bytes]
    left: Sequence[int]
    right: Sequence[int]
    same: Sequence[bool]


def pairs_of_bin(path: Path) -> EncodedPairs:
    """An InsightFace `.bin`, image bytes unchanged; equal images are kept once."""
    encoded, same = read_bin_images(path)
    row_of: dict[bytes, int] = {}
    rows = [row_of.setdefault(data, len(row_of)) for data in encoded]
    return EncodedPairs(list(row_of), rows[0::2], rows[1::2], same)


def pairs_of_carray(path: Path) -> EncodedPairs:
    """A carray folder, images as PNG."""
    pairs = read_carray(path)
    encoded = []
    for pixels in np.asarray(pairs.images):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        encoded.append(stream.getvalue())
    return EncodedPairs(encoded, pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist())


def pairs_of_folder(root: Path) -> EncodedPairs:
    """`pairs.txt` and `images/` of a folder, image bytes unchanged."""
    pairs = read_pair_list(root / PAIRS, root / IMAGES)
    encoded = [file.read_bytes() for file in pairs.images]
    return EncodedPairs(encoded, pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist())


def write_pairs(pairs: EncodedPairs, root: Path) -> dict[str, Any]:
    """Write images under `images/` and `pairs.txt` with lines `left right same`, in order, and read them back."""
    remove_temporary_files(root)
    names = []
    for index, data in enumerate(pairs.images):
        suffix = "jpg" if data.startswith(b"\xff\xd8") else "png"
        names.append(f"{index:06d}.{suffix}")
        target = root / IMAGES / names[-1]
        if target.is_file() and target.read_bytes() != data:
            raise DataError(f"{target}: another image is there; choose a new folder")
        if not target.is_file():
            with atomic_path(target) as temporary:
                temporary.write_bytes(data)
    rows = zip(pairs.left, pairs.right, pairs.same, strict=True)
    write_text(root / PAIRS, "".join(f"{names[a]}\t{names[b]}\t{int(same)}\n" for a, b, same in rows))
    again = read_pair_list(root / PAIRS, root / IMAGES)
    if again.same.tolist() != [bool(same) for same in pairs.same]:
        raise DataError(f"{root}: the pairs do not read back as written")
    digests = [hashlib.sha256(data).hexdigest() for data in pairs.images]
    manifest = {"pairs": len(again), "images": len(names), "sha256": dict(zip(names, digests, strict=True))}
    write_json(root / LISTING, manifest)
    return manifest


def write_bin_pairs(pairs: EncodedPairs, target: Path) -> dict[str, Any]:
    """Write InsightFace's file, image bytes unchanged, and read it back."""
    encoded = [pairs.images[row] for both in zip(pairs.left, pairs.right, strict=True) for row in both]
    same = [bool(each) for each in pairs.same]
    write_bin(target, encoded, same)
    if read_bin_images(target) != (encoded, same):
        raise DataError(f"{target}: does not read back as written; full disk?")
    manifest = {"pairs": len(same), "images": len(pairs.images), "sha256": {target.name: sha256_of(target)}}
    write_json(target.with_name(f"{target.name}.json"), manifest)
    return manifest


FACE_SOURCES: dict[str, Callable[[Path], FaceSource]] = {
    "folder": from_folder,
    "recordio": from_recordio,
    "tfrecord": from_shards,
}
"""Readers of labelled images."""
FACE_WRITERS: dict[str, Callable[..., dict[str, Any]]] = {"folder": write_folder, "tfrecord": write_shards}
"""Writers of labelled images."""
PAIR_SOURCES: dict[str, Callable[[Path], EncodedPairs]] = {
    "bin": pairs_of_bin,
    "carray": pairs_of_carray,
    "pairs": pairs_of_folder,
}
"""Readers of pairs to verify; `pairs` is a folder with `images/` and `pairs.txt`."""
PAIR_WRITERS: dict[str, Callable[[EncodedPairs, Path], dict[str, Any]]] = {"pairs": write_pairs, "bin": write_bin_pairs}
"""Writers of pairs to verify."""
CONVERSIONS = tuple(
    (a, b)
    for sources, writers in ((FACE_SOURCES, FACE_WRITERS), (PAIR_SOURCES, PAIR_WRITERS))
    for a in sources
    for b in writers
    if a != b
)
"""Kinds that `convert` takes: from and to."""
