"""Where labelled images come from, all alike: names `<subject>/<file>` and a way to read one."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from iom._files import list_subjects
from iom.data.formats.record_io import read_record_file
from iom.data.formats.shard_store import open_shards
from iom.errors import DataError

SIGNATURES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png"}


@dataclasses.dataclass(frozen=True, eq=False)
class FaceSource:
    """Labelled images.

    Attributes:
        root: Folder or file.
        paths: `<subject>/<file>`, `(N,)`, sorted by subject.
        read: Encoded image of a row.
        notes: What a reader of the manifest should know.
    """

    root: Path
    paths: tuple[str, ...]
    read: Callable[[int], bytes]
    notes: tuple[str, ...] = ()

    @property
    def subjects(self) -> list[str]:
        """Subject names; a label is an index into them."""
        return sorted({path.split("/", 1)[0] for path in self.paths})


def from_folder(root: Path) -> FaceSource:
    """A folder `<root>/<subject>/<image>`."""
    listing = list_subjects(root)
    paths, linked = listing.images, listing.linked_folders
    notes = (f"{linked} links to folders are not followed",) if linked else ()
    return FaceSource(root, paths, lambda row: (root / paths[row]).read_bytes(), notes)


def from_record_io(root: Path) -> FaceSource:
    """`train.rec` with `train.idx` beside it, or the folder they lie in."""
    path = root / "train.rec" if root.is_dir() else root
    records = read_record_file(path)
    names = []
    for row, (key, label) in enumerate(zip(records.keys, records.labels, strict=True)):
        names.append(f"{label:08d}/{key:09d}.{_suffix(records.read(row), f'{path}: record {key}')}")
    notes = () if records.cross_checked else ("no identity ranges: labels could not be checked",)
    order = sorted(range(len(names)), key=names.__getitem__)
    return FaceSource(path, tuple(names[row] for row in order), lambda row: records.read(order[row]), notes)


def from_shards(root: Path) -> FaceSource:
    """A folder of our TFRecord shards."""
    store = open_shards(root, verify=True)
    paths = tuple(store.paths)
    return FaceSource(root, paths, lambda row: store.file(paths[row]).read_bytes())


def _suffix(data: bytes, place: str) -> str:
    for signature, suffix in SIGNATURES.items():
        if data.startswith(signature):
            return suffix
    raise DataError(f"{place}: expected a JPEG or PNG, found {data[:4]!r}")


SOURCES: dict[str, Callable[[Path], FaceSource]] = {
    "folder": from_folder,
    "recordio": from_record_io,
    "tfrecord": from_shards,
}
"""Kinds of labelled images."""
