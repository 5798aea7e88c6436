"""The `.params` file of an MXNet checkpoint: arrays by name."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom.errors import WeightsError
from iom.pretrained.importers.messages import check_names

# src/ndarray/ndarray.cc of MXNet: the list of arrays, then one magic for each array. An array
# without a magic (before version 0.9) starts with its number of dimensions.
_LIST_MAGIC = 0x112
_WITH_STORAGE = (0xF993FAC9, 0xF993FACA)
_WITHOUT_STORAGE = 0xF993FAC8
_MAX_DIMENSIONS = 32
_DTYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}


def read_params(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a `.params` file by name, with their `arg:` or `aux:` prefix.

    Raises:
        WeightsError: The file is missing, of another format, or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from error
    try:
        return _parse(_Reader(data))
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: damaged or not an MXNet .params file: {error}") from error


class _Reader:
    """Little-endian fields of a byte string, in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def fields(self, layout: str) -> tuple[int, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def take(self, size: int) -> bytes:
        end = self._place + size
        if end > len(self._data):
            raise ValueError(f"it ends at byte {len(self._data)}, {end} were announced")
        part = self._data[self._place : end]
        self._place = end
        return part

    @property
    def left(self) -> int:
        return len(self._data) - self._place


def _parse(reader: _Reader) -> dict[str, NDArray[Any]]:
    magic, _, count = reader.fields("QQQ")
    if magic != _LIST_MAGIC:
        raise ValueError(f"expected magic {_LIST_MAGIC:#x}, received {magic:#x}")
    arrays = [_array(reader) for _ in range(_at_most(count, reader.left))]
    (count,) = reader.fields("Q")
    names = []
    for _ in range(_at_most(count, reader.left)):
        (length,) = reader.fields("Q")
        names.append(reader.take(length).decode("utf-8"))
    check_names(names)
    if len(names) != len(arrays) or len(set(names)) != len(names):
        raise ValueError(f"{len(arrays)} arrays, {len(set(names))} distinct names")
    if reader.left:
        raise ValueError(f"{reader.left} bytes after its end")
    return dict(zip(names, arrays, strict=True))


def _at_most(count: int, limit: int) -> int:
    if count > limit:
        raise ValueError(f"{count} entries announced in {limit} bytes")
    return count


def _array(reader: _Reader) -> NDArray[Any]:
    (magic,) = reader.fields("I")
    if magic in _WITH_STORAGE:
        (storage,) = reader.fields("i")
        if storage > 0:
            raise ValueError("sparse arrays are not weights of a network known here")
    if magic in _WITH_STORAGE or magic == _WITHOUT_STORAGE:
        (dimensions,) = reader.fields("I")
        side = "q"
    else:
        dimensions, side = magic, "I"
    if dimensions > _MAX_DIMENSIONS:
        raise ValueError(f"an array of {dimensions} dimensions")
    shape = reader.fields(f"{dimensions}{side}")
    _, _, dtype = reader.fields("iii")
    if dtype not in _DTYPES or min(shape, default=1) < 0:
        raise ValueError(f"an array {shape} of type {dtype}")
    numbers = np.dtype(_DTYPES[dtype])
    raw = reader.take(math.prod(shape) * numbers.itemsize)
    return np.frombuffer(raw, numbers).reshape(shape)
