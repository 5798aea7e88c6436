"""Stop a training gently: Ctrl-C ends it after the step, `n` typed in after the epoch."""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

POLL_SECONDS = 0.3
STOP_LINE = "n"


class TrainingStopped(KeyboardInterrupt):
    """The user stopped the training; everything up to here is saved."""


class StopRequests:
    """What the user asked for so far.

    Attributes:
        after_step: Ctrl-C was pressed: stop as soon as the step is done.
        after_epoch: `n` was typed: stop when the epoch is done.
    """

    def __init__(self) -> None:
        self.after_step = False
        self.after_epoch = False

    @property
    def any(self) -> bool:
        """Whether to stop at the end of the epoch."""
        return self.after_step or self.after_epoch


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Listen for Ctrl-C, and for `n` where a terminal is there to type it in.

    The first Ctrl-C is noted, the second one acts at once. Outside the main thread signals cannot
    be caught, and are left as they are.
    """
    requests = StopRequests()
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            stack.enter_context(_caught_interrupts(requests))
        if sys.stdin is not None and sys.stdin.isatty():
            stack.enter_context(_typed_lines(requests))
        yield requests


@contextlib.contextmanager
def _caught_interrupts(requests: StopRequests) -> Iterator[None]:
    def note(number: int, frame: FrameType | None) -> None:
        requests.after_step = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        message = "\nstopping when this step is done and saved; Ctrl-C again stops at once\n"
        os.write(2, message.encode())  # a signal handler must not touch a buffered stream

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _typed_lines(requests: StopRequests) -> Iterator[None]:
    ended = threading.Event()

    def listen() -> None:
        terminal: Any = sys.stdin
        while not ended.is_set() and not requests.after_epoch:
            try:
                # Reading in the background would suspend the whole process.
                foreground = os.getpgrp() == os.tcgetpgrp(terminal.fileno())
                ready = select.select([terminal], [], [], POLL_SECONDS)[0]
                if not foreground:
                    ended.wait(POLL_SECONDS)
                elif ready:
                    line = terminal.readline()
                    if not line:
                        return
                    requests.after_epoch = line.strip().lower() == STOP_LINE
            except (OSError, ValueError):
                return  # the terminal is gone

    thread = threading.Thread(target=listen, name="typed-lines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(2 * POLL_SECONDS)
