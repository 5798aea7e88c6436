"""Pairs in a bcolz carray, the folder and the list in which AgeDB-30 and others are distributed.

`<name>/` holds chunks of `(N, 3, S, S)` float32 in -1..1, `(pixel - 127.5) / 127.5`, in the colour order BGR, and
`<name>_list.npy` one truth value for each two images. The format is read without bcolz, which no longer installs; the
compression is Blosc's, from the extra `.[carray]`. A damaged chunk can crash that library: it runs in its own process.
"""

import contextlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._workers import WorkerPool
from iom.data.benchmarks.base import PairBenchmark, block_folds, linked_subjects
from iom.data.table_files import read_object
from iom.errors import DataError, WorkerError, missing_extra
from iom.photos.images import Pixels

HEADER_BYTES = 16
MAGIC = b"blpk"
TOLERANCE = 0.02
"""How far a value may be from a whole pixel, in pixel values."""
CHUNK_SECONDS = 60.0
"""Time limit of one chunk, which takes milliseconds."""
COLOURS = {"bgr": slice(None, None, -1), "rgb": slice(None)}


def read_carray(folder: Path, *, name: str = "", size: int = 112, colours: str = "bgr") -> PairBenchmark:
    """Pairs of the folder `<name>` and the list beside it; folds are ten blocks in order, equal images kept once."""
    same = _truth(folder.with_name(f"{folder.name}_list.npy"))
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
            for offset, pixels in enumerate(_pixels(values, path, COLOURS[colours])):
                row = row_of.setdefault(pixels.tobytes(), len(images))
                if row == len(images):
                    images.append(pixels)
                place[start + offset] = row
    left, right = place[0::2], place[1::2]
    return PairBenchmark(
        name=name or folder.name,
        images=np.stack(images),
        left=left,
        right=right,
        same=same,
        fold=block_folds(len(same)),
        subjects=linked_subjects(left, right, same, len(images)),
    )


def blosc_workers(max_bytes: int) -> WorkerPool:
    """One worker that runs Blosc's decompressor on chunks of up to `max_bytes`; its answer is empty where it fails."""
    try:
        installed = find_spec("numcodecs") is not None
    except ValueError:  # it was taken out of sys.modules
        installed = False
    if not installed:
        raise missing_extra("a carray", "carray", otherwise="use the .bin file")
    return WorkerPool("iom.data.formats.carray:blosc_handler", workers=1, max_answer=max_bytes)


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
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
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


def _pixels(values: NDArray[np.float32], path: Path, colours: slice) -> Pixels:
    """RGB pixels `(n, S, S, 3)`."""
    pixels = (values.astype(np.float64) + 1.0) * 127.5
    whole = np.rint(pixels)
    fits = np.isfinite(pixels).all() and (np.abs(pixels - whole) <= TOLERANCE).all()
    if not fits or whole.min() < 0 or whole.max() > 255:
        raise DataError(
            f"{path}: expected (pixel - 127.5) / 127.5 for pixels 0..255, received values from "
            f"{values.min():.3g} to {values.max():.3g}"
        )
    return np.ascontiguousarray(whole[:, colours].transpose(0, 2, 3, 1).astype(np.uint8))


def _truth(path: Path) -> NDArray[np.bool_]:
    try:
        with path.open("rb") as stream:  # NumPy leaves a damaged file open when it opens it itself
            values: NDArray[Any] = np.load(stream, allow_pickle=False)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    # The header of a .npy file is a Python literal, which fails in many ways.
    except Exception as error:
        raise DataError(f"{path}: not a plain array of truth values: {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or values.ndim != 1:
        raise DataError(f"{path}: expected a list of True and False, received something else")
    # NumPy takes any byte but 0 for True: a damaged one shows only as a number.
    numbers = values.view(np.uint8) if values.dtype == bool else values
    if not len(values) or not np.isin(numbers, (0, 1)).all():
        raise DataError(f"{path}: expected a list of True and False, received {values.shape}")
    return values.astype(bool)
