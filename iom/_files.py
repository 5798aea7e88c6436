"""File helpers: atomic and durable writes, journals of runs that can be continued, and listing of image folders.

One rule lists a folder of images, for every command:

- Skipped: names that begin with a dot, names that file managers, archivers and unfinished copies leave behind
  (`Thumbs.db`, `__MACOSX/`, `@eaDir/`, `~$x`, `x~`, `x.part`), and everything below such folders.
- An image is known by its suffix, in any case: see `IMAGE_SUFFIXES`.
- A link to a regular file is a file; one that leads nowhere is listed, and reading it is an error. A link to a folder
  is not followed, so that no loop and no folder outside is walked; the root may itself be a link.
- The order is that of the names, folder by folder, by code points: the same on every platform.
"""

import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import io
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from iom._untrusted import parse_array, parse_json
from iom.errors import DataError, SettingsChangedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Python can only read the mask by setting it, which is safe while there is one thread: now.
_UMASK = os.umask(0o077)
os.umask(_UMASK)
TEMPORARY = ".tmp-"
SECRET_MODE = 0o600

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".heic", ".heif")
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


@contextlib.contextmanager
def atomic_path(path: Path, *, mode: int | None = None, replace: bool = True) -> Iterator[Path]:
    """A temporary path in the folder of `path`; fsynced and renamed to `path` on success, removed on an error.

    The temporary name keeps the suffix, since some writers choose a format by it. File and folder are fsynced. The file
    never has a wider mode than `mode`, not even briefly. Without `replace`, an existing file is a `FileExistsError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_UMASK if mode is None else mode)  # mkstemp makes 0600
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)
            temporary.unlink()
        folder = os.open(path.parent, os.O_RDONLY)  # makes the new name durable
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: Path, *, folder: bool = True) -> None:
    """Check, before long work begins, that a folder (made if need be) or file can be written; leaves nothing behind."""
    try:
        if path.exists() and path.is_dir() != folder:
            kind = "folder" if path.is_dir() else "file"
            raise DataError(f"cannot write to {path}: it is a {kind}; name another output")
        place = path if folder else path.parent
        while not place.exists() and place.parent != place:
            if place.is_symlink():
                raise DataError(f"cannot write to {path}: {place} is a link that leads nowhere")
            place = place.parent
        if not place.is_dir():
            raise DataError(f"cannot write to {path}: {place} is a file; name another output")
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise DataError(f"cannot write to {path}: {error.strerror or error}") from error


def write_secret(path: Path, content: str | bytes, *, replace: bool = False) -> None:
    """Write bytes, or a text as UTF-8, atomically, with mode 0600 from the first byte.

    An existing file only with `replace`.
    """
    with atomic_path(path, mode=SECRET_MODE, replace=replace) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files of killed writers in and below `folder`, in which no other process may be writing."""
    for stale in folder.rglob(f"{TEMPORARY}*"):
        if stale.is_file():
            stale.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV; a value that is missing or `None` is an empty cell."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cached_array(path: Path, shape: tuple[int, ...], compute: "Callable[[], NDArray[Any]]") -> "NDArray[Any]":
    """The array of a cache file `.npy`, computed and written where it is missing, damaged or of another shape."""
    import numpy as np

    with contextlib.suppress(Exception):  # the header, a Python literal, fails in many ways when damaged
        if (stored := parse_array(path.read_bytes())).shape == shape:
            return stored
    array = compute()
    with atomic_path(path) as temporary:
        np.save(temporary, array, allow_pickle=False)
    return array


