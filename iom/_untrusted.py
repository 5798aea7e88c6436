"""Untrusted files: paths that stay in their folder, bounds on sizes and depths, texts fit for messages."""

import contextlib
import errno
import io
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from iom.errors import DataError, IomError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

JSON_BYTES = 16 << 20
"""Usual bound of a JSON file. Python's objects take up to 25 times as much memory."""
LIST_BYTES = 256 << 20
"""Bound of JSON that lists the images of a large set."""
JSON_DEPTH = 100
"""Levels of nested objects and lists; the models of Keras, the deepest, need about 30."""

INFLATED_TIMES, INFLATED_MORE = 8, 256 << 20
"""A compressed file may hold eight times its size and 256 MiB. Weights shrink by a tenth."""
OFFENDERS_SHOWN = 3
MAX_SHOWN = 100
"""Characters of a received value that an error shows."""
MESSAGE_LENGTH = 300
"""Characters of a text from a file or another library in an error."""
_FAULTS = (
    (re.compile(r"[\x00-\x1f\x7f]"), "it holds a control character"),
    (re.compile(r"^([/\\]|[A-Za-z]:)"), "it is absolute"),
    (re.compile(r"(^|[/\\])\.\.($|[/\\])"), "it leads out with '..'"),
    (
        re.compile(r"(^|[/\\])(con|prn|aux|nul|com\d|lpt\d)(\.[^/\\]*)?($|[/\\])", re.IGNORECASE),
        "the name is reserved for a device",
    ),
)


def paths_inside(
    root: Path, names: Iterable[str], *, source: object, error: type[IomError] = DataError
) -> tuple[Path, ...]:
    """Paths `root / name` of names that the file `source` gives, none of which leaves `root`; they need not exist.

    Refused: empty names, absolute ones, `..`, drive letters, NUL and other control characters, names that Windows
    reserves for devices, and symbolic links within `root` that lead out of it. `root` itself may be a link.
    """
    top = os.path.realpath(root)
    inside: dict[str, bool] = {}

    def leaves(path: str) -> bool:
        return os.path.commonpath([top, os.path.realpath(path)]) != top

    found = []
    for name in names:
        check_name(name, source=source, error=error)
        path = root / name
        parent = str(path.parent)
        if parent not in inside:
            inside[parent] = not leaves(parent)
        if not inside[parent] or (path.is_symlink() and leaves(str(path))):
            raise error(
                f"{source}: expected a path within {root}, received {short(name)}, a symbolic link that leads out of it"
            )
        found.append(path)
    return tuple(found)


def path_inside(root: Path, name: str, *, source: object, error: type[IomError] = DataError) -> Path:
    """`paths_inside` of one name."""
    return paths_inside(root, [name], source=source, error=error)[0]


def check_name(name: object, *, source: object, error: type[IomError] = DataError) -> None:
    """The part of `paths_inside` that checks the name alone, without the disk."""
    if not isinstance(name, str) or not name or name in (".", "./"):
        reason = "no name of a file"
    else:
        reason = next((reason for pattern, reason in _FAULTS if pattern.search(name)), "")
    if reason:
        raise error(
            f"{source}: expected a relative path that stays within the folder, received {short(name)}: {reason}"
        )


def short(value: object) -> str:
    """The value as an error shows it: a long one is cut."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def read_bytes(path: Path | str, max_bytes: int) -> bytes:
    """Content of a regular file of at most `max_bytes`, else `OSError`; a device or a pipe is not opened for long."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > max_bytes:
            reason = f"expected at most {max_bytes} bytes, received {status.st_size}"
            raise OSError(errno.EFBIG, reason, str(path))
        return stream.read(status.st_size)


def read_text(path: Path) -> str:
    """Text of a file in UTF-8, with or without a byte order mark, else `DataError`."""
    with reading(path, "text in UTF-8"):
        return path.read_text(encoding="utf-8-sig")


def read_json(
    path: Path | str, *, max_bytes: int = JSON_BYTES, parse_constant: Callable[[str], Any] | None = None
) -> Any:
    """Value of a JSON file in UTF-8; raises `OSError` as `read_bytes` and `ValueError` as `parse_json`."""
    data = read_bytes(path, max_bytes)
    return parse_json(data, max_bytes=max_bytes, parse_constant=parse_constant)


