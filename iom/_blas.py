"""Threads of NumPy's matrix products."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np  # noqa: F401  (the controller knows what is loaded when it is made)
from threadpoolctl import ThreadpoolController

_LOCK = threading.Lock()
_limits: list[Any] = []
"""The limit that holds now, once for each thread that asked for it."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Products take one thread meanwhile, in the whole process.

    For small matrices: their threads spend the time on waiting for each other, most of all where other processes want
    the cores or a container has a share of them.
    """
    with _LOCK:
        _limits.append(_limits[0] if _limits else _controller().limit(limits=1, user_api="blas"))
    try:
        yield
    finally:
        with _LOCK:
            limit = _limits.pop()
            if not _limits:
                limit.restore_original_limits()


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
