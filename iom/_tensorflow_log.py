"""Log lines of TensorFlow's import, filtered out of standard error."""

import contextlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

MODULE = "tensorflow"
_NOISE = re.compile(rb"WARNING: All log messages before absl::InitializeLog|[IWE]\d{4} \d\d:\d\d:\d\d")


def silence() -> None:
    """Hide the log lines that the first import of TensorFlow in this process writes to standard error.

    Its libraries write them to the file descriptor, whatever `TF_CPP_MIN_LOG_LEVEL` says. Other lines are written when
    the import has ended, and all lines where it fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if MODULE not in sys.modules and not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds TensorFlow once, where the other finders do, and steps aside."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        loader, execute = spec.loader, spec.loader.exec_module

        def quietly(module: ModuleType) -> None:
            del loader.exec_module  # the method of its class again
            with _without_log_lines():
                execute(module)

        loader.exec_module = quietly  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _without_log_lines() -> Iterator[None]:
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    succeeded = False
    with tempfile.TemporaryFile() as parked:
        os.dup2(parked.fileno(), 2)
        try:
            yield
            succeeded = True
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            parked.seek(0)
            for line in parked:
                if not (succeeded and _NOISE.match(line)):
                    os.write(2, line)
