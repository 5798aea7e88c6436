"""Aligned face images, read strictly: a wrong file is an error, not a worse result."""

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from iom.errors import DataError, FaceError, TooLargeError

Pixels = NDArray[np.uint8]
T = TypeVar("T")

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
OFFENDERS_SHOWN = 3

# Pillow's modes with eight bits a channel or less and a defined way to RGB. CMYK is not among them: without its colour
# profile it can only be guessed. Sixteen-bit greys have no agreed scale.
_CONVERTIBLE = ("RGB", "L", "1", "P", "RGBA", "LA", "PA", "RGBX")
_WITH_ALPHA = ("RGBA", "LA", "PA")


@contextlib.contextmanager
def open_image(data: bytes, source: str, *, expected: str, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Pillow's image of encoded bytes; errors of its decoders within the `with` block become a `FaceError`."""
    if not data:
        raise FaceError(f"{source}: expected {expected}, received an empty file", status="empty")
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            yield image
    except (FaceError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(f"{source}: expected {expected}, received an image too large to open") from error
    except UnidentifiedImageError as error:
        names = ", ".join(formats)
        raise FaceError(
            f"{source}: expected {expected} ({names}), received something else", status="wrong_type"
        ) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FaceError(f"{source}: the image is damaged or truncated ({reason})") from error


def has_16_bits(data: bytes) -> bool:
    """Whether a PNG has 16 bits a channel, of which Pillow silently keeps the high byte."""
    return data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) > 24 and data[24] > 8


def decode_image(data: bytes, source: str, *, size: int | None = 112, formats: tuple[str, ...] = FORMATS) -> Pixels:
    """Decode one aligned face to RGB `(size, size, 3)` uint8; `source` names it in errors.

    Greys are replicated to three channels, palettes resolved, an opaque alpha channel dropped and an EXIF orientation
    applied. Nothing is ever resized: an image of another size is not aligned (`size` `None` takes any square). Several
    pictures in one file, CMYK, 16-bit and transparent images have no defined way to 8-bit RGB and are a `FaceError`.
    """
    expected = "square aligned face" if size is None else f"{size}x{size} aligned face"
    with open_image(data, source, expected=expected, formats=formats) as image:
        width, height = image.size
        if width != height or (size is not None and width != size):
            raise FaceError(
                f"{source}: expected {expected}, received {width}x{height}; "
                "align photographs first: iom align PHOTOS FACES"
            )
        if has_16_bits(data) or image.mode not in _CONVERTIBLE:
            received = "16 bits per channel" if has_16_bits(data) else f"mode {image.mode}"
            raise FaceError(f"{source}: expected 8-bit RGB or grey, received {received}; save it as RGB first")
        if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
            raise FaceError(f"{source}: expected one picture, received {frames} in one file")
        image.load()
        return _to_rgb(image, source)


def read_image(path: Path, *, size: int | None = 112) -> Pixels:
    """Read one aligned face as RGB pixels, `(size, size, 3)` uint8; errors as of `decode_image`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the image: {error.strerror or error}") from error
    return decode_image(data, str(path), size=size)


def file_paths(files: Sequence[Path | str]) -> list[Path]:
    """Paths of image files that may be named by strings; a single path instead of a list is refused."""
    if isinstance(files, str | bytes | os.PathLike) or not isinstance(files, Iterable):
        raise DataError(f"expected a list of image files, received {type(files).__name__}")
    paths = []
    for file in files:
        if not isinstance(file, str | os.PathLike):
            raise DataError(f"expected paths of image files, received {type(file).__name__}")
        paths.append(Path(file))
    return paths


def face_pixels(images: object, source: str, *, size: int = 112) -> Pixels:
    """Aligned faces RGB `(N, size, size, 3)` uint8, from an array or a list of arrays; floats in 0..1 are refused."""
    expected = f"{source}: expected RGB images (N, {size}, {size}, 3) of uint8 0..255, received "
    try:
        pixels = images if isinstance(images, np.ndarray) else np.asarray(images)
    except ValueError as error:  # arrays of different sizes
        raise DataError(f"{expected}a {type(images).__name__} of different shapes") from error
    if pixels.dtype.kind in "OUS":
        raise DataError(f"{expected}{type(images).__name__} (embed_files takes files)")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
        raise DataError(f"{expected}{pixels.shape} of {pixels.dtype}")
    return pixels


def read_images(paths: Sequence[Path], *, size: int = 112, workers: int = 2, progress: bool = False) -> Pixels:
    """Read many aligned faces in order, `(N, size, size, 3)` uint8, by threads: Pillow decodes without the GIL."""
    images = np.empty((len(paths), size, size, 3), np.uint8)

    def fill(index: int) -> None:
        images[index] = read_image(paths[index], size=size)

    for _ in _in_threads(fill, len(paths), workers, progress, "reading images"):
        pass
    return images


def check_images(paths: Sequence[Path], *, size: int = 112, workers: int = 2, progress: bool = False) -> None:
    """Decode every file and report all bad ones at once, in one `DataError`."""

    def problem(index: int) -> str | None:
        try:
            read_image(paths[index], size=size)
        except DataError as error:
            return str(error)
        return None

    found = _in_threads(problem, len(paths), workers, progress, "checking images")
    problems = [text for text in found if text is not None]
    if not problems:
        return
    shown = "; ".join(problems[:OFFENDERS_SHOWN])
    more = "; ..." if len(problems) > OFFENDERS_SHOWN else ""
    raise DataError(f"{len(problems)} of {len(paths)} images cannot be used: {shown}{more}")


def _to_rgb(image: Image.Image, source: str) -> Pixels:
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        lowest, _ = image.getchannel("A").getextrema()
        if lowest != 255:
            raise FaceError(
                f"{source}: expected opaque pixels, received transparent ones; save it without transparency first"
            )
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    return np.asarray(image.convert("RGB"), np.uint8)


def _in_threads(work: Callable[[int], T], count: int, workers: int, progress: bool, label: str) -> Iterator[T]:
    """Results of `work(0)`, `work(1)`, ... in order; an error cancels what has not started."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        results = pool.map(work, range(count))
        yield from tqdm(results, total=count, desc=label, unit="image", disable=not progress)
