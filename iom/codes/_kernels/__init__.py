"""Kernels that compare codes, and the choice of one backend of them, made once, when codes are first compared.

`compiled` (numba) is taken wherever it works: LLVM lowers its vectors to what the CPU has. Where numba cannot be loaded
or cannot compile, `portable` (NumPy) gives the same distances, many times slower, and a warning says so. The
environment variable `IOM_KERNELS` names one of the two.
"""

import functools
import importlib
import os
import warnings
from typing import Any

from iom._registry import lookup

VARIABLE = "IOM_KERNELS"

BACKENDS = {"compiled": "iom.codes._kernels.compiled", "portable": "iom.codes._kernels.portable"}
"""Name to the module with its `paired_kernel`, `table_kernel` and `nearest_kernel`."""


@functools.cache
def kernels() -> Any:
    """The module of kernels that this process uses."""
    return choose(os.environ.get(VARIABLE, ""))


def choose(wanted: str = "") -> Any:
    """The module of a backend, by a name of `BACKENDS`; empty takes the first that works."""
    if wanted:
        return importlib.import_module(lookup(BACKENDS, wanted, f"kernels ({VARIABLE})"))
    try:
        compiled = importlib.import_module(BACKENDS["compiled"])
        compiled.paired_kernel(1, 1)  # compiled here and now, or read from the cache
    except Exception as error:  # a missing package, a CPU that LLVM does not know, no compiler
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        warnings.warn(
            f"codes are compared without numba, many times slower, as it does not work here "
            f"({reason}); mend the installation of numba, or say {VARIABLE}=portable",
            RuntimeWarning,
            stacklevel=2,
        )
    else:
        return compiled
    return importlib.import_module(BACKENDS["portable"])
