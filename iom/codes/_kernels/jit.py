"""How kernels are compiled: for known types, without the interpreter's lock, kept on disk."""

from collections.abc import Callable
from typing import Any

import numba
from numba import types

from iom.codes._kernels.portable import Kernel

ROWS = types.Array(types.uint64, 3, "C", readonly=True)
DISTANCES = types.Array(types.int32, 2, "C")
IDS = types.Array(types.int64, 2, "C")


def compiled(*arguments: Any) -> Callable[[Kernel], Kernel]:
    """Decorator: compile a function of these argument types that returns nothing.

    numba knows a stored kernel to be stale by the file its function stands in: what a kernel inlines has to stand in
    the same file.
    """

    def decorate(function: Kernel) -> Kernel:
        options = {"nogil": True, "boundscheck": False}
        signature = types.void(*arguments)
        try:
            return numba.njit(signature, cache=True, **options)(function)  # type: ignore[no-any-return]
        except RuntimeError as error:
            # An installation without any writable folder has no place for numba's cache.
            if "cannot cache" not in str(error):
                raise
            return numba.njit(signature, **options)(function)  # type: ignore[no-any-return]

    return decorate