class Journal:
    """Finished work of a run, one JSON object a line, which the same run started again continues.

    The first line holds the settings; other ones are a `SettingsChangedError`. A last line that a crash cut off is
    dropped. One run holds a journal at a time.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._stream = path.open("a+b")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._drop_cut_line()
            self._check_settings(json.loads(json.dumps(settings)))
        except BlockingIOError as error:
            self._stream.close()
            raise DataError(f"{path}: another run is at work on it") from error
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another run hold the journal."""
        self._stream.close()

    def add(self, entry: Mapping[str, Any], *, durable: bool = False) -> int:
        """Append finished work, fsynced where it must survive a power cut; return its position."""
        position = self._stream.seek(0, os.SEEK_END)
        self._stream.write(json.dumps(entry).encode() + b"\n")
        self._stream.flush()
        if durable:
            self.sync()
        return position

    def sync(self) -> None:
        """Have all entries on the disk."""
        os.fsync(self._stream.fileno())

    def read(self, position: int) -> dict[str, Any]:
        """The entry at a position that `add` or `entries` gave."""
        self._stream.seek(position)
        return self._parsed(self._stream.readline())

    def entries(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Positions and entries in the order in which they were added, read from the file."""
        self._stream.seek(0)
        position = len(self._stream.readline())
        while line := self._stream.readline():
            yield position, self._parsed(line)
            position += len(line)
            self._stream.seek(position)

    def _drop_cut_line(self) -> None:
        end = 0
        self._stream.seek(0)
        for line in self._stream:
            if not line.endswith(b"\n"):
                self._stream.truncate(end)
            end += len(line)

    def _check_settings(self, asked: dict[str, Any]) -> None:
        self._stream.seek(0)
        first = self._stream.readline()
        if not first:
            self.add({"settings": asked})
            return
        begun = self._parsed(first).get("settings")
        if not isinstance(begun, dict):
            raise DataError(
                f"{self.path}: expected a journal of this version of iom, received another file or that of an older "
                "version; use another output, or remove it to begin anew"
            )
        if changed := sorted(name for name in asked.keys() | begun if asked.get(name, ...) != begun.get(name, ...)):
            raise SettingsChangedError(
                f"{self.path}: begun with other settings ({', '.join(changed)}); use the same, or another output",
                path=self.path,
                changed=tuple(changed),
            )

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            entry = parse_json(line)
        except ValueError as error:
            raise self.damaged() from error
        if not isinstance(entry, dict):
            raise self.damaged()
        return entry

    def damaged(self) -> DataError:
        """The error for an entry that cannot be used."""
        return DataError(f"{self.path}: damaged; remove it to begin anew")


class Unusable(NamedTuple):
    """Something that is not read: its path within the folder, a status, and why."""

    name: str
    status: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Listing:
    """Images of a folder as paths within it, in order; unusable entries with their kind; number of skipped names.

    Paths have `/`; a name that is not UTF-8 holds surrogates, as Python's file functions give and take it. Kinds:
    `wrong_type`, `linked_folder`, `unreadable` (folder).
    """

    images: tuple[str, ...]
    unusable: tuple[Unusable, ...]
    hidden: int

    @property
    def subjects(self) -> dict[str, list[str]]:
        """Names within the folder of each subject's images: those at `<subject>/<image>`."""
        images = (name for name in self.images if name.count("/") == 1)  # in the order of their folders
        return {subject: list(own) for subject, own in itertools.groupby(images, lambda name: name.split("/")[0])}

    @property
    def linked_folders(self) -> int:
        """Number of links to folders, which are not followed."""
        return sum(each.status == "linked_folder" for each in self.unusable)


def list_images(root: Path, *, depth: int | None = None) -> Listing:
    """Images at and below `root`, `depth` folders deep (1: its own files, 2: also `<subject>/<image>`, `None`: all)."""
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


def data_folder() -> Path:
    """The folder of prepared data, of docs/reproduce.md: `$IOM_DATA`, or `shared/data` beside a checkout."""
    return Path(os.environ.get("IOM_DATA") or Path(__file__).parents[2] / "shared" / "data")


def data_path(text: str) -> Path:
    """The path that a setting names, where `$IOM_DATA` at its start is the folder of prepared data.

    Raises:
        DataError: It is named and not there.
    """
    first, *inside = Path(text).parts or (text,)
    if first != "$IOM_DATA":
        return Path(text)
    check_data_folder(data_folder())
    return data_folder().joinpath(*inside)


def check_data_folder(folder: Path) -> None:
    """Raise `DataError` where there is no folder of prepared data."""
    if not folder.is_dir():
        raise DataError(
            f"no folder {folder}: expected prepared data (lfw_112x112, fiw_112x112, lists ...); "
            "set IOM_DATA to where they are, docs/reproduce.md says how they are made"
        )


def check_folder(root: Path) -> None:
    """Raise `DataError` where `root` is no folder, without looking into it."""
    if root.is_file():
        raise DataError(f"{root} is a file: expected a folder of images; put it into a folder of its own and give that")
    if not root.is_dir():
        raise DataError(f"no folder {root}: expected a folder of images")


def list_subjects(root: Path) -> Listing:
    """Images of a folder of subjects, `<root>/<subject>/<image>`, and nothing that lies elsewhere."""
    listing = list_images(root, depth=2)
    images = tuple(name for name in listing.images if "/" in name)
    return dataclasses.replace(listing, images=images)


def list_folders(root: Path) -> list[Path]:
    """Folders in `root`, under the same rule and in the same order."""
    try:
        found = [place for place in root.iterdir() if place.is_dir() and not place.is_symlink()]
    except OSError as error:
        raise DataError(f"{root}: cannot read the folder: {error.strerror}") from error
    return sorted(place for place in found if not is_skipped(place.name))


def is_skipped(name: str) -> bool:
    """Whether a file or folder of this name is hidden, temporary or made by a file manager."""
    return name.startswith((".", "~$")) or name.lower() in LEFT_BEHIND or name.lower().endswith(UNFINISHED)


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
        pass  # a link to itself: opening it is an error
    if Path(entry.name).suffix.lower() not in IMAGE_SUFFIXES:
        kinds = ", ".join(IMAGE_SUFFIXES)
        return Unusable(name, "wrong_type", f"expected a name that ends in {kinds}")
    return None
