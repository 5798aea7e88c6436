"""Threads of NumPy's matrix products."""

import contextlib
import functools
import threading
from collections.abc import Iterator

import numpy as np  # noqa: F401  (the controller knows what is loaded when it is made)
from threadpoolctl import ThreadpoolController

_LOCK = threading.Lock()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Products take one thread meanwhile; callers take turns, as the limit is that of the process.

    For small matrices: their threads spend the time on waiting for each other, most of all where other processes want
    the cores or a container has a share of them.
    """
    with _LOCK, _controller().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
