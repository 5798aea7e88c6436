"""Atomic and durable writes: a crash leaves the old file or the new one, never half of one."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import DataError

# Python can only read the mask by setting it, which is safe while there is one thread: now.
_UMASK = os.umask(0o077)
os.umask(_UMASK)
TEMPORARY = ".tmp-"


SECRET_MODE = 0o600


@contextlib.contextmanager
def atomic_path(path: Path, *, mode: int | None = None, replace: bool = True) -> Iterator[Path]:
    """A temporary path in the folder of `path`; fsynced and renamed to `path` on success.

    The temporary name keeps the suffix of `path`, since some writers choose a format by it. On an
    error the temporary file is removed and `path` is left as it was. File and folder are fsynced,
    so that what was written is there after a power cut.

    Args:
        path: The file to write.
        mode: Of the file, which never has a wider one, not even for a moment; `None` takes the
            usual mode of new files.
        replace: Write over a file that is there; else `FileExistsError` is raised.
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
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: Path, *, folder: bool = True) -> None:
    """See that an output can be written, before hours are spent on it; nothing is left of the try.

    Args:
        path: A folder to write into, which is made if need be; or a file.
        folder: Which of the two.

    Raises:
        DataError: It cannot be made or written to, or is of the other kind.
    """
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


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_secret(path: Path, text: str, *, replace: bool = False) -> None:
    """Write `text` as UTF-8, atomically, with mode 0600 from the first byte.

    Raises:
        FileExistsError: The file is there and may not be replaced.
    """
    with atomic_path(path, mode=SECRET_MODE, replace=replace) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_temporary_files(folder: Path) -> None:
    """Remove what writers that were killed left in `folder` and below it.

    Only where nobody else is writing: a command that continues a run of its own.
    """
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


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write one array as `.npy`, atomically."""
    with atomic_path(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def cached_array(path: Path, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """The array of a cache file, or `None` where it is missing, damaged or of another shape.

    Only for what can be computed again: a damaged cache costs time, nothing else.
    """
    try:
        with path.open("rb") as stream:  # NumPy leaves a damaged file open when it opens it itself
            array = np.load(stream, allow_pickle=False)
    except Exception:  # the header, a Python literal, fails in many ways when damaged
        return None
    return array if array.shape == shape else None
