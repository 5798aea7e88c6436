"""How long `import iom`, `iom --help` and the help of a command take in a fresh process, and what they import.

    python -m benchmarks.startup

Ends with one line of JSON: medians in seconds of whole processes, Python's own start included, and
whether any of them imported TensorFlow.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.command_line import new_parser, run
from iom.errors import ConfigError

COMMANDS = {
    "import_s": ["-c", "import iom"],
    "iom_help_s": ["-m", "iom", "--help"],
    "command_help_s": ["-m", "iom", "enroll", "--help"],
    "help_s": ["evaluate.py", "--help"],
}
HEAVY = ("tensorflow", "keras", "numpy", "numba", "matplotlib", "scipy")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.startup`."""
    parser = new_parser("python -m benchmarks.startup", str(__doc__))
    parser.add_argument("--repeats", type=int, default=7, help="processes of each kind; default: %(default)s")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    if arguments.repeats < 1:
        raise ConfigError(f"--repeats: expected at least 1, received {arguments.repeats}")
    figures: dict[str, float | bool] = {}
    imported: set[str] = set()
    for name, command in COMMANDS.items():
        imported |= heavy_imports(command)
        figures[name] = round(statistics.median(_seconds(command) for _ in range(arguments.repeats)), 4)
    print(f"heavy modules imported: {', '.join(sorted(imported)) or 'none'}")
    print(json.dumps({**figures, "imports_tensorflow": "tensorflow" in imported}))
    return 0


def heavy_imports(command: Sequence[str]) -> set[str]:
    """Those of `HEAVY` that a command imports, as Python itself reports."""
    result = _run(["-X", "importtime", *command])
    modules = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    return {heavy for heavy in HEAVY if heavy in modules}


def _seconds(command: Sequence[str]) -> float:
    start = time.perf_counter()
    _run(command)
    return time.perf_counter() - start


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if result.returncode:
        last = result.stderr.strip().splitlines()[-1:] or ["no output"]
        raise ConfigError(f"'python {' '.join(command)}' failed: {last[0]}; run this in the project's top folder")
    return result


if __name__ == "__main__":
    raise SystemExit(main())
