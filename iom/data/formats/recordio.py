"""Reader of MXNet's RecordIO (`train.rec`, `train.idx`, `property`), without MXNet.

A part is `magic, flags and length, content, padding to 4 bytes`; a record whose content holds the magic number at a
multiple of 4 is written as several parts without it. The content is a header (flag, label, two ids), `flag` more
labels, and the encoded image. InsightFace's record 0 holds the range of the identity records, and each of those the
range of its images.
"""

import contextlib
import dataclasses
import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom._untrusted import reading
from iom.errors import DataError

MAGIC = struct.pack("<I", 0xCED7230A)
PART = struct.Struct("<II")
HEADER = struct.Struct("<IfQQ")
LENGTH_BITS = 29
WHOLE, FIRST, MIDDLE, LAST = range(4)
MAX_LABEL = 1 << 24
"""Whole numbers above it have no exact float32."""


@dataclasses.dataclass(frozen=True, eq=False)
class RecordFile:
    """The images of a RecordIO file: key, offset of the record and label of each, `(N,)`.

    `cross_checked`: identity ranges confirm the labels.
    """

    path: Path
    keys: NDArray[np.int64]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    cross_checked: bool

    def read(self, row: int) -> bytes:
        with _mapped(self.path) as view:
            content, _ = _record(view, int(self.offsets[row]), self.path)
        return _unpack(content, f"{self.path}: record {self.keys[row]}")[1]


def read_record_file(path: Path) -> RecordFile:
    """Check a RecordIO file against its index, its identity ranges and its `property`."""
    starts = _index(path.with_suffix(".idx"))
    contents: dict[int, tuple[float, ...]] = {}  # labels of each record by its offset
    with _mapped(path) as view:
        place = 0
        while place < len(view):
            content, end = _record(view, place, path)
            contents[place] = _unpack(content, f"{path}: record at byte {place}")[0]
            place = end
    if sorted(starts.values()) != sorted(contents):
        raise DataError(
            f"{path}: holds {len(contents)} records, {path.with_suffix('.idx')} lists {len(starts)}"
            ", or other places; index and records do not belong together or one is truncated"
        )
    label_of = {key: contents[offset] for key, offset in starts.items()}
    keys, ranges = _images(label_of, path)
    labels = np.array([_whole(label_of[key][0], f"{path}: record {key}") for key in keys], np.int64)
    _check_ranges(ranges, keys, labels, path)
    _check_property(path.with_name("property"), labels)
    offsets = np.array([starts[key] for key in keys], np.int64)
    return RecordFile(path, np.array(keys, np.int64), offsets, labels, bool(ranges))


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with (
        reading(path, "RecordIO"),
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view,  # an empty file is a ValueError
    ):
        yield view


def _index(path: Path) -> dict[int, int]:
    """Offset of each key."""
    starts: dict[int, int] = {}
    with reading(path, "an index"):
        text = path.read_text(encoding="ascii")
    if not text.endswith("\n"):
        raise DataError(f"{path}: expected lines 'key offset', the last one is cut off")
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) != 2 or not all(field.isdecimal() and len(field) < 19 for field in fields):
            raise DataError(f"{path}, line {number}: expected 'key offset', found {line[:40]!r}")
        key, offset = map(int, fields)
        if key in starts:
            raise DataError(f"{path}, line {number}: key {key} is listed twice")
        starts[key] = offset
    return starts


def _record(view: mmap.mmap, offset: int, path: Path) -> tuple[bytes, int]:
    """Content of the record at `offset`, and where the next one is."""
    parts: list[bytes] = []
    place = offset
    while True:
        if place + PART.size > len(view) or view[place : place + 4] != MAGIC:
            raise DataError(f"{path}: expected a record at byte {offset}, found something else")
        word = PART.unpack_from(view, place)[1]
        kind, length = word >> LENGTH_BITS, word & ((1 << LENGTH_BITS) - 1)
        if kind not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)):
            raise DataError(f"{path}: parts out of order in the record at byte {offset}")
        first, end = place + PART.size, place + PART.size + length
        place = end + -length % 4
        if place > len(view):
            raise DataError(f"{path}: truncated in the record at byte {offset}")
        if any(view[end:place]):
            raise DataError(f"{path}: a damaged length in the record at byte {offset}")
        parts.append(view[first:end])
        if kind in (WHOLE, LAST):
            return MAGIC.join(parts), place


def _unpack(content: bytes, place: str) -> tuple[tuple[float, ...], bytes]:
    """Labels and image of a record."""
    if len(content) < HEADER.size:
        raise DataError(f"{place}: expected a header of {HEADER.size} bytes")
    flag, label, _, _ = HEADER.unpack_from(content)
    end = HEADER.size + 4 * flag
    if end > len(content):
        raise DataError(f"{place}: says it has {flag} labels, which do not fit")
    labels = struct.unpack_from(f"<{flag}f", content, HEADER.size) if flag else (label,)
    return labels, content[end:]


def _images(label_of: dict[int, tuple[float, ...]], path: Path) -> tuple[list[int], list[tuple[int, int]]]:
    """Keys of images, and the ranges of keys that are one identity each."""
    first = label_of.get(0)
    if first is None or len(first) < 2:
        return sorted(label_of), []
    start, end = (_whole(value, f"{path}: record 0") for value in first[:2])
    if not 1 <= start <= end == len(label_of) or max(label_of) != end - 1:
        raise DataError(
            f"{path}: record 0 announces images 1..{start - 1} and identities {start}..{end - 1}, "
            f"the index has {len(label_of)} keys; index or record 0 is damaged"
        )
    ranges = []
    for key in range(start, end):
        values = label_of[key]
        if len(values) < 2:
            raise DataError(f"{path}: identity record {key} has no range of images")
        low, high = (_whole(value, f"{path}: identity record {key}") for value in values[:2])
        ranges.append((low, high))
    return list(range(1, start)), ranges


def _check_ranges(ranges: list[tuple[int, int]], keys: list[int], labels: NDArray[np.int64], path: Path) -> None:
    """Check that each identity's images have one label of their own, and that none is left over."""
    if not ranges:
        return
    place = 1
    seen: set[int] = set()
    for low, high in sorted(pair for pair in ranges if pair[0] < pair[1]):
        own = set(labels[low - 1 : high - 1].tolist())
        if low != place or high - 1 > len(keys) or len(own) != 1 or own & seen:
            raise DataError(
                f"{path}: labels contradict the identity range {low}..{high - 1}; the file is "
                "damaged or was put together wrongly"
            )
        seen |= own
        place = high
    if place != len(keys) + 1:
        raise DataError(f"{path}: images from {place} on belong to no identity range")


def _check_property(path: Path, labels: NDArray[np.int64]) -> None:
    """Check `classes,height,width`, where the file exists."""
    if not path.is_file():
        return
    fields = path.read_text(encoding="ascii", errors="replace").strip().split(",")
    if len(fields) != 3 or not all(field.isdecimal() for field in fields):
        raise DataError(f"{path}: expected 'classes,height,width', received {fields[:4]}")
    if len(labels) and labels.max() >= int(fields[0]):
        raise DataError(f"{path}: says {fields[0]} subjects, a record has label {labels.max()}")


def _whole(value: float, place: str) -> int:
    if not math.isfinite(value) or value != int(value) or not 0 <= value <= MAX_LABEL:
        raise DataError(f"{place}: expected a whole number as label, received {value!r}")
    return int(value)
