"""Decoding of uploaded images in isolated processes, with limits on their number, time and memory."""

import struct
from typing import NamedTuple

import numpy as np
from PIL import Image

from iom._workers import Handler, WorkerPool
from iom.errors import DataError, FaceError, TooLargeError, WorkerError
from iom.photos.images import SIZE, Pixels, decode_image, decode_photograph, is_aligned
from iom.service.settings import ServiceSettings

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""Accepted in uploads: fewer decoders than for a user's own files."""
MAX_SIDE = 1024
"""Larger photographs are shrunk to it."""
MAX_TEXT = 1000
"""Bytes of a refusal."""
_KINDS = ("aligned", "photograph", "large", "bad")
_HEAD = struct.Struct("!BHH")  # number of the kind, height, width; behind it pixels, or the text of a refusal


class Decoded(NamedTuple):
    """Pixels `(H, W, 3)` uint8, RGB; `is_aligned` when they are a face of the embedder's size."""

    pixels: Pixels
    is_aligned: bool


class Decoder:
    """A few isolated worker processes that decode images: photographs for a detector, else only aligned faces.

    They inherit neither environment nor files of the service and write none. Their answers are bytes of a fixed form,
    and a worker that sends anything else is replaced.
    """

    def __init__(self, settings: ServiceSettings, *, photographs: bool = False) -> None:
        self._settings = settings
        self.given_up = 0
        """Images whose worker was killed, died or sent a malformed answer."""
        self._pool = WorkerPool(
            "iom.service.decoding:image_handler",
            str(int(photographs)),
            str(settings.max_megapixels),
            workers=settings.decode_workers,
            max_answer=_HEAD.size + MAX_SIDE * MAX_SIDE * 3,
            memory=settings.decode_memory,
            isolated=True,
            start_seconds=60.0,
        )
        self._pool.start()  # the first images need not wait for them

    def decode(self, data: bytes) -> Decoded:
        """Decode one image; a `BusyError` where no worker became free in time."""
        limits = self._settings
        try:
            answer = self._pool.ask(data, parse_answer, seconds=limits.decode_seconds, wait=limits.wait_seconds)
        except WorkerError as error:
            self.given_up += 1
            raise FaceError("image: decoding failed or took too long") from error
        if isinstance(answer, FaceError):
            raise answer
        return answer

    def close(self) -> None:
        """Kill all workers."""
        self._pool.close()


def parse_answer(answer: bytes) -> Decoded | FaceError:
    """Pixels, or the reason for which there are none, of the bytes that a worker sent; a `WorkerError` if malformed."""
    if len(answer) < _HEAD.size:
        raise WorkerError("the worker process sent a malformed answer")
    number, height, width = _HEAD.unpack_from(answer)
    body = answer[_HEAD.size :]
    kind = _KINDS[number] if number < len(_KINDS) else ""
    if kind in ("large", "bad") and not height and not width and len(body) <= MAX_TEXT:
        text = body.decode("utf-8", "replace")
        if text.isprintable() and "\ufffd" not in text:
            return TooLargeError(text) if kind == "large" else FaceError(text)
    sides = {"aligned": range(SIZE, SIZE + 1), "photograph": range(1, MAX_SIDE + 1)}.get(kind, ())
    if height in sides and width in sides and len(body) == height * width * 3:
        return Decoded(np.frombuffer(body, np.uint8).reshape(height, width, 3), kind == "aligned")
    raise WorkerError("the worker process sent a malformed answer")


def image_handler(photographs: str, max_megapixels: str) -> Handler:
    """The handler of a worker; a request is an encoded image, `parse_answer` reads the answer."""
    limit = float(max_megapixels)
    return lambda data: _packed(*decode(data, photographs == "1", limit))


def decode(data: bytes, photographs: bool, max_megapixels: float) -> tuple[str, Pixels | str]:
    """Kind of an answer, and pixels or the text of a refusal."""
    try:
        if photographs:
            pixels, notes = decode_photograph(data, "image", max_megapixels=max_megapixels, formats=FORMATS)
            if is_aligned(pixels, notes, source="image"):
                return "aligned", pixels
            picture = Image.fromarray(pixels)
            picture.thumbnail((MAX_SIDE, MAX_SIDE))
            return "photograph", np.asarray(picture)
        return "aligned", decode_image(data, "image", size=SIZE, formats=FORMATS)
    except TooLargeError as error:
        return "large", str(error)
    except DataError as error:
        return "bad", str(error)
    except MemoryError:
        return "large", "image: it takes too much memory to decode"
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        return "bad", f"image: cannot be decoded ({type(error).__name__})"


def _packed(kind: str, content: Pixels | str) -> bytes:
    if isinstance(content, str):
        line = "".join(each if each.isprintable() and each != "\ufffd" else "?" for each in content)
        body = line.encode("utf-8", "replace")[:MAX_TEXT].decode("utf-8", "ignore").encode()
        return _HEAD.pack(_KINDS.index(kind), 0, 0) + body
    return _HEAD.pack(_KINDS.index(kind), *content.shape[:2]) + content.tobytes()
