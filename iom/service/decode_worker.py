"""Decoder of images in a process of its own: little memory, no files, no keys."""

import contextlib
import io
import resource
import signal
import socket
import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image

from iom.data.images import Pixels, decode_image
from iom.errors import DataError
from iom.photos.photographs import TooLargeError, decode_photograph
from iom.service.decode_frames import ALIGNED, LARGEST_SIDE, Answer, FrameError, receive_request, send_answer

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""What it takes: fewer decoders than for files of one's own."""


def main(argv: Sequence[str]) -> int:
    """Answer the requests that come in on standard input, a socket, until it ends.

    Args:
        argv: Megapixels of an image, bytes of an image, bytes of address space; each at most.
    """
    megapixels, max_bytes, memory = float(argv[0]), int(argv[1]), int(argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service ends it
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes nothing, not even a core
    channel = socket.socket(fileno=sys.stdin.fileno())
    with contextlib.suppress(EOFError, OSError, FrameError):
        while True:
            data, photographs = receive_request(channel, max_bytes=max_bytes)
            send_answer(channel, decode(data, photographs, megapixels))
    return 0


def decode(data: bytes, photographs: bool, largest_megapixels: float) -> Answer:
    """The answer to one request."""
    try:
        if not photographs or _size(data) == (ALIGNED, ALIGNED):
            return Answer("aligned", decode_image(data, "image", size=ALIGNED, formats=FORMATS))
        pixels, _ = decode_photograph(data, "image", largest_megapixels=largest_megapixels, formats=FORMATS)
        return Answer("photograph", _shrunk(pixels))
    except TooLargeError as error:
        return Answer("large", str(error))
    except DataError as error:
        return Answer("bad", str(error))
    except MemoryError:
        return Answer("large", "image: it takes too much memory to decode")
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        return Answer("bad", f"image: cannot be decoded ({type(error).__name__})")


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
