"""Blosc's decompressor in a worker process: a damaged chunk can take the library down."""

from contextlib import AbstractContextManager
from importlib.util import find_spec

from iom._workers import Handler, WorkerPool
from iom.errors import WorkerError, missing_extra

MAX_CHUNK = 1 << 31
"""Bytes of a decompressed chunk; Blosc itself has this limit."""
_SECONDS = 60.0
"""For one chunk, which takes milliseconds."""


class BloscProcess(AbstractContextManager["BloscProcess"]):
    """Decompresses chunks until it is closed.

    Raises:
        MissingExtraError: Blosc's decompressor is not installed.
    """

    def __init__(self) -> None:
        if not _is_installed():
            raise missing_extra("a carray", "carray", otherwise="use the .bin file")
        self._pool = WorkerPool("iom.data.formats.blosc_process:decompressor", workers=1, max_answer=MAX_CHUNK)

    def __call__(self, data: bytes) -> bytes:
        """The contents of a chunk.

        Raises:
            ValueError: The chunk is damaged.
        """
        try:
            raw = self._pool.ask(data, bytes, seconds=_SECONDS)
        except WorkerError as error:
            raise ValueError("the decompressor failed on it") from error
        if not raw:
            raise ValueError("it cannot be decompressed")
        return raw

    def __exit__(self, *_: object) -> None:
        self._pool.close()


def decompressor() -> Handler:
    """The handler of the worker; an empty answer means that a chunk is damaged."""
    from numcodecs import blosc

    def decompress(data: bytes) -> bytes:
        try:
            return bytes(blosc.decompress(data))
        except (RuntimeError, ValueError):
            return b""

    return decompress


def _is_installed() -> bool:
    try:
        return find_spec("numcodecs") is not None
    except (ImportError, ValueError):  # ValueError: it was taken out of sys.modules
        return False
