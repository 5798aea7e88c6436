"""Blosc's decompressor in a process of its own: a damaged chunk can take the library down.

The process reads chunks from standard input and writes what was in them to standard output, each
behind its length (8 bytes, little endian); an empty answer means that it could not.
"""

import subprocess
import sys
import threading
from importlib.util import find_spec
from typing import IO, cast

from iom.errors import missing_extra

_LENGTH = 8
_SECONDS = 60.0
"""For one chunk, which takes milliseconds."""


class BloscProcess:
    """Decompresses chunks until it is closed.

    Raises:
        MissingExtraError: Blosc's decompressor is not installed.
    """

    def __init__(self) -> None:
        if not _is_installed():
            raise missing_extra("a carray", "carray", otherwise="use the .bin file")
        self._process = subprocess.Popen(  # noqa: S603 - the program below, under this Python
            [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._input = cast(IO[bytes], self._process.stdin)
        self._output = cast(IO[bytes], self._process.stdout)

    def __call__(self, data: bytes) -> bytes:
        """What was in a chunk.

        Raises:
            ValueError: The chunk is damaged.
        """
        timer = threading.Timer(_SECONDS, self._process.kill)
        timer.start()
        try:
            self._input.write(len(data).to_bytes(_LENGTH, "little") + data)
            self._input.flush()
            raw = _read_message(self._output)
        except (BrokenPipeError, EOFError) as error:
            raise ValueError("the decompressor failed on it") from error
        finally:
            timer.cancel()
        if not raw:
            raise ValueError("it cannot be decompressed")
        return raw

    def __enter__(self) -> "BloscProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _read_message(stream: IO[bytes]) -> bytes:
    """One message behind its length.

    Raises:
        EOFError: The stream ended in it.
    """
    length = int.from_bytes(_exactly(stream, _LENGTH), "little")
    return _exactly(stream, length)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _is_installed() -> bool:
    try:
        return find_spec("numcodecs") is not None
    except (ImportError, ValueError):  # ValueError: it was taken out of sys.modules
        return False


_PROGRAM = """\
import resource, sys
from numcodecs import blosc
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
while head := sys.stdin.buffer.read(8):
    data = sys.stdin.buffer.read(int.from_bytes(head, "little"))
    try:
        raw = bytes(blosc.decompress(data))
    except (RuntimeError, ValueError):
        raw = b""
    sys.stdout.buffer.write(len(raw).to_bytes(8, "little") + raw)
    sys.stdout.buffer.flush()
"""
