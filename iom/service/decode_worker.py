"""The process that decodes what strangers send: little memory, no files, no keys."""

import contextlib
import io
import resource
import signal
from multiprocessing.connection import Connection

import numpy as np
from PIL import Image

from iom.data.images import Pixels, decode_image
from iom.data.photographs import TooLargeError, decode_photograph
from iom.errors import DataError

LARGEST_SIDE = 1024
"""Photographs are shrunk to it before they leave the worker."""
ALIGNED = 112
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""What it takes: fewer decoders than for files of one's own."""


def serve(connection: Connection, largest_megapixels: float, memory: int) -> None:
    """Answer `(bytes, photographs allowed)` with `(kind, pixels or message)` until the pipe ends.

    Kinds: `aligned`, `photograph`, `large`, `bad`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service ends it
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes nothing, not even a core
    with contextlib.suppress(EOFError, OSError):
        while True:
            data, photographs = connection.recv()
            connection.send(decode(data, photographs, largest_megapixels))


def decode(data: bytes, photographs: bool, largest_megapixels: float) -> tuple[str, Pixels | str]:
    """One answer; see `serve`."""
    try:
        if not photographs or _size(data) == (ALIGNED, ALIGNED):
            return "aligned", decode_image(data, "image", size=ALIGNED, formats=FORMATS)
        pixels, _ = decode_photograph(
            data, "image", largest_megapixels=largest_megapixels, formats=FORMATS
        )
        return "photograph", _shrunk(pixels)
    except TooLargeError as error:
        return "large", str(error)
    except DataError as error:
        return "bad", str(error)
    except MemoryError:
        return "large", "image: it takes too much memory to decode"
    except Exception as error:  # whatever a decoder can raise is the sender's doing
        return "bad", f"image: cannot be decoded ({type(error).__name__})"


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.size
    except Exception:  # the decoder that follows tells why
        return None


def _shrunk(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    shrink = LARGEST_SIDE / max(height, width)
    if shrink >= 1:
        return pixels
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    return np.asarray(Image.fromarray(pixels).resize(size, reducing_gap=2.0))
