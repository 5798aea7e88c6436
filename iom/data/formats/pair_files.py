"""Files of verification pairs as InsightFace's `.bin` and as a bcolz carray; equal images are kept once.

A `.bin` is a pickle of (encoded images, is same). A carray is a folder `<name>/` with chunks of `(N, 3, S, S)` float32
in -1..1, `(pixel - 127.5) / 127.5`, in the colour order BGR, and `<name>_list.npy` one truth value for each two images.
It is read without bcolz, which no longer installs; the compression is Blosc's, from the extra `.[carray]`. A damaged
chunk can crash that library: it runs in its own process.
"""

import contextlib
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._files import atomic_path
from iom._unpickling import restricted_loads
from iom._untrusted import parse_array, read_bytes, reading
from iom._workers import WorkerPool
from iom.data.benchmarks.base import PairBenchmark, block_folds, linked_subjects
from iom.data.table_files import read_object
from iom.errors import DataError, WorkerError, needs_extra
from iom.photos.images import Pixels, decode_image

MAX_BYTES = 4 << 30
HEADER_BYTES = 16
MAGIC = b"blpk"
TOLERANCE = 0.02
"""How far a value may be from a whole pixel, in pixel values."""
CHUNK_SECONDS = 60.0
"""Time limit of one chunk, which takes milliseconds."""


def read_bin(path: Path, *, size: int = 112) -> PairBenchmark:
    """Pairs of an InsightFace verification file: images 2 i and 2 i + 1 are pair i.

    Folds are ten blocks in order, as in InsightFace's evaluation. A pickle that asks for more than data is refused.
    """
    encoded, same = read_bin_images(path)
    row_of: dict[bytes, int] = {}
    rows = np.array([row_of.setdefault(item, len(row_of)) for item in encoded], np.int64)
    first = np.unique(rows, return_index=True)[1]
    images = [decode_image(encoded[i], f"{path}: image {i}", size=size) for i in first]
    return _benchmark(path.stem, images, rows, np.array(same, bool))


def _benchmark(name: str, images: Sequence[Pixels], rows: NDArray[np.int64], same: NDArray[np.bool_]) -> PairBenchmark:
    left, right = rows[0::2], rows[1::2]
    subjects = linked_subjects(left, right, same, len(images))
    return PairBenchmark(name, np.stack(images), left, right, same, block_folds(len(same)), subjects)


def read_bin_images(path: Path) -> tuple[list[bytes], list[bool]]:
    """Encoded images, two a pair, and whether each pair is mated; a pickle that asks for more than data is refused."""
    with reading(path, "a .bin file"):
        data = read_bytes(path, MAX_BYTES)
    content = restricted_loads(data, source=str(path))
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


def read_carray(folder: Path, *, size: int = 112) -> PairBenchmark:
    """Pairs of the folder `<name>` and the list beside it; folds are ten blocks in order."""
    same = _truth_values(folder.with_name(f"{folder.name}_list.npy"))
    meta = read_object(folder / "meta" / "storage", "is this a carray?")
    sizes = read_object(folder / "meta" / "sizes", "is this a carray?")
    shape = (2 * len(same), 3, size, size)
    if meta.get("dtype") != "float32" or sizes.get("shape") != list(shape):
        raise DataError(
            f"{folder}: expected float32 {shape} for {len(same)} pairs, received "
            f"{meta.get('dtype')} {sizes.get('shape')}"
        )
    rows = meta.get("chunklen")
    if not isinstance(rows, int) or rows < 1:
        raise DataError(f"{folder}: expected chunks of one image or more, received {rows!r}")
    row_of: dict[bytes, int] = {}
    images: list[Pixels] = []
    place = np.empty(shape[0], np.int64)
    with contextlib.closing(blosc_workers(4 * rows * int(np.prod(shape[1:])))) as pool:
        for number, start in enumerate(range(0, shape[0], rows)):
            path = folder / "data" / f"__{number}.blp"
            values = _chunk(path, rows, shape[1:], pool)[: shape[0] - start]
            if len(values) < min(rows, shape[0] - start):
                raise DataError(f"{path}: expected {min(rows, shape[0] - start)} images, received {len(values)}")
            for offset, pixels in enumerate(_pixels(values, path)):
                row = row_of.setdefault(pixels.tobytes(), len(images))
                if row == len(images):
                    images.append(pixels)
                place[start + offset] = row
    return _benchmark(folder.name, images, place, same)


