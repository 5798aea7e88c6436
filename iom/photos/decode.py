"""Reading raw photographs: any size and kind; what had to be changed is said, never hidden."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from iom.data.images import FORMATS, Pixels
from iom.errors import DataError, FaceError

LARGEST_MEGAPIXELS = 150.0

_ORIENTATION_TAG = 0x0112
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH_AT = 24


class TooLargeError(FaceError):
    """More pixels than allowed."""


class OtherTypeError(FaceError):
    """No photograph of a known format, by its first bytes."""


def read_photograph(path: Path, *, largest_megapixels: float = LARGEST_MEGAPIXELS) -> tuple[Pixels, tuple[str, ...]]:
    """Read a photograph upright, as 8-bit RGB.

    Args:
        path: JPEG, PNG, BMP, WebP, TIFF or GIF.
        largest_megapixels: Refuse more, before a pixel is decoded.

    Returns:
        RGB pixels `(H, W, 3)` uint8; and what had to be done, in the order done: `animated` (first
        frame taken), `turned` (by its EXIF orientation), `16_bit` (scaled down), `transparent`
        (laid on white), `cmyk` or `cmyk_without_profile` (converted by its colour profile, or by
        Pillow's plain formula where there is no usable one).

    Raises:
        TooLargeError: More than `largest_megapixels`.
        OtherTypeError: Not an image.
        FaceError: Empty, damaged, truncated.
        DataError: A missing or unreadable file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the image: {error.strerror or error}") from error
    return decode_photograph(data, str(path), largest_megapixels=largest_megapixels)


def decode_photograph(
    data: bytes, source: str, *, largest_megapixels: float = LARGEST_MEGAPIXELS, formats: tuple[str, ...] = FORMATS
) -> tuple[Pixels, tuple[str, ...]]:
    """`read_photograph` for bytes that are in memory already; `source` is for errors."""
    if not data:
        raise FaceError(f"{source}: expected a photograph, received an empty file")
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            megapixels = image.width * image.height / 1e6
            if megapixels > largest_megapixels:
                raise TooLargeError(
                    f"{source}: expected at most {largest_megapixels:g} megapixels, received {megapixels:.0f}"
                )
            return _upright_rgb(image, data)
    except FaceError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(f"{source}: too many pixels to open safely") from error
    except UnidentifiedImageError as error:
        raise OtherTypeError(
            f"{source}: expected a photograph ({', '.join(formats)}), received something else"
        ) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FaceError(f"{source}: the image is damaged or truncated ({reason})") from error


def _upright_rgb(image: Image.Image, data: bytes) -> tuple[Pixels, tuple[str, ...]]:
    notes = []
    # An MPO is a JPEG with more pictures behind it (depth, a second eye), not an animation.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        notes.append("animated")
        image.seek(0)
    image.load()
    orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    if orientation in range(2, 9):
        notes.append("turned")
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        notes.append("16_bit")
        return _replicated(_eight_bits(np.asarray(image))), tuple(notes)
    if data.startswith(_PNG_SIGNATURE) and data[_PNG_BIT_DEPTH_AT] > 8:
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


def _replicated(greys: Pixels) -> Pixels:
    return np.repeat(greys[:, :, None], 3, axis=2)


def _from_cmyk(image: Image.Image) -> tuple[Image.Image, str]:
    try:
        profile = io.BytesIO(image.info["icc_profile"])
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (KeyError, ImageCms.PyCMSError, OSError):
        converted = None
    if converted is None:
        return image.convert("RGB"), "cmyk_without_profile"
    return converted, "cmyk"
