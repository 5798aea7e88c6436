"""InsightFace's verification files `.bin`: a pickle of (encoded images, is same)."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iom._files import atomic_path
from iom._unpickling import NUMPY_ARRAYS, restricted_loads
from iom._untrusted import read_bytes
from iom.data.benchmarks.base import PairBenchmark, block_folds, linked_subjects
from iom.errors import DataError
from iom.photos.images import decode_image

MAX_BYTES = 4 << 30


def read_bin(path: Path, *, name: str = "", size: int = 112) -> PairBenchmark:
    """Pairs of an InsightFace verification file: images 2 i and 2 i + 1 are pair i.

    Images with equal bytes are decoded and embedded once. Folds are ten blocks in order, as in InsightFace's
    evaluation. A pickle that asks for more than data is refused.
    """
    encoded, truth = read_bin_images(path)
    same = np.array(truth, bool)
    row_of: dict[bytes, int] = {}
    rows = np.array([row_of.setdefault(item, len(row_of)) for item in encoded], np.int64)
    first = np.unique(rows, return_index=True)[1]
    images = np.stack([decode_image(encoded[i], f"{path}: image {i}", size=size) for i in first])
    left, right = rows[0::2], rows[1::2]
    subjects = linked_subjects(left, right, same, len(images))
    return PairBenchmark(name or path.stem, images, left, right, same, block_folds(len(same)), subjects)


def read_bin_images(path: Path) -> tuple[list[bytes], list[bool]]:
    """Encoded images, two a pair, and whether each pair is mated; a pickle that asks for more than data is refused."""
    try:
        data = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    content = restricted_loads(data, admitted=NUMPY_ARRAYS, source=str(path))
    if not (_is_sequence(content) and len(content) == 2 and all(map(_is_sequence, content))):
        raise DataError(f"{path}: expected (images, is same) as InsightFace writes it")
    encoded = [_encoded_bytes(item, f"{path}: image {i}") for i, item in enumerate(content[0])]
    same = [_truth(item, f"{path}: pair {i}") for i, item in enumerate(content[1])]
    if len(encoded) != 2 * len(same) or not encoded:
        raise DataError(f"{path}: expected two images a pair, received {len(encoded)} images and {len(same)} pairs")
    return encoded, same


def write_bin(path: Path, images: Sequence[bytes], same: Sequence[bool]) -> None:
    """Write encoded images, two a pair, and pair labels as InsightFace does: a plain pickle, protocol 2."""
    if len(images) != 2 * len(same):
        raise DataError(f"{path}: expected two images a pair, received {len(images)} images and {len(same)} pairs")
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        pickle.dump((list(images), [bool(item) for item in same]), stream, protocol=2)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _encoded_bytes(item: Any, place: str) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, np.ndarray) and item.ndim == 1 and item.dtype in (np.uint8, np.int8):
        return item.tobytes()
    # Decoded pixels would leave the colour order to a guess.
    received = f"array {item.shape}" if isinstance(item, np.ndarray) else type(item).__name__
    raise DataError(f"{place}: expected an encoded image as bytes, received {received}")


def _truth(item: Any, place: str) -> bool:
    if isinstance(item, bool | np.bool_ | int | np.integer) and item in (0, 1):
        return bool(item)
    raise DataError(f"{place}: expected True or False, received {str(item)[:40]}")
