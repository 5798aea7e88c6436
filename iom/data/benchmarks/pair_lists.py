"""Text lists of image pairs: LFW's format, and plain `left right same` lines."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from iom._untrusted import check_name
from iom.errors import DataError

_TRUTH = {"1": True, "true": True, "0": False, "false": False}


@dataclasses.dataclass(frozen=True)
class ListedPair:
    """One line of a list: two image paths relative to the folder, and whether they are mated."""

    left: str
    right: str
    same: bool


def parse_pair_list(path: Path) -> tuple[list[ListedPair], int | None]:
    """Read a pair list.

    LFW's format: a header `folds pairs` (or `pairs` alone), then for each fold `pairs` lines
    `name n1 n2` (mated) and `pairs` lines `name1 n1 name2 n2`; image n of a subject is
    `<name>/<name>_%04d.jpg`. Any other list: lines `left right same` with two paths relative to the
    folder and 1 or 0. Fields are separated by tabs, or by blanks where a line holds no tab; empty
    lines and lines that begin with `#` are skipped.

    Returns:
        The pairs in order, and the number of folds; `None` where the list does not say.

    Raises:
        DataError: Unreadable, empty, a malformed line (named by its number), or not as many pairs
            as the header promises.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read pair list {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected a pair list in UTF-8, received other bytes") from error
    numbered = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not lines:
        raise DataError(f"{path}: expected a pair list, received an empty file")
    header = _fields(lines[0][1])
    if len(header) <= 2 and all(_is_number(field) for field in header):
        return _parse_lfw(path, [int(field) for field in header], lines[1:])
    return [_plain_pair(path, number, line) for number, line in lines], None


def _parse_lfw(
    path: Path, header: Sequence[int], lines: Sequence[tuple[int, str]]
) -> tuple[list[ListedPair], int | None]:
    folds, each = (1, header[0]) if len(header) == 1 else header
    pairs = [_lfw_pair(path, number, line) for number, line in lines]
    if folds < 1 or each < 1 or len(pairs) != 2 * folds * each:
        raise DataError(
            f"{path}: the header promises {folds} x {each} mated and as many non-mated pairs, found {len(pairs)} pairs"
        )
    for fold in range(folds):
        mated = sum(pair.same for pair in pairs[2 * each * fold : 2 * each * (fold + 1)])
        if mated != each:
            raise DataError(f"{path}: fold {fold + 1}: expected {each} mated pairs, found {mated}")
    return pairs, folds if len(header) == 2 else None


def _lfw_pair(path: Path, number: int, line: str) -> ListedPair:
    fields = _fields(line)
    if len(fields) == 3:
        fields = [fields[0], fields[1], fields[0], fields[2]]
    elif len(fields) == 4 and fields[0] == fields[2]:
        raise DataError(f"{path}, line {number}: a non-mated pair names {fields[0]} twice")
    # Anything but a plain name could lead out of the folder.
    valid = (
        len(fields) == 4
        and all(_is_number(field) for field in fields[1::2])
        and not any("/" in name or "\\" in name or name == ".." for name in fields[0::2])
    )
    if not valid:
        raise DataError(f"{path}, line {number}: expected 'name n1 n2' or 'name1 n1 name2 n2', received '{line[:80]}'")
    left, right = (f"{n}/{n}_{int(i):04d}.jpg" for n, i in (fields[:2], fields[2:]))
    return _checked(path, number, ListedPair(left, right, fields[0] == fields[2]))


def _plain_pair(path: Path, number: int, line: str) -> ListedPair:
    fields = _fields(line)
    if len(fields) != 3 or fields[2].lower() not in _TRUTH:
        raise DataError(
            f"{path}, line {number}: expected 'left right same' with same 1 or 0 (or LFW's list, "
            f"whose first line is 'folds pairs'), received '{line[:80]}'"
        )
    for name in fields[:2]:
        check_name(name, source=f"{path}, line {number}")
    left, right = (Path(name).as_posix() for name in fields[:2])
    return _checked(path, number, ListedPair(left, right, _TRUTH[fields[2].lower()]))


def _checked(path: Path, number: int, pair: ListedPair) -> ListedPair:
    if pair.left == pair.right:
        raise DataError(f"{path}, line {number}: {pair.left} is paired with itself")
    return pair


def _is_number(field: str) -> bool:
    return field.isdecimal() and len(field) <= 9


def _fields(line: str) -> list[str]:
    if "\t" in line:
        return [field.strip() for field in line.split("\t")]
    return line.split()
