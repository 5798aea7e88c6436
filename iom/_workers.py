"""Pool of killable worker processes: bytes in, bytes out, with limits on time and memory.

A worker is a Python process of its own that inherits no files and, when isolated, no environment. Messages are bytes
as `multiprocessing.connection` frames them; nothing is unpickled. A worker that exceeds its time, dies, or sends
anything but one message is killed and replaced; only its own request fails.
"""

import contextlib
import importlib
import os
import queue
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import iom.errors
from iom.errors import BusyError, IomError, WorkerError

T = TypeVar("T")
Handler = Callable[[bytes], bytes]
"""Answer to a request, computed in a worker; it returns whatever happens, or the worker is replaced."""
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")
"""Variables of the environment that an isolated worker gets: those that Python needs to start."""
_MAX_REFUSAL = 10_000
_ANSWER, _READY, _REFUSAL = b"A", b"R", b"E"
"""First byte of a worker's message."""
_START = (
    "import sys; sys.path[:] = sys.argv.pop(1).split(sys.argv.pop(1)); "
    "from iom._workers import main; sys.exit(main(sys.argv[1:]))"
)


class WorkerPool:
    """A fixed number of workers; each is started when it is first needed.

    `handler` is a `package.module:function`, called in the worker with `arguments` (texts), that returns the `Handler`.
    `max_answer` bounds an answer and `memory` the address space, in bytes (0: no limit). `isolated` workers have no
    environment and cannot write files. `start_seconds` covers imports and building networks on a busy machine.
    """

    def __init__(
        self,
        handler: str,
        *arguments: str,
        workers: int,
        max_answer: int,
        memory: int = 0,
        isolated: bool = False,
        start_seconds: float = 300.0,
    ) -> None:
        self._command = worker_command(handler, arguments, memory=memory, isolated=isolated)
        self._isolated, self._max_answer, self._start_seconds = isolated, max_answer, start_seconds
        self._closed = False
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        self._busy: set[Worker] = set()
        self.workers = workers
        for _ in range(workers):
            self._idle.put(None)

    def start(self) -> None:
        """Start all workers without waiting until they are ready, so that the first requests wait less."""
        for worker in [self._idle.get() for _ in range(self.workers)]:
            self._idle.put(worker or Worker(self._command, isolated=self._isolated))

    def check(self) -> None:
        """Wait until a worker is ready; an error of the handler there is raised here, by its message."""
        with self._worker(None):
            pass

    def ask(self, request: bytes, parse: Callable[[bytes], T], *, seconds: float, wait: float | None = None) -> T:
        """The answer to a request, as `parse` reads it; where it raises `WorkerError`, the worker is replaced.

        `seconds` is the time for the answer, `wait` for a worker to become free (`None`: for ever); then it is a
        `BusyError`.
        """
        with self._worker(wait) as worker:
            return parse(worker.ask(request, seconds, self._max_answer))

    def close(self) -> None:
        """Kill all workers; requests under way raise `WorkerError`."""
        self._closed = True
        for worker in tuple(self._busy):
            worker.process.kill()  # the thread that waits for it ends it
        with contextlib.suppress(queue.Empty):
            while True:
                if (idle := self._idle.get_nowait()) is not None:
                    idle.kill()

    @contextlib.contextmanager
    def _worker(self, wait: float | None) -> Iterator["Worker"]:
        """A worker that is ready for one request, which stays in the pool only if nothing was raised."""
        try:
            worker = self._idle.get(timeout=wait)
        except queue.Empty:
            raise BusyError("Too many concurrent requests; retry later") from None
        is_usable = False
        try:
            if self._closed:
                raise WorkerError("the pool of workers is closed")
            if worker is None:
                worker = Worker(self._command, isolated=self._isolated)
            self._busy.add(worker)
            worker.wait_until_ready(self._start_seconds)
            yield worker
            is_usable = not self._closed
        finally:
            if worker is not None and not is_usable:
                worker.kill()
            if worker is not None:
                self._busy.discard(worker)
            self._idle.put(worker if is_usable else None)


