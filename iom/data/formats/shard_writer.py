"""Labelled images into TFRecord shards: in parallel, resumable, read again when finished.

A record is a `tf.train.Example` with `image/encoded`, `image/filename` and `image/source_id` (the
label), which is what arcface-tf2 reads, and `image/subject`. TFRecord guards it with CRC-32C.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tensorflow as tf
from tqdm import tqdm

from iom._files import atomic_path, remove_temporary_files, sha256_of, write_json, write_text
from iom._untrusted import read_json
from iom.data.formats.face_sources import FaceSource
from iom.data.formats.shards import FORMAT, MANIFEST, ShardRow, read_sidecar
from iom.data.images import decode_image
from iom.errors import DataError

PLAN = ".conversion.json"
RECORD_HEAD = 12
RECORD_TAIL = 4


def write_shards(
    source: FaceSource,
    root: Path,
    *,
    size: int = 112,
    per_shard: int = 4096,
    workers: int = 2,
    skip_damaged: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Convert; started again it keeps the shards that are finished.

    Returns:
        The manifest, also in `<root>/manifest.json`.

    Raises:
        DataError: A bad image (unless `skip_damaged`), another conversion in `root`, or a shard
            that does not read back as it was written.
    """
    root.mkdir(parents=True, exist_ok=True)
    subjects = source.subjects
    label_of = {name: label for label, name in enumerate(subjects)}
    begin_or_resume(root, source, {"to": "tfrecord", "size": size, "per_shard": per_shard})
    parts = [
        range(start, min(start + per_shard, len(source.paths))) for start in range(0, len(source.paths), per_shard)
    ]

    def write(number: int) -> dict[str, Any]:
        path = root / f"{number:05d}.tfrecord"
        note = path.with_suffix(".json")
        if note.is_file():
            shard = _finished(path, note)
            if shard is not None:
                return shard
        rows, skipped = _write_shard(source, parts[number], path, label_of, size, skip_damaged)
        _verify(path, rows)
        sidecar = path.with_suffix(".tsv")
        lines = (f"{r.offset}\t{r.length}\t{r.label}\t{r.sha256}\t{r.path}\n" for r in rows)
        write_text(sidecar, "".join(lines))
        shard = {
            "file": path.name,
            "images": len(rows),
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
            "index_sha256": sha256_of(sidecar),
            "skipped": skipped,
        }
        write_json(note, shard)
        return shard

    with ThreadPoolExecutor(max_workers=workers) as pool:
        results = pool.map(write, range(len(parts)))
        bar = tqdm(results, total=len(parts), desc="shards", unit="shard", disable=not progress)
        shards = list(bar)
    skipped = [text for shard in shards for text in shard["skipped"]]
    manifest = {
        "format": FORMAT,
        "source": source.root.name,
        "notes": list(source.notes),
        "size": size,
        "images": sum(shard["images"] for shard in shards),
        "skipped": skipped,
        "subjects": subjects,
        "shards": [{k: v for k, v in shard.items() if k != "skipped"} for shard in shards],
    }
    write_json(root / MANIFEST, manifest)
    return manifest


def begin_or_resume(root: Path, source: FaceSource, settings: dict[str, Any]) -> None:
    """Note in `root` what is converted how; refuse to go on with something else.

    Raises:
        DataError: Other images or settings, or a folder that holds something else.
    """
    names = hashlib.sha256("\n".join(source.paths).encode()).hexdigest()
    stat = source.root.stat()
    changed = None if source.root.is_dir() else [stat.st_size, stat.st_mtime_ns]
    plan = settings | {"source": source.root.name, "names_sha256": names, "changed": changed}
    path = root / PLAN
    remove_temporary_files(root)
    if not path.is_file():
        if any(root.iterdir()):
            raise DataError(f"{root}: expected a new or empty folder, or a conversion to go on with")
        write_json(path, plan)
        return
    try:
        begun = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged; remove {root} and begin anew") from error
    if begun != plan:
        raise DataError(f"{root}: begun with other images or settings; choose a new folder")


def _finished(path: Path, note: Path) -> dict[str, Any] | None:
    """A shard that an earlier run finished, if it is still whole."""
    try:
        shard: dict[str, Any] = read_json(note)
        if sha256_of(path) != shard["sha256"]:
            return None
        read_sidecar(path.parent, path.name, shard["index_sha256"])
    except (OSError, ValueError, KeyError, DataError):
        return None
    return shard


def _write_shard(
    source: FaceSource, part: range, path: Path, label_of: dict[str, int], size: int, skip_damaged: bool
) -> tuple[list[ShardRow], list[str]]:
    rows: list[ShardRow] = []
    skipped: list[str] = []
    place = 0
    with atomic_path(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for index in part:
            name = source.paths[index]
            try:
                data = source.read(index)
                decode_image(data, f"{source.root}: {name}", size=size)
            except (DataError, OSError) as error:
                if not skip_damaged:
                    raise DataError(f"{error}; --skip-damaged leaves such images out") from error
                skipped.append(str(error))
                continue
            subject = name.split("/", 1)[0]
            record = _example(data, name, subject, label_of[subject])
            offset = place + RECORD_HEAD + record.index(data)
            digest = hashlib.sha256(data).hexdigest()
            rows.append(ShardRow(path.name, offset, len(data), label_of[subject], digest, name))
            writer.write(record)
            place += RECORD_HEAD + len(record) + RECORD_TAIL
    return rows, skipped


def _example(data: bytes, name: str, subject: str, label: int) -> bytes:
    def text(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    number = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    features = {
        "image/encoded": text(data),
        "image/filename": text(name.encode()),
        "image/source_id": number,
        "image/subject": text(subject.encode()),
    }
    message = tf.train.Example(features=tf.train.Features(feature=features))
    return bytes(message.SerializeToString(deterministic=True))


def _verify(path: Path, rows: list[ShardRow]) -> None:
    """Read the records (with their CRCs) and the index again; both must hold what was written."""
    records = list(read_records(path))
    with path.open("rb") as stream:
        for (name, label, data), row in zip(records, rows, strict=True):
            stream.seek(row.offset)
            same = stream.read(row.length) == data
            digest = hashlib.sha256(data).hexdigest()
            if not same or (name, label, digest) != (row.path, row.label, row.sha256):
                raise DataError(f"{path}: '{row.path}' does not read back as written; full disk?")


def read_records(path: Path) -> Any:
    """(name, label, encoded image) of each record of a shard, CRCs checked.

    Raises:
        DataError: A damaged or truncated shard, or a record of another kind.
    """
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            yield (
                feature["image/filename"].bytes_list.value[0].decode(),
                int(feature["image/source_id"].int64_list.value[0]),
                feature["image/encoded"].bytes_list.value[0],
            )
    except (tf.errors.OpError, ValueError, IndexError) as error:
        raise DataError(f"{path}: damaged or truncated TFRecord ({type(error).__name__})") from error
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # protobuf's, which has no public place
            raise
        raise DataError(f"{path}: a record is no tf.train.Example") from error
