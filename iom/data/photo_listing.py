"""What lies in a folder of photographs: everything that has a name is a photograph or a reason."""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

from iom.data.photographs import SUFFIXES
from iom.errors import DataError


class Unusable(NamedTuple):
    """Something that is not read: its path within the folder, a status, and why."""

    name: str
    status: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Listing:
    """Contents of a folder, each sorted by the bytes of its path.

    Attributes:
        photos: Paths within the folder, with `/`; a name that is not UTF-8 holds surrogates, as
            Python's file functions give and take it.
        unusable: Files of other kinds, links that lead nowhere or to folders, closed folders.
        hidden: Number of files and folders whose name starts with a dot; they are left alone.
    """

    photos: tuple[str, ...]
    unusable: tuple[Unusable, ...]
    hidden: int


def list_photos(root: Path) -> Listing:
    """Photographs at and below `root`, by their suffix; links to folders are not followed.

    Raises:
        DataError: No such folder, or it cannot be read.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}: expected the photographs")
    photos: list[str] = []
    unusable: list[Unusable] = []
    hidden = 0
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                found = list(entries)
        except OSError as error:
            if not folder:
                raise DataError(f"{root}: cannot read the folder: {error.strerror}") from error
            unusable.append(Unusable(folder, "unreadable", f"folder: {error.strerror}"))
            continue
        for entry in found:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                hidden += 1
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(name)
            else:
                reason = _unusable(entry, name)
                if reason is None:
                    photos.append(name)
                else:
                    unusable.append(reason)
    return Listing(
        tuple(sorted(photos, key=os.fsencode)),
        tuple(sorted(unusable, key=lambda each: os.fsencode(each.name))),
        hidden,
    )


def text_of(name: str) -> tuple[str, bytes | None]:
    """A path as text that can be shown and stored, and its bytes where the text is not exact."""
    raw = os.fsencode(name)
    try:
        return raw.decode("utf-8"), None
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace"), raw


def name_of(text: str, raw: bytes | None) -> str:
    """The path of `text_of`."""
    return text if raw is None else os.fsdecode(raw)


def _unusable(entry: os.DirEntry[str], name: str) -> Unusable | None:
    try:
        if entry.is_symlink() and entry.is_dir():
            return Unusable(name, "linked_folder", "links to folders are not followed")
        if not entry.is_file():
            broken = entry.is_symlink() and not Path(entry.path).exists()
            if broken:
                return Unusable(name, "unreadable", "a link that leads nowhere")
            return Unusable(name, "wrong_type", "no regular file")
    except OSError as error:  # a link to itself
        return Unusable(name, "unreadable", str(error.strerror or error))
    suffix = Path(entry.name).suffix
    if suffix.lower() not in SUFFIXES:
        return Unusable(name, "wrong_type", f"expected a name that ends in {', '.join(SUFFIXES)}")
    return None