class Worker:
    """One process and the connection to it."""

    def __init__(self, command: Sequence[str], *, isolated: bool) -> None:
        self._socket, other = socket.socketpair()
        self._channel = Connection(os.dup(self._socket.fileno()))
        try:
            self.process = subprocess.Popen(  # noqa: S603 - Python itself
                command,
                stdin=other.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} if isolated else None,
                process_group=0,  # Ctrl-C is for the caller, which ends its workers
            )
        except OSError:
            self._disconnect()
            raise
        finally:
            other.close()
        self.is_ready = False

    def wait_until_ready(self, seconds: float) -> None:
        """Wait for the worker's first message, once."""
        if self.is_ready:
            return
        with self._limited(seconds, "did not start"):
            message = self._channel.recv_bytes(_MAX_REFUSAL + 1)
        if message[:1] == _REFUSAL:
            raise _refusal(message[1:])
        self.is_ready = message == _READY
        if not self.is_ready:
            raise WorkerError("a worker process did not start: it sent another message")

    def ask(self, request: bytes, seconds: float, max_answer: int) -> bytes:
        """The worker's answer."""
        with self._limited(seconds, "died"):
            if self._channel.poll():
                raise WorkerError("the worker process died, or sent a message that nothing had asked for")
            self._channel.send_bytes(request)
            message = self._channel.recv_bytes(max_answer + 1)
        if message[:1] != _ANSWER:
            raise WorkerError("the worker process sent another message than an answer")
        return message[1:]

    def kill(self) -> None:
        self.process.kill()
        self._disconnect()
        self.process.wait()

    def _disconnect(self) -> None:
        self._channel.close()
        self._socket.close()

    @contextlib.contextmanager
    def _limited(self, seconds: float, verb: str) -> Iterator[None]:
        """Bounds the time of an exchange, whose failures become a `WorkerError`."""
        late = threading.Event()

        def end() -> None:
            late.set()
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # ends what waits for the worker, or for its children

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield
        except (EOFError, OSError) as error:
            if not late.is_set():
                raise WorkerError(f"the worker process {verb}") from error
        finally:
            timer.cancel()
            timer.join()
        if late.is_set():
            raise WorkerError("the worker process took too long", timed_out=True)


def worker_command(handler: str, arguments: Sequence[str], *, memory: int, isolated: bool) -> list[str]:
    """The command line of a worker, with the import path of this process."""
    path = os.pathsep.join(each or str(Path.cwd()) for each in sys.path)
    options = [str(memory), str(int(isolated)), handler, *arguments]
    return [sys.executable, "-I", "-c", _START, path, os.pathsep, *options]


def main(argv: Sequence[str]) -> int:
    """Answer requests on standard input, a socket; `argv`: memory, isolated (0 or 1), handler, its arguments."""
    memory, isolated, handler, *arguments = argv
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = Connection(sys.stdin.fileno())
    threading.Thread(target=_end_with_parent, args=(channel,), daemon=True).start()
    module, _, name = handler.partition(":")
    with contextlib.suppress(EOFError, OSError):
        try:
            handle: Handler = getattr(importlib.import_module(module), name)(*arguments)
        except IomError as error:
            channel.send_bytes(_REFUSAL + f"{type(error).__name__}\n{error}".encode("utf-8", "replace")[:_MAX_REFUSAL])
            return 1
        if int(memory):
            resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
        if int(isolated):
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        channel.send_bytes(_READY)
        while True:
            channel.send_bytes(_ANSWER + handle(channel.recv_bytes()))
    return 0


def _refusal(body: bytes) -> IomError:
    """The error with which a handler refused to be built, by the name of its class."""
    name, _, text = body.decode("utf-8", "replace").partition("\n")
    kind = getattr(iom.errors, name, IomError)
    return kind(text) if isinstance(kind, type) and issubclass(kind, IomError) else IomError(text)


def _end_with_parent(channel: Connection) -> None:
    """End a worker that is at work, too, when its parent is gone."""
    hung_up = select.poll()
    hung_up.register(channel, 0)
    hung_up.poll()
    os._exit(1)
