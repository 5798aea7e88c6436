"""Python's search for cyclic garbage, held back while a batch is made."""

import contextlib
import gc
from collections.abc import Iterator

_WORTH_IT = 256


@contextlib.contextmanager
def no_collection(count: int) -> Iterator[None]:
    """Hold it back while about `count` objects are made that hold no cycles.

    A batch of thousands of references would start it again and again, over everything that the
    process holds: a third of the time of an enrolment. Threads may overlap: the first one that held
    it back lets it go.
    """
    if count < _WORTH_IT or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
