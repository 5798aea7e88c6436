"""Strict readers of the lists and descriptions in which data sets are published."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from iom._files import check_folder
from iom._untrusted import LIST_BYTES, paths_inside, read_json, read_text, shown
from iom.errors import DataError

T = TypeVar("T")


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines of a text file that are not empty."""
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise DataError(f"{path}: expected a list, received an empty file")
    return lines


def read_rows(
    path: Path, form: str, parse: Callable[[list[str]], T], separator: str | None = None, *, header: bool = False
) -> list[T]:
    """What `parse` makes of the fields of each line; its `ValueError` or `LookupError` becomes a `DataError`.

    The error names the line and its `form`. With `header`, a first line that does not begin with a number is skipped.
    """
    rows: list[T] = []
    for number, line in read_lines(path):
        fields = [field.strip() for field in line.split(separator)]
        if header and not rows and not fields[0].lstrip("-").isdigit():
            header = False
            continue
        try:
            rows.append(parse(fields))
        except (ValueError, LookupError) as error:
            raise DataError(f"{path}, line {number}: expected {form}, received '{line[:80]}'") from error
    return rows


def read_object(path: Path, hint: str) -> dict[str, Any]:
    """Members of a JSON object; the error ends with the hint."""
    try:
        content = read_json(path, max_bytes=LIST_BYTES)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; {hint}") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}; {hint}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, received another value; {hint}")
    return content


def truth(field: str) -> bool:
    """1 or 0, else `ValueError`."""
    if field not in ("0", "1"):
        raise ValueError(field)
    return field == "1"


def present(names: Sequence[str], root: Path, source: Path) -> tuple[Path, ...]:
    """The files of `names` below `root`; the error has the first missing ones and their count."""
    check_folder(root)
    files = paths_inside(root, names, source=source)
    missing = [name for name, file in zip(names, files, strict=True) if not file.is_file()]
    if missing:
        raise DataError(
            f"{source}: {len(missing)} of {len(names)} images are not in {root}: {shown(missing)}; "
            "is this list for another folder?"
        )
    return files
