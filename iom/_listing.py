"""Listing of image folders: one rule for every command that reads a folder.

- Skipped: names that begin with a dot (so `._x.jpg`, `.tmp-x.jpg`, `.thumbs/`), names that file
  managers, archivers and unfinished copies leave behind (`Thumbs.db`, `__MACOSX/`, `@eaDir/`,
  `~$x`, `x~`, `x.part`), and everything below such folders.
- An image is known by its suffix, in any case: see `IMAGE_SUFFIXES`.
- A link to a regular file is a file. One that leads nowhere is a file that cannot be read, and
  whoever reads it says so. A link to a folder is not followed, so that no loop and no folder
  outside is walked; the folder that is asked for may itself be a link.
- The order is that of the names, folder by folder, by code points: the same on every platform.
"""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

from iom.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
LEFT_BEHIND = frozenset(
    {
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "__macosx",
        "@eadir",
        "$recycle.bin",
        "system volume information",
        "lost+found",
    }
)
"""Names in lower case that operating systems and archivers make."""
UNFINISHED = ("~", ".tmp", ".part", ".partial", ".crdownload", ".download", ".swp")
"""Ends of the names of copies and edits under way."""


class Unusable(NamedTuple):
    """Something that is not read: its path within the folder, a status, and why."""

    name: str
    status: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Listing:
    """Contents of a folder, each in order.

    Attributes:
        images: Paths within the folder, with `/`; a name that is not UTF-8 holds surrogates, as
            Python's file functions give and take it.
        unusable: Files of other kinds (`wrong_type`), links to folders (`linked_folder`), closed
            folders (`unreadable`).
        hidden: Number of files and folders that were skipped by their name.
    """

    images: tuple[str, ...]
    unusable: tuple[Unusable, ...]
    hidden: int

    @property
    def subjects(self) -> dict[str, list[str]]:
        """Names within the folder of each subject's images: those at `<subject>/<image>`."""
        found: dict[str, list[str]] = {}
        for name in self.images:
            if name.count("/") == 1:
                found.setdefault(name.split("/")[0], []).append(name)
        return found

    @property
    def linked_folders(self) -> int:
        """Number of links to folders, which are not followed."""
        return sum(each.status == "linked_folder" for each in self.unusable)


def list_images(root: Path, *, depth: int | None = None) -> Listing:
    """Images at and below `root`.

    Args:
        root: The folder.
        depth: How many folders deep to look; 1 takes the files of `root` itself, 2 those of
            `<subject>/<image>` too, `None` all.

    Raises:
        DataError: No such folder, or it cannot be read.
    """
    check_folder(root)
    images: list[str] = []
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
            if is_skipped(entry.name):
                hidden += 1
            elif entry.is_dir(follow_symlinks=False):
                if depth is None or name.count("/") + 1 < depth:
                    waiting.append(name)
            elif (reason := _unusable(entry, name)) is None:
                images.append(name)
            else:
                unusable.append(reason)
    return Listing(
        tuple(sorted(images, key=_order)), tuple(sorted(unusable, key=lambda each: _order(each.name))), hidden
    )


def check_folder(root: Path) -> None:
    """Raise `DataError` where `root` is no folder, without looking into it."""
    if root.is_file():
        raise DataError(f"{root} is a file: expected a folder of images; put it into a folder of its own and give that")
    if not root.is_dir():
        raise DataError(f"no folder {root}: expected a folder of images")


def list_subjects(root: Path) -> Listing:
    """Images of a folder of subjects, `<root>/<subject>/<image>`, and nothing that lies elsewhere.

    Raises:
        DataError: No such folder, or it cannot be read.
    """
    listing = list_images(root, depth=2)
    images = tuple(name for name in listing.images if "/" in name)
    return dataclasses.replace(listing, images=images)


def list_folders(root: Path) -> list[Path]:
    """Folders in `root`, under the same rule and in the same order.

    Raises:
        DataError: No such folder, or it cannot be read.
    """
    try:
        with os.scandir(root) as entries:
            found = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise DataError(f"{root}: cannot read the folder: {error.strerror}") from error
    return [root / name for name in sorted(found) if not is_skipped(name)]


def is_skipped(name: str) -> bool:
    """Whether a file or folder of this name is hidden, temporary or made by a file manager."""
    return name.startswith((".", "~$")) or name.lower() in LEFT_BEHIND or name.lower().endswith(UNFINISHED)


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return not is_skipped(name) and Path(name).suffix.lower() in IMAGE_SUFFIXES


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


def _order(name: str) -> list[str]:
    return name.split("/")


def _unusable(entry: os.DirEntry[str], name: str) -> Unusable | None:
    try:
        if entry.is_dir():
            return Unusable(name, "linked_folder", "links to folders are not followed")
        if not entry.is_file() and Path(entry.path).exists():
            return Unusable(name, "wrong_type", "no regular file")
    except OSError:
        pass  # a link to itself: whoever opens it is told
    if Path(entry.name).suffix.lower() not in IMAGE_SUFFIXES:
        kinds = ", ".join(IMAGE_SUFFIXES)
        return Unusable(name, "wrong_type", f"expected a name that ends in {kinds}")
    return None
