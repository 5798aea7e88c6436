"""Images decoded in processes of their own, with a limit to their number, time and memory."""

import contextlib
import os
import queue
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from iom.data.images import Pixels
from iom.errors import FaceError, IomError
from iom.photos.photographs import TooLargeError
from iom.service.decode_frames import Answer, FrameError, receive_answer, send_request
from iom.service.settings import ServiceSettings

_FIRST_ANSWER = 60.0  # a new process imports NumPy and Pillow, on a machine that may be busy
_PROBE = b""
_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")
"""Of the environment, all that a worker gets: what Python needs to start."""
_START = (
    "import sys; sys.path[:] = sys.argv.pop(1).split(sys.argv.pop(1)); "
    "from iom.service.decode_worker import main; sys.exit(main(sys.argv[1:]))"
)


class BusyError(IomError):
    """There are too many concurrent requests; retry later."""


class Decoded(NamedTuple):
    """Pixels `(H, W, 3)` uint8, RGB; `is_aligned` when they are a face of the embedder's size."""

    pixels: Pixels
    is_aligned: bool


class Worker:
    """One process and the socket to it.

    It inherits neither environment nor files of the service, and nothing it answers is unpickled.

    Args:
        settings: Its limits.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._channel, other = socket.socketpair()
        try:
            self.process = subprocess.Popen(  # noqa: S603 - Python itself
                worker_command(settings),
                stdin=other.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _VARIABLES if name in os.environ},
                process_group=0,  # Ctrl-C is for the service, which ends its workers
            )
        except OSError:
            self._channel.close()
            raise
        finally:
            other.close()
        self.is_warm = False

    def ask(self, data: bytes, photographs: bool, seconds: float) -> Answer:
        """Its answer.

        Raises:
            TimeoutError: It took too long, died, or answered with something else than an answer.
        """
        try:
            if not self.is_warm:
                self._exchange(_PROBE, False, _FIRST_ANSWER)
                self.is_warm = True
            return self._exchange(data, photographs, seconds)
        except (EOFError, OSError, FrameError) as error:
            raise TimeoutError from error

    def _exchange(self, data: bytes, photographs: bool, seconds: float) -> Answer:
        end = time.monotonic() + seconds
        send_request(self._channel, data, photographs, seconds=seconds)
        return receive_answer(self._channel, seconds=max(0.0, end - time.monotonic()))

    def kill(self) -> None:
        """End it, whatever it does."""
        self._channel.close()
        self.process.kill()
        self.process.wait()


def worker_command(settings: ServiceSettings) -> list[str]:
    """The command line of a worker: isolated from the environment, with the imports of this one."""
    path = os.pathsep.join(each or str(Path.cwd()) for each in sys.path)
    limits = (settings.largest_megapixels, settings.largest_body, settings.decode_memory)
    return [sys.executable, "-I", "-c", _START, path, os.pathsep, *map(str, limits)]


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
        """Images whose worker was killed, died or gave an answer that is not one."""
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
            raise BusyError("Too many concurrent images; retry later") from error
        keep = None
        try:
            worker = worker or Worker(self._settings)
            kind, content = worker.ask(data, self.photographs, self._settings.decode_seconds)
            keep = worker
        except TimeoutError as error:
            self.given_up += 1
            raise FaceError("image: decoding failed or took too long") from error
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
