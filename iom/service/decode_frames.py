"""Binary messages between the service and its decode workers: fixed headers, bounded bodies.

Neither side trusts the other: every field of a header is checked before its body is read, and a
body is bytes of an image, pixels or a line of text, nothing that could be an object.
"""

import socket
import struct
import time
from typing import NamedTuple

import numpy as np

from iom.data.images import Pixels

KINDS = ("aligned", "photograph", "large", "bad")
"""Of an answer: pixels of two kinds; two kinds of refusal, with a line that says why."""
ALIGNED = 112
"""Side of an aligned face."""
LARGEST_SIDE = 1024
"""Of the pixels of an answer; larger photographs are shrunk to it."""
LONGEST_TEXT = 1000
"""Bytes of a refusal."""

_REQUEST = struct.Struct("!4sBI")  # mark, photographs allowed, bytes of the image
_ANSWER = struct.Struct("!4sBHHI")  # mark, number of the kind, height, width, bytes of the body
_ASK, _TELL = b"iomQ", b"iomA"


class FrameError(Exception):
    """A message that is not what was expected."""


class Answer(NamedTuple):
    """Pixels `(H, W, 3)` uint8 of an image, or a text that says why there are none."""

    kind: str
    content: Pixels | str


def send_request(channel: socket.socket, data: bytes, photographs: bool, *, seconds: float) -> None:
    """Ask for an image to be decoded.

    Raises:
        TimeoutError: The worker does not read.
    """
    channel.settimeout(seconds)
    channel.sendall(_REQUEST.pack(_ASK, photographs, len(data)) + data)


def receive_request(channel: socket.socket, *, max_bytes: int) -> tuple[bytes, bool]:
    """The next image and whether photographs are allowed; waits for it.

    Raises:
        FrameError: Not a request, or a longer one than allowed.
        EOFError: There is none any more.
    """
    mark, photographs, length = _REQUEST.unpack(_received(channel, _REQUEST.size))
    if mark != _ASK or photographs > 1 or length > max_bytes:
        raise FrameError
    return bytes(_received(channel, length)), bool(photographs)


def send_answer(channel: socket.socket, answer: Answer) -> None:
    """Answer a request."""
    kind, content = answer
    if isinstance(content, str):
        height = width = 0
        body = _printable(content)
    else:
        height, width = content.shape[:2]
        body = content.tobytes()
    header = _ANSWER.pack(_TELL, KINDS.index(kind), height, width, len(body))
    channel.sendall(header + body)


def receive_answer(channel: socket.socket, *, seconds: float) -> Answer:
    """The answer of a worker.

    Raises:
        FrameError: Not an answer: the worker is to be ended.
        TimeoutError: It takes longer than this in all.
        EOFError: The worker ended.
    """
    end = time.monotonic() + seconds
    mark, number, height, width, length = _ANSWER.unpack(_received(channel, _ANSWER.size, end))
    if mark != _TELL or number >= len(KINDS):
        raise FrameError
    kind = KINDS[number]
    if kind in ("large", "bad"):
        if height or width or length > LONGEST_TEXT:
            raise FrameError
        try:
            text = _received(channel, length, end).decode()
        except UnicodeDecodeError:
            raise FrameError from None
        if not text.isprintable():
            raise FrameError
        return Answer(kind, text)
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        raise FrameError
    if kind == "aligned" and not height == width == ALIGNED:
        raise FrameError
    if length != height * width * 3:
        raise FrameError
    pixels = np.frombuffer(_received(channel, length, end), np.uint8)
    return Answer(kind, pixels.reshape(height, width, 3))


def _printable(text: str) -> bytes:
    line = "".join(each if each.isprintable() else "?" for each in text)
    return line.encode("utf-8", "replace")[:LONGEST_TEXT].decode("utf-8", "ignore").encode()


def _received(channel: socket.socket, length: int, end: float | None = None) -> bytearray:
    """Exactly this many bytes, until `end` on the monotonic clock."""
    body = bytearray(length)
    rest = memoryview(body)
    while rest:
        if end is None:
            channel.settimeout(None)
        else:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            channel.settimeout(left)
        count = channel.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return body
