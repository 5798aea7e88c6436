"""Settings of the process that holds keys: no core dumps, no reading of its memory."""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Switch off core dumps of this process and, on Linux, reading its memory as the same user.

    The limit is inherited by every process that it starts; the other is not.

    Raises:
        OSError: Linux refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "cannot switch off core dumps")
