"""Which kernels this process compares codes with; chosen once, when it is imported.

`compiled` (numba) is taken wherever it works: LLVM lowers its vectors to what the CPU has. Where numba cannot be loaded
or cannot compile, `portable` (NumPy) gives the same distances, many times slower, and a warning says so. The
environment variable `IOM_KERNELS` names one of the two.
"""

import importlib
import os
import warnings
from typing import Any, Protocol

from iom._registry import lookup
from iom.codes._kernels.portable import Kernel

VARIABLE = "IOM_KERNELS"

BACKENDS = {"compiled": "iom.codes._kernels.compiled", "portable": "iom.codes._kernels.portable"}
"""Name to the module with its kernels."""


class Backend(Protocol):
    """A module with kernels; see `iom.codes._kernels.compiled`."""

    def paired_kernel(self, planes: int, words: int) -> Kernel:
        """Distances of row i and row i."""
        ...

    def table_kernel(self, planes: int, words: int, *, queries: int = 0, rows: int = 0) -> Kernel:
        """Distances of all pairs."""
        ...

    def nearest_kernel(self, planes: int, words: int, *, queries: int = 0, rows: int = 0) -> Kernel:
        """The best among some gallery rows."""
        ...


def choose(wanted: str = "") -> tuple[str, Backend]:
    """Name and module of the kernels to use.

    Args:
        wanted: A name of `BACKENDS`; empty takes the first that works.

    Raises:
        ConfigError: No such name.
    """
    if wanted:
        module = lookup(BACKENDS, wanted, f"kernels ({VARIABLE})")
        return wanted, _loaded(module)
    try:
        return "compiled", _tried(_loaded(BACKENDS["compiled"]))
    except Exception as error:  # a missing package, a CPU that LLVM does not know, no compiler
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        warnings.warn(
            f"codes are compared without numba, many times slower, as it does not work here "
            f"({reason}); mend the installation of numba, or say {VARIABLE}=portable",
            RuntimeWarning,
            stacklevel=2,
        )
    return "portable", _loaded(BACKENDS["portable"])


def _loaded(module: str) -> Any:
    return importlib.import_module(module)


def _tried(backend: Backend) -> Backend:
    backend.paired_kernel(1, 1)  # compiled here and now, or read from the cache
    return backend


NAME, KERNELS = choose(os.environ.get(VARIABLE, ""))
