"""Image files: aligned faces, read strictly, and photographs of any size and kind, with their conversions reported."""

import base64
import binascii
import contextlib
import errno
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from iom._progress import tqdm
from iom._untrusted import one_line, read_bytes, short, shown
from iom.errors import DataError, FaceError, MissingExtraError, TooLargeError, needs_extra

Pixels = NDArray[np.uint8]
Picture: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | NDArray[Any] | Image.Image
"""What `read_picture` takes."""
T = TypeVar("T")

SIZE = 112
"""Side in pixels of an aligned face."""

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")

_REFUSED = {
    "animated": "expected one picture, received several in one file",
    "16_bit": "expected 8-bit RGB or grey, received 16 bits per channel or more; save it as RGB first",
    "transparent": "expected opaque pixels, received transparent ones; save it without transparency first",
    "cmyk": "expected 8-bit RGB or grey, received CMYK; save it as RGB first",
    "cmyk_without_profile": "expected 8-bit RGB or grey, received CMYK; save it as RGB first",
}
"""Conversions of a photograph that have no one defined way, and so are not done to an aligned face."""
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
MAX_MEGABYTES = 256.0
"""Default bound of a file."""
MAX_MEGAPIXELS = 64.0
"""Default bound wherever photographs are decoded, above those of telephones. Decoding needs about ten bytes a pixel."""