def blosc_workers(max_bytes: int) -> WorkerPool:
    """One worker that runs Blosc's decompressor on chunks of up to `max_bytes`; its answer is empty where it fails."""
    with needs_extra("a carray", "carray", otherwise="use the .bin file"):
        import numcodecs  # noqa: F401 - the worker has no way to say that it is missing
    return WorkerPool("iom.data.formats.pair_files:blosc_handler", workers=1, max_answer=max_bytes)


def blosc_handler() -> Callable[[bytes], bytes]:
    """Decompressor of one chunk, in a worker."""
    from numcodecs import blosc

    def decompress(data: bytes) -> bytes:
        try:
            return bytes(blosc.decompress(data))
        except (RuntimeError, ValueError):
            return b""

    return decompress


def _chunk(path: Path, rows: int, shape: tuple[int, ...], pool: WorkerPool) -> NDArray[np.float32]:
    """Images `(rows or fewer, 3, S, S)` of one chunk."""
    with reading(path, "a chunk of a carray"):
        data = path.read_bytes()
    row_bytes = 4 * int(np.prod(shape))
    # Byte 4 to 8 of the Blosc header say how much to allocate: not more than a chunk can hold.
    stated = int.from_bytes(data[HEADER_BYTES + 4 : HEADER_BYTES + 8], "little")
    if data[:4] != MAGIC or len(data) <= HEADER_BYTES + 16 or stated > rows * row_bytes:
        raise DataError(f"{path}: expected a chunk of {rows} images, received something else")
    try:
        raw = pool.ask(data[HEADER_BYTES:], bytes, seconds=CHUNK_SECONDS)
    except WorkerError as error:
        raise DataError(f"{path}: the chunk is damaged: {error}") from error
    if not raw:
        raise DataError(f"{path}: the chunk is damaged: it cannot be decompressed")
    if len(raw) % row_bytes:
        raise DataError(f"{path}: expected whole images, received {len(raw)} bytes")
    return np.frombuffer(raw, "<f4").reshape(-1, *shape)


def _pixels(values: NDArray[np.float32], path: Path) -> Pixels:
    """RGB pixels `(n, S, S, 3)`."""
    pixels = (values.astype(np.float64) + 1.0) * 127.5
    whole = np.rint(pixels)
    fits = np.isfinite(pixels).all() and (np.abs(pixels - whole) <= TOLERANCE).all()
    if not fits or whole.min() < 0 or whole.max() > 255:
        raise DataError(
            f"{path}: expected (pixel - 127.5) / 127.5 for pixels 0..255, received values from "
            f"{values.min():.3g} to {values.max():.3g}"
        )
    return np.ascontiguousarray(whole[:, ::-1].transpose(0, 2, 3, 1).astype(np.uint8))


def _truth_values(path: Path) -> NDArray[np.bool_]:
    with reading(path, "a plain array of truth values"):
        values = parse_array(read_bytes(path, MAX_BYTES))
        if values.dtype.kind not in "biuf" or values.ndim != 1:
            raise DataError(f"{path}: expected a list of True and False, received something else")
    # NumPy takes any byte but 0 for True: a damaged one shows only as a number.
    numbers = values.view(np.uint8) if values.dtype == bool else values
    if not len(values) or not np.isin(numbers, (0, 1)).all():
        raise DataError(f"{path}: expected a list of True and False, received {values.shape}")
    return values.astype(bool)
