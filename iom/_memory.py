"""Protection of this process's memory from core dumps."""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Switch off core dumps and, on Linux, access to the memory of this process by others of the same user.

    The limit on core dumps is inherited by child processes, the other setting is not.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "cannot switch off core dumps")
