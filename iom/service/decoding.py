"""Images decoded in processes of their own, with a limit to their number, time and memory."""

import contextlib
import multiprocessing
import queue
from multiprocessing.connection import Connection
from typing import NamedTuple

from iom.data.images import Pixels
from iom.data.photographs import TooLargeError
from iom.errors import FaceError, IomError
from iom.service import decode_worker
from iom.service.settings import ServiceSettings

_FIRST_ANSWER = 60.0  # a new process imports NumPy and Pillow, on a machine that may be busy
_PROBE = (b"", False)


class BusyError(IomError):
    """There is too much to do already; come again."""


class Decoded(NamedTuple):
    """Pixels `(H, W, 3)` uint8, RGB; `is_aligned` when they are a face of the embedder's size."""

    pixels: Pixels
    is_aligned: bool


class Worker:
    """One process and the pipe to it."""

    def __init__(self, settings: ServiceSettings) -> None:
        context = multiprocessing.get_context("spawn")  # no copy of keys and models in it
        self.connection: Connection
        self.connection, other = context.Pipe()
        self.process = context.Process(
            target=decode_worker.serve,
            args=(other, settings.largest_megapixels, settings.decode_memory),
            daemon=True,
            name="iom-decode",
        )
        self.process.start()
        other.close()
        self.is_warm = False

    def ask(self, data: bytes, photographs: bool, seconds: float) -> tuple[str, Pixels | str]:
        """Its answer.

        Raises:
            TimeoutError: It took too long, or died.
        """
        try:
            self._warm()
            self.connection.send((data, photographs))
            if not self.connection.poll(seconds):
                raise TimeoutError
            kind, content = self.connection.recv()
        except (EOFError, OSError) as error:
            raise TimeoutError from error
        return kind, content

    def _warm(self) -> None:
        if self.is_warm:
            return
        self.connection.send(_PROBE)
        if not self.connection.poll(_FIRST_ANSWER):
            raise TimeoutError
        self.connection.recv()
        self.is_warm = True

    def kill(self) -> None:
        """End it, whatever it does."""
        with contextlib.suppress(OSError):
            self.connection.close()
        self.process.kill()
        self.process.join()


class Decoder:
    """A few workers; a worker that hangs or dies is replaced.

    Args:
        settings: Number of workers and their limits.
        photographs: Take images of any size, for a detector; else only aligned faces.
    """

    def __init__(self, settings: ServiceSettings, *, photographs: bool = False) -> None:
        self._settings = settings
        self.photographs = photographs
        self.given_up = 0
        """Images whose worker was killed, or died."""
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(settings.decode_workers):
            self._idle.put(None)  # started when it is first needed

    def start(self) -> None:
        """Start all workers now; the first images need not wait for them."""
        for _ in range(self._settings.decode_workers):
            self._idle.get_nowait()
        for _ in range(self._settings.decode_workers):
            self._idle.put(Worker(self._settings))

    def decode(self, data: bytes) -> Decoded:
        """Decode one image.

        Raises:
            FaceError: Damaged, of another type or size, or the worker gave up on it.
            TooLargeError: Too many pixels.
            BusyError: No worker became free in time.
        """
        try:
            worker = self._idle.get(timeout=self._settings.wait_seconds)
        except queue.Empty as error:
            raise BusyError("too many images at a time; come again in a while") from error
        keep = None
        try:
            worker = worker or Worker(self._settings)
            kind, content = worker.ask(data, self.photographs, self._settings.decode_seconds)
            keep = worker
        except TimeoutError as error:
            self.given_up += 1
            raise FaceError("image: decoding was given up, it takes too long") from error
        finally:
            if keep is None and worker is not None:
                worker.kill()
            self._idle.put(keep)
        if isinstance(content, str):
            raise (TooLargeError if kind == "large" else FaceError)(content)
        return Decoded(content, kind == "aligned")

    def close(self) -> None:
        """End all workers; they must be idle."""
        with contextlib.suppress(queue.Empty):
            while True:
                worker = self._idle.get_nowait()
                if worker is not None:
                    worker.kill()
