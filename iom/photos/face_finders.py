"""Processes that find faces: a photograph that hangs or kills one costs itself, not the run."""

import contextlib
import multiprocessing
import queue
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from PIL import Image

from iom.errors import DataError, IomError
from iom.photos.detect import Detect, build_detector, use_one_core
from iom.photos.face_finding import ALIGNED, POINTS, FindSettings, Found, Job, find_faces, mark_of

SECONDS = 120.0
"""For one photograph."""
_SECONDS_TO_START = 300.0  # TensorFlow behind a detector, on a machine that may be busy
_SECONDS_TO_LOOK = 0.2
AHEAD = 64
"""Photographs that may be finished before their turn comes; only their aligned faces are kept."""


class FaceFinders:
    """Finds the faces of photographs in `workers` processes, or in threads of this one.

    Args:
        root: Folder of the photographs.
        settings: See there.
        weights: File of the detector's weights.
        workers: Processes; 0 stays in this one, for what is fast or cannot be sent.
        seconds: After so long a process is ended and its photograph given up.

    Raises:
        DataError: The detector's weights are missing or damaged.
        MissingExtraError: Its package is not installed.
    """

    def __init__(
        self,
        root: Path,
        settings: FindSettings,
        *,
        weights: Path | None = None,
        workers: int = 2,
        seconds: float = SECONDS,
    ) -> None:
        self._root, self._settings, self._weights = root, settings, weights
        self._seconds = seconds
        self._closed = threading.Event()
        self._idle: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()
        self._threads = max(1, workers)
        self._detect = _detector(settings, weights) if workers == 0 else None
        self._in_processes = workers > 0
        for number in range(workers):  # the first at once: what is wrong with the detector shows
            self._idle.put(self._start() if number == 0 else None)

    def found(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Found]]:
        """Each photograph with its faces, in the order of `jobs`, worked on ahead of it."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="iom-faces")
        waiting: deque[tuple[Job, Future[Found]]] = deque()
        try:
            for job in jobs:
                waiting.append((job, pool.submit(self._find, job)))
                if len(waiting) > AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            self._closed.set()
            pool.shutdown(cancel_futures=True)
            with contextlib.suppress(queue.Empty):
                while True:
                    process = self._idle.get_nowait()
                    if process is not None:
                        process.kill()

    def _find(self, job: Job) -> Found:
        if not self._in_processes:
            return find_faces(self._root, job, settings=self._settings, detect=self._detect)
        process = self._idle.get()
        keep = None
        try:
            process = process or self._start()
            answer = process.ask(job, self._seconds)
            keep = process
        except (TimeoutError, EOFError, OSError) as error:
            why = "took too long" if isinstance(error, TimeoutError) else "died"
            reason = f"photograph: the process that worked on it {why}"
            return Found("gave_up", reason, mark=mark_of(self._root / job.name))
        finally:
            if keep is None and process is not None:
                process.kill()
            self._idle.put(keep)
        return answer

    def _start(self) -> "_Process":
        return _Process(self._root, self._settings, self._weights, self._closed)


class _Process:
    """One process and the pipe to it."""

    def __init__(self, root: Path, settings: FindSettings, weights: Path | None, closed: threading.Event) -> None:
        context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
        self._closed = closed
        self._pipe: Connection
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other, root, settings, weights), daemon=True, name="iom-faces"
        )
        self._process.start()
        other.close()
        try:
            problem = self._receive(_SECONDS_TO_START)
        except (EOFError, OSError) as error:
            self.kill()
            raise DataError("a process that finds faces did not start; is memory short?") from error
        if problem is not None:
            self.kill()
            assert isinstance(problem, IomError)  # noqa: S101 - what `_serve` sends first
            raise problem

    def ask(self, job: Job, seconds: float) -> Found:
        """The faces of a photograph.

        Raises:
            TimeoutError: It took longer.
            EOFError: The process died.
        """
        self._pipe.send(job)
        answer = self._receive(seconds)
        assert isinstance(answer, Found)  # noqa: S101 - what `_serve` sends
        return answer

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _receive(self, seconds: float) -> Found | IomError | None:
        end = time.monotonic() + seconds
        while not self._pipe.poll(_SECONDS_TO_LOOK):
            if self._closed.is_set() or time.monotonic() > end:
                raise TimeoutError
        answer: Found | IomError | None = self._pipe.recv()
        return answer


def _serve(pipe: Connection, root: Path, settings: FindSettings, weights: Path | None) -> None:
    """Say whether the detector is there, then answer jobs until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `settings` has the limit
    with contextlib.suppress(EOFError, OSError):
        try:
            use_one_core(settings.detector)
            detect = _detector(settings, weights)
        except IomError as error:
            pipe.send(error)
            return
        pipe.send(None)
        while True:
            pipe.send(find_faces(root, pipe.recv(), settings=settings, detect=detect))


def _detector(settings: FindSettings, weights: Path | None) -> Detect | None:
    if settings.detector in (POINTS, ALIGNED):
        return None
    return build_detector(settings.detector, weights=weights, largest_side=settings.largest_side)
