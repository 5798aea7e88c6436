"""Decoding of photographs of any size and kind; conversions are reported, never hidden."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps

from iom.errors import DataError, TooLargeError
from iom.photos.images import FORMATS, Pixels, has_16_bits, open_image

MAX_MEGAPIXELS = 64.0
"""Default bound wherever photographs are decoded, above those of telephones. Decoding needs about ten bytes a pixel."""


def read_photograph(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> tuple[Pixels, tuple[str, ...]]:
    """Read a photograph upright, as RGB `(H, W, 3)` uint8, and the conversions that it needed.

    In the order done: `animated` (first frame taken), `turned` (by its EXIF orientation), `16_bit` (scaled down),
    `transparent` (laid on white), `cmyk` or `cmyk_without_profile` (converted by its colour profile, or by Pillow's
    formula). More than `max_megapixels` are refused before a pixel is decoded.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the image: {error.strerror or error}") from error
    return decode_photograph(data, str(path), max_megapixels=max_megapixels)


def decode_photograph(
    data: bytes, source: str, *, max_megapixels: float = MAX_MEGAPIXELS, formats: tuple[str, ...] = FORMATS
) -> tuple[Pixels, tuple[str, ...]]:
    """`read_photograph` for bytes that are in memory already; `source` is for errors."""
    with open_image(data, source, expected="a photograph", formats=formats) as image:
        megapixels = image.width * image.height / 1e6
        if megapixels > max_megapixels:
            raise TooLargeError(f"{source}: expected at most {max_megapixels:g} megapixels, received {megapixels:.0f}")
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
    if has_16_bits(data):
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
