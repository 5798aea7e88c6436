"""What is to be enrolled: one row an image, where its bytes lie and whose face it is."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from iom._files import list_subjects
from iom._registry import lookup
from iom._untrusted import path_inside
from iom.data.formats.shards import open_shards
from iom.errors import DataError

WHOLE = -1


@dataclasses.dataclass(frozen=True)
class ImageRow:
    """An image of a subject.

    Attributes:
        subject_id: Whose.
        name: For the report.
        file: Where its bytes lie; every worker must be able to read it.
        offset: Of the first.
        length: Their number; `WHOLE` is up to the end of the file.
    """

    subject_id: str
    name: str
    file: str
    offset: int = 0
    length: int = WHOLE


def from_folder(place: Path) -> list[ImageRow]:
    """A folder `<place>/<subject>/<image>`."""
    root = place.absolute()
    images = list_subjects(place).images
    return [ImageRow(name.split("/", 1)[0], name, str(root / name)) for name in images]


def from_list(place: Path) -> list[ImageRow]:
    """A text file with lines `<image><tab><subject>`; paths start at its folder and stay in it."""
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list of images {place}: {error}") from error
    root, rows = place.absolute().parent, []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, tab, subject = line.partition("\t")
        if not tab or not name or not subject or "\t" in subject:
            raise DataError(f"{place}, line {number}: expected <image><tab><subject>")
        file = path_inside(root, name, source=f"{place}, line {number}")
        rows.append(ImageRow(subject, name, str(file)))
    return sorted(rows, key=lambda row: (row.subject_id, row.name))


def from_shards(place: Path) -> list[ImageRow]:
    """A folder of TFRecord shards, as `iom convert` writes them."""
    store, rows = open_shards(place), []
    for name in store.paths:
        row = store.file(name).row
        file = str(place.absolute() / row.shard)
        rows.append(ImageRow(name.split("/", 1)[0], name, file, row.offset, row.length))
    return sorted(rows, key=lambda row: (row.subject_id, row.name))


SOURCES: dict[str, Callable[[Path], list[ImageRow]]] = {
    "folder": from_folder,
    "list": from_list,
    "tfrecord": from_shards,
}
"""Name of a kind of source to its reader; rows of one subject stand together."""


def read_rows(kind: str, place: Path) -> list[ImageRow]:
    """Rows of a source.

    Raises:
        ConfigError: No such kind.
        DataError: It cannot be read, or holds no image.
    """
    rows = lookup(SOURCES, kind, "source")(place)
    if not rows:
        raise DataError(f"{place}: expected images, found none")
    return rows
