"""Writing files so that a crash leaves the old one or the new one, never half of one."""

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

# Python can only read the mask by setting it, which is safe while there is one thread: now.
_UMASK = os.umask(0o077)
os.umask(_UMASK)
TEMPORARY = ".tmp-"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`; fsynced and renamed to `path` on success.

    The temporary name keeps the suffix of `path`, since some writers choose a format by it. On an
    error the temporary file is removed and `path` is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_UMASK)  # mkstemp's own mode shuts everybody else out
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
