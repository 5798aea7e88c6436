"""Images in TFRecord shards, found by offset: the layout, and random access without TensorFlow.

`<root>/manifest.json` names the subjects and the shards with size, count and SHA-256; `00000.tsv` beside
`00000.tfrecord` says where each image lies in it: `offset length label sha256 <subject>/<file>`.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iom._files import sha256_of
from iom._untrusted import check_name, path_inside, reading
from iom.data.table_files import read_object
from iom.errors import DataError

MANIFEST = "manifest.json"
FORMAT = "iom-shards-1"


@dataclasses.dataclass(frozen=True)
class ShardRow:
    """An image, `length` bytes from `offset` in a shard; it is read and named as the `Path` of a file is."""

    shard: Path
    offset: int
    length: int
    label: int
    sha256: str
    path: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.path}"

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    def read_bytes(self) -> bytes:
        shard = _descriptor(self.shard)  # held: one that the cache has dropped is closed after its last use
        data = os.pread(shard.number, self.length, self.offset)
        if len(data) != self.length:
            raise OSError(f"{self.shard} is shorter than its index says")
        return data


class _Descriptor:
    """An open file that is closed with its last use."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


_descriptor = functools.lru_cache(maxsize=512)(_Descriptor)


def is_shards(root: Path) -> bool:
    """Whether a folder is one of shards."""
    return (root / MANIFEST).is_file() and not (root / MANIFEST).is_symlink()


def open_shards(root: Path, *, verify: bool = False) -> dict[str, ShardRow]:
    """Images of a folder of shards by sorted `<subject>/<file>`; sizes are always checked, `verify` reads all bytes."""
    manifest = read_manifest(root)
    rows: dict[str, ShardRow] = {}
    try:
        subjects = tuple(str(name) for name in manifest["subjects"])
        for shard in manifest["shards"]:
            path = path_inside(root, shard["file"], source=root / MANIFEST)
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise DataError(f"{path}: expected {shard['bytes']} bytes; missing or truncated")
            if verify and sha256_of(path) != shard["sha256"]:
                raise DataError(f"{path}: not as the manifest says; damaged, convert again")
            for row in read_sidecar(root, shard["file"], str(shard["index_sha256"])):
                if row.offset + row.length > shard["bytes"]:
                    raise DataError(f"{row.shard.with_suffix('.tsv')}: places outside of its shard")
                if row.path in rows or subjects[row.label] != row.path.split("/", 1)[0]:
                    raise DataError(f"{root}: '{row.path}' contradicts the manifest")
                rows[row.path] = row
        expected = int(manifest["images"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{root / MANIFEST}: damaged ({error!r}); convert again") from error
    if len(rows) != expected or list(subjects) != sorted(set(subjects)):
        raise DataError(f"{root}: expected {expected} images, the shards list {len(rows)}")
    return dict(sorted(rows.items()))


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest of a finished conversion."""
    path = root / MANIFEST
    manifest = read_object(path, "an unfinished conversion? convert again")
    if manifest.get("format") != FORMAT:
        raise DataError(f"{path}: expected a manifest of format {FORMAT}")
    return manifest


def read_sidecar(root: Path, name: str, sha256: str | None = None) -> list[ShardRow]:
    """Places of the images of a shard."""
    shard = path_inside(root, name, source=root / MANIFEST)
    path = shard.with_suffix(".tsv")
    with reading(path, "five columns; convert again"):
        data = path.read_bytes()
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise DataError(f"{path}: not as the manifest says; damaged, convert again")
        lines = [line.split("\t") for line in data.decode().split("\n") if line]
        rows = [ShardRow(shard, int(a), int(b), int(c), sha, name) for a, b, c, sha, name in lines]
    for row in rows:
        check_name(row.path, source=path)
        if row.path.count("/") != 1 or min(row.offset, row.length, row.label) < 0:
            raise DataError(
                f"{path}: expected the place of <subject>/<image>, received {row.path[:80]!r} at "
                f"{row.offset}; damaged, convert again"
            )
    return rows


def read_records(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Name, label and encoded image of each record of a shard, CRCs checked."""
    import tensorflow as tf

    with reading(path, "whole TFRecords of tf.train.Example"):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            yield (
                feature["image/filename"].bytes_list.value[0].decode(),
                int(feature["image/source_id"].int64_list.value[0]),
                feature["image/encoded"].bytes_list.value[0],
            )
