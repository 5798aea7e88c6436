"""Kernels that compare codes, and the choice of one backend of them, made once, when codes are first compared.

`compiled` (numba, the extra `numba`) is taken wherever it works: LLVM lowers its vectors to what the CPU has. Without
numba, `portable` (NumPy) gives the same distances, several times slower; where numba is installed and does not work, a
warning says so. Until the choice is made, comparisons of few codes go to `portable`, which is there at once. The
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


FEW_WORDS = 1 << 20
"""Words of codes that `portable` compares in less time than numba takes to start: about 40,000 codes of 512x8."""


def kernels(words: int = FEW_WORDS) -> Any:
    """The module of kernels for a comparison that touches so many words of codes."""
    if words < FEW_WORDS and not chosen.cache_info().currsize and not os.environ.get(VARIABLE):
        return importlib.import_module(BACKENDS["portable"])
    return chosen()


@functools.cache
def chosen() -> Any:
    """The backend that this process uses."""
    return choose(os.environ.get(VARIABLE, ""))


def choose(wanted: str = "") -> Any:
    """The module of a backend, by a name of `BACKENDS`; empty takes the first that works."""
    if wanted:
        return importlib.import_module(lookup(BACKENDS, wanted, f"kernels ({VARIABLE})"))
    try:
        importlib.import_module("numba")  # before what it brings along, so that an error names it where it is absent
        compiled = importlib.import_module(BACKENDS["compiled"])
        compiled.paired_kernel(1, 1)  # compiled here and now, or read from the cache
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
    except Exception as error:  # a damaged package, a CPU that LLVM does not know, no compiler
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        warnings.warn(
            f"codes are compared without numba, several times slower, as it does not work here "
            f"({reason}); mend the installation of numba, or say {VARIABLE}=portable",
            RuntimeWarning,
            stacklevel=2,
        )
    else:
        return compiled
    return importlib.import_module(BACKENDS["portable"])