@contextlib.contextmanager
def open_image(data: bytes, source: str, *, expected: str, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Pillow's image of encoded bytes; errors of its decoders within the `with` block become a `FaceError`."""
    if not data:
        raise FaceError(f"{source}: expected {expected}, received an empty file", status="empty")
    if formats == FORMATS and data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        formats = _with_heif(source)
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
        raise FaceError(f"{source}: the image is damaged or truncated ({one_line(error)})") from error


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
        pixels, notes = _upright_rgb(image, data)
    _refuse_converted(notes, source)
    return pixels


def is_aligned(pixels: Pixels, notes: Iterable[str] = (), *, source: str = "picture") -> bool:
    """Whether a picture is taken for a face that is aligned already: one of exactly 112 x 112 pixels.

    `notes` are those of `read_picture`: a `FaceError` where an aligned face was converted in a way that `decode_image`
    refuses.
    """
    if pixels.shape[:2] != (SIZE, SIZE):
        return False
    _refuse_converted(notes, source)
    return True


def _refuse_converted(notes: Iterable[str], source: str) -> None:
    for note in notes:
        if note in _REFUSED:
            raise FaceError(f"{source}: {_REFUSED[note]}")


def read_image(path: Path, *, size: int | None = 112) -> Pixels:
    """Read one aligned face as RGB pixels, `(size, size, 3)` uint8; errors as of `decode_image`."""
    return decode_image(image_bytes(path), str(path), size=size)


def image_bytes(path: Path) -> bytes:
    """Content of an image file; `DataError` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the image: {error.strerror or error}") from error


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

    for _ in in_threads(fill, range(len(paths)), "reading images", workers=workers, progress=progress):
        pass
    return images


def check_images(paths: Sequence[Path], *, size: int = 112) -> None:
    """Decode every file and report all bad ones at once, in one `DataError`."""

    def problem(index: int) -> str | None:
        try:
            read_image(paths[index], size=size)
        except DataError as error:
            return str(error)
        return None

    found = in_threads(problem, range(len(paths)), "checking images", workers=2, progress=False)
    if problems := [text for text in found if text is not None]:
        raise DataError(f"{len(problems)} of {len(paths)} images cannot be used: {shown(problems, '; ')}")


def in_threads(
    work: Callable[[int], T], items: Sequence[int], label: str, *, unit: str = "image", workers: int, progress: bool
) -> Iterator[T]:
    """Results of `work` on each of `items`, in order; an error cancels what has not started."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        yield from tqdm(pool.map(work, items), total=len(items), desc=label, unit=unit, disable=not progress)


def read_picture(
    picture: Picture, *, source: str | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> tuple[Pixels, tuple[str, ...]]:
    """Read a picture, whatever it comes as: upright, RGB `(H, W, 3)` uint8, and notes as of `read_photograph`.

    Args:
        picture: A path; the content of an image file as bytes, base64 text, a `data:` URL or an open binary file; RGB
            or grey pixels `(H, W, 3)` or `(H, W)` uint8; or a Pillow image, of which the current frame is taken.
        source: Its name in errors: by default the path, or "picture".
        max_megapixels: Refuse larger ones.

    Raises:
        FaceError: It is no picture, damaged or too large; `status` says which.
        DataError: Not one of the kinds above.
    """
    name = source or picture_name(picture)
    if isinstance(picture, np.ndarray):
        pixels = _array_pixels(picture, name)
        _check_megapixels(pixels.shape[1], pixels.shape[0], max_megapixels, name)
        return pixels, ()
    if isinstance(picture, Image.Image):
        return _pillow_pixels(picture, name, max_megapixels)
    return decode_photograph(_picture_bytes(picture, name), name, max_megapixels=max_megapixels)


def is_picture(value: object) -> bool:
    """Whether a value is of a kind that `read_picture` takes, rather than an array of other numbers."""
    if isinstance(value, np.ndarray):
        return bool(value.dtype == np.uint8)
    return isinstance(value, str | bytes | bytearray | memoryview | os.PathLike | Image.Image) or hasattr(value, "read")


def picture_name(picture: object) -> str:
    """How errors name a picture: by its path, else "picture"."""
    path = _path_of(picture)
    return "picture" if path is None else str(path)


def _path_of(picture: object) -> Path | None:
    """The file that a picture is named by; of a text, where it exists."""
    if isinstance(picture, os.PathLike):
        return Path(os.fsdecode(picture))
    if isinstance(picture, str):
        with contextlib.suppress(OSError, ValueError):  # too long for a name, or with a null character
            if Path(picture).exists():
                return Path(picture)
    return None


def _array_pixels(pixels: NDArray[Any], source: str) -> Pixels:
    if pixels.dtype != np.uint8 or not pixels.size or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise DataError(
            f"{source}: expected pixels (H, W, 3), RGB, or (H, W) of uint8 0..255, received {pixels.shape} of "
            f"{pixels.dtype}"
        )
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels


def _pillow_pixels(image: Image.Image, source: str, max_megapixels: float) -> tuple[Pixels, tuple[str, ...]]:
    if not (image.width and image.height):
        raise FaceError(f"{source}: expected a picture, received an image without pixels", status="empty")
    _check_megapixels(image.width, image.height, max_megapixels, source)
    try:
        return _upright_rgb(image.copy() if getattr(image, "n_frames", 1) > 1 else image, b"")
    except MemoryError:
        raise
    except Exception as error:  # as of a file: it may be decoded only now
        raise FaceError(f"{source}: the image is damaged or truncated ({one_line(error)})") from error


def _picture_bytes(picture: object, source: str) -> bytes:
    """Content of a picture that is neither an array nor an image."""
    if (path := _path_of(picture)) is not None:
        return file_bytes(path, source)
    if isinstance(picture, str):
        return _text_bytes(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if not callable(getattr(picture, "read", None)):
        raise DataError(
            f"{source}: expected a path, bytes, base64 text, an open file, an array or a Pillow image, received "
            f"{type(picture).__name__}"
        )
    try:
        data = picture.read(int(MAX_MEGABYTES * 1e6) + 1)  # type: ignore[attr-defined]
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: cannot read the file: {one_line(error)}") from error
    if not isinstance(data, bytes):
        raise DataError(f"{source}: expected a file opened for bytes ('rb'), received {type(data).__name__} from it")
    if len(data) > MAX_MEGABYTES * 1e6:
        raise TooLargeError(f"{source}: expected at most {MAX_MEGABYTES:g} megabytes, received more")
    return data


def _text_bytes(text: str) -> bytes:
    """Content of a picture by text that is no path: a `data:` URL or base64."""
    if text.startswith(("http://", "https://")):
        raise DataError(f"{short(text)}: pictures are not fetched; download it, and give the file or its bytes")
    head, _, body = text.partition(",") if text.startswith("data:") else ("", "", text)
    try:
        data = base64.b64decode("".join(body.split()).replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if head and not (data and head.endswith(";base64")):
        raise FaceError(f"{short(text)}: expected data:image/...;base64,... with base64 behind it", status="wrong_type")
    if not head and not _begins_as_picture(data):
        raise FaceError(f"{short(text)}: there is no such file, and as base64 it is no picture", status="wrong_type")
    return data


def _begins_as_picture(data: bytes) -> bool:
    try:
        with open_image(data, "", expected=""):
            return True
    except TooLargeError:
        return True
    except FaceError:
        return False


def file_bytes(path: Path, source: str, *, max_megabytes: float = MAX_MEGABYTES) -> bytes:
    """Content of a file of a photograph; a `FaceError`, with its `status`, where it is too large or cannot be read."""
    try:
        return read_bytes(path, int(max_megabytes * 1e6))
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise TooLargeError(f"{source}: {error.strerror}") from error
        status = "wrong_type" if error.errno == errno.EINVAL else "unreadable"
        raise FaceError(f"{source}: cannot read the image: {error.strerror or error}", status=status) from error


def _with_heif(source: str) -> tuple[str, ...]:
    """Formats with HEIF, which `pillow-heif` reads."""
    try:
        with needs_extra(f"{source}: reading HEIC", "heic", otherwise="save it as JPEG"):
            import pillow_heif
    except MissingExtraError as error:
        raise FaceError(str(error), status="wrong_type") from error
    pillow_heif.register_heif_opener()
    return (*FORMATS, "HEIF")


def _check_megapixels(width: int, height: int, most: float, source: str) -> None:
    if width * height / 1e6 > most:
        raise TooLargeError(f"{source}: expected at most {most:g} megapixels, received {width * height / 1e6:.0f}")


def read_photograph(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> tuple[Pixels, tuple[str, ...]]:
    """Read a photograph upright, as RGB `(H, W, 3)` uint8, and the conversions that it needed.

    In the order done: `animated` (first frame taken), `turned` (by its EXIF orientation), `16_bit` (scaled down),
    `transparent` (laid on white), `cmyk` or `cmyk_without_profile` (converted by its colour profile, or by Pillow's
    formula). More than `max_megapixels` are refused before a pixel is decoded.
    """
    return decode_photograph(image_bytes(path), str(path), max_megapixels=max_megapixels)


def decode_photograph(
    data: bytes, source: str, *, max_megapixels: float = MAX_MEGAPIXELS, formats: tuple[str, ...] = FORMATS
) -> tuple[Pixels, tuple[str, ...]]:
    """`read_photograph` for bytes that are in memory already; `source` is for errors."""
    with open_image(data, source, expected="a photograph", formats=formats) as image:
        _check_megapixels(image.width, image.height, max_megapixels, source)
        return _upright_rgb(image, data)


def _upright_rgb(image: Image.Image, data: bytes) -> tuple[Pixels, tuple[str, ...]]:
    notes = []
    # An MPO is a JPEG with more pictures behind it (depth, a second eye), not an animation.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        notes.append("animated")
        image.seek(0)
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
        notes.append("turned")
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        grey = _eight_bits(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2), (*notes, "16_bit")
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[24] > 8:
        notes.append("16_bit")  # Pillow has kept the high bytes
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] != 255:
            notes.append("transparent")
            ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(ground, image)
    elif image.mode == "CMYK":
        image, note = _from_cmyk(image)
        notes.append(note)
    if image.mode != "RGB":  # converting to the same mode is a copy
        image = image.convert("RGB")
    return np.asarray(image, np.uint8), tuple(notes)


def _eight_bits(values: NDArray[Any]) -> Pixels:
    """Greys of sixteen bits; others, scaled by their own range, since they have no agreed one."""
    if values.dtype.kind in "iu" and values.min() >= 0 and values.max() < 65536:
        return np.asarray(values // 257, np.uint8)  # a large photograph as float64 is gigabytes
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("pixels that are not finite")
    low, high = numbers.min(), numbers.max()
    return np.asarray((numbers - low) * (255.0 / ((high - low) or 1.0)), np.uint8)


def _from_cmyk(image: Image.Image) -> tuple[Image.Image, str]:
    try:
        profile = io.BytesIO(image.info["icc_profile"])
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (KeyError, ImageCms.PyCMSError, OSError):
        converted = None
    return (image.convert("RGB"), "cmyk_without_profile") if converted is None else (converted, "cmyk")