def parse_json(
    text: str | bytes,
    *,
    max_bytes: int = JSON_BYTES,
    parse_constant: Callable[[str], Any] | None = None,
    unique_names: bool = False,
) -> Any:
    """Value of a JSON text (UTF-8 where it is bytes); `parse_constant` as in `json.loads`.

    No error but `ValueError` is raised: not JSON, longer than `max_bytes` (characters of a `str`), nested deeper than
    `JSON_DEPTH`, with an integer of thousands of digits, or where `unique_names` is set with a name twice in an object:
    Python takes the last of them, other programs the first.
    """
    if len(text) > max_bytes:
        raise ValueError(f"expected JSON of at most {max_bytes} bytes, received {len(text)}")
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        hook = _once_each if unique_names else None
        value = json.loads(decoded, parse_constant=parse_constant, object_pairs_hook=hook)
    except RecursionError as error:
        raise ValueError("expected JSON, received one that is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from error
    if decoded.count("[") + decoded.count("{") > JSON_DEPTH:
        _check_depth(value)
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("expected each name once in an object, received one twice")
    return found


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(JSON_DEPTH):
        below: list[Any] = []
        for each in level:
            inner = each.values() if isinstance(each, dict) else each
            below.extend(item for item in inner if isinstance(item, dict | list))
        if not below:
            return
        level = below
    raise ValueError(f"expected JSON nested at most {JSON_DEPTH} levels deep, received more")


@contextlib.contextmanager
def reading(path: object, expected: str, *, error: type[IomError] = DataError) -> Iterator[None]:
    """Turn whatever a missing or damaged file causes in its reader into one `error` of one line; ours pass."""
    try:
        yield
    except IomError:
        raise
    except OSError as fault:
        reason = f"cannot read {path}: {fault.strerror}"
        raise error(reason if fault.strerror else f"{path}: damaged or not {expected}: {one_line(fault)}") from fault
    except Exception as fault:  # readers of other formats raise nearly anything on damaged bytes
        raise error(f"{path}: damaged or not {expected}: {one_line(fault)}") from fault


def check_inflated_size(inflated: int, size: int) -> None:
    """Refuse (`ValueError`) a file of more than `INFLATED_TIMES * size + INFLATED_MORE` bytes unpacked."""
    limit = INFLATED_TIMES * size + INFLATED_MORE
    if inflated > limit:
        raise ValueError(f"expected at most {limit} bytes unpacked, received {inflated}")


def check_inflated(archive: zipfile.ZipFile) -> int:
    """Bytes of all members of a ZIP archive, by its directory, as `check_inflated_size` accepts them."""
    inflated = sum(member.file_size for member in archive.infolist())
    check_inflated_size(inflated, sum(member.compress_size for member in archive.infolist()))
    return inflated


def read_arrays(path: Path) -> "dict[str, NDArray[Any]]":
    """Arrays of an `.npz` file by name, none larger than its member; a damaged or hostile file is a `ValueError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_inflated(archive)
            members = archive.namelist()
            return {name.removesuffix(".npy"): parse_array(archive.read(name)) for name in members}
    except (OSError, ValueError):
        raise
    # zipfile, zlib and NumPy's reader of headers, a Python literal, raise several kinds.
    except Exception as error:
        raise ValueError(f"damaged: {error}") from error


def parse_array(data: bytes) -> "NDArray[Any]":
    """The array, not to be written to, of an `.npy` file of numbers or texts."""
    import numpy as np

    stream = io.BytesIO(data)
    shape, fortran, dtype = read_npy_header(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"expected the numbers of an array {shape} of {dtype}, received others")
    array = np.frombuffer(data, dtype, offset=stream.tell())
    return array.reshape(shape, order="F" if fortran else "C")


def read_npy_header(stream: IO[bytes]) -> "tuple[tuple[int, ...], bool, np.dtype[Any]]":
    """Shape, Fortran order and dtype of the `.npy` file that begins here; nothing of it is unpickled."""
    import numpy as np

    if np.lib.format.read_magic(stream) == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def one_line(text: object) -> str:
    """The text on one line, at most `MESSAGE_LENGTH` characters; an exception without text by its name.

    Examples:
        >>> one_line(ValueError(chr(10).join(["first", "second"])))
        'first second'
        >>> one_line(KeyError())
        'KeyError'
    """
    return " ".join(str(text).split())[:MESSAGE_LENGTH] or type(text).__name__


def shown(offenders: "Sequence[Any] | NDArray[Any]", separator: str = ", ") -> str:
    """The first few of some offenders."""
    names = [str(each) for each in offenders[:OFFENDERS_SHOWN]]
    return separator.join([*names, "..."] if len(offenders) > OFFENDERS_SHOWN else names)


def check_printable(names: Iterable[object]) -> None:
    """Refuse (`ValueError`) names in a file, which appear in messages, that are not printable text."""
    for name in names:
        if not isinstance(name, str) or not name.isprintable():
            raise ValueError(f"expected a printable name, received {name!r}")
