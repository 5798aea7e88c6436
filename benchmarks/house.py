"""Size and shape of the package: modules, lines, import circles, modules of one enrolment, repeated code.

    python -m benchmarks.house

Ends with one line of JSON:

- `modules`, `lines`: the Python files of `iom/` and all their lines.
- `circles`: groups of modules that import each other, imports within functions and for types included.
- `enroll_modules`: modules of `iom` of which a function runs in one `iom enroll` of one image (bundled hasher, a new
  SQLite gallery), by tracing. `enroll_imported` also counts modules that are only imported.
- `duplicates`: groups of at least six equal lines in two modules, as pylint counts them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import grimp
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

import iom

PACKAGE = Path(iom.__file__).parent
MIN_LINES = 6
# Runs in a process of its own: what the tracer notes must be the command's alone.
TRACED = """
import json, os, sys, threading
package = os.path.dirname(sys.argv[1]) + os.sep
ran, imported = set(), set()
def note(frame, event, _):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(package):
        function = code.co_name != "<module>" and code.co_flags & 2
        (ran if function else imported).add(code.co_filename[len(package):])
threading.setprofile(note)
sys.setprofile(note)
from iom.cli.main import main
code = main(sys.argv[3:])
sys.setprofile(None)
json.dump({"ran": sorted(ran), "imported": sorted(ran | imported)}, open(sys.argv[2], "w"))
sys.exit(code)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.house`."""
    parser = argparse.ArgumentParser("python -m benchmarks.house", description=__doc__)
    parser.add_argument("--list", action="store_true", help="also list the modules of an enrolment and the circles")
    arguments = parser.parse_args(argv)
    files = sorted(PACKAGE.rglob("*.py"))
    ran, imported = enrolment_modules()
    circles = import_circles()
    if arguments.list:
        print("\n".join(["enrolment:", *ran, "circles:", *map(" ".join, circles)]))
    figures = {
        "modules": len(files),
        "lines": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files),
        "circles": len(circles),
        "enroll_modules": len(ran),
        "enroll_imported": len(imported),
        "duplicates": duplicates(files),
    }
    print(json.dumps(figures))
    return 0


def import_circles() -> list[list[str]]:
    """Groups of modules that import each other, each sorted."""
    graph = grimp.build_graph("iom", cache_dir=None)
    modules = sorted(graph.modules)
    row = {module: index for index, module in enumerate(modules)}
    arrows = [(row[a], row[b]) for a in modules for b in graph.find_modules_directly_imported_by(a)]
    starts, ends = zip(*arrows, strict=True)
    matrix = csr_array((np.ones(len(arrows)), (starts, ends)), shape=(len(modules), len(modules)))
    count, labels = connected_components(matrix, directed=True, connection="strong")
    groups = [[modules[row] for row in np.flatnonzero(labels == label)] for label in range(count)]
    return sorted(group for group in groups if len(group) > 1)


def enrolment_modules() -> tuple[list[str], list[str]]:
    """Files of `iom` of which a function runs in `iom enroll` of one image, and those imported in it."""
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-m", "iom"]
        _call([*run, "synthesize", "--output", "faces", "--subjects", "1", "--images", "1"], folder)
        image = next(Path(folder, "faces").rglob("*.png"))
        Path(folder, "passphrase").write_text("correct horse battery staple", encoding="utf-8")
        secret = ["--passphrase-file", "passphrase"]
        _call([*run, "init", *secret], folder)
        script = [sys.executable, "-c", TRACED, str(PACKAGE.resolve() / "__init__.py"), "answer.json"]
        _call([*script, "enroll", "anna", str(image), *secret], folder)
        answer = json.loads(Path(folder, "answer.json").read_text(encoding="utf-8"))
    return answer["ran"], answer["imported"]


def duplicates(files: Sequence[Path]) -> int:
    """Groups of at least `MIN_LINES` equal lines in two files; docstrings, imports and signatures do not count."""
    symilar = [sys.executable, "-c", "from pylint import run_symilar; run_symilar()"]
    ignored = [f"--ignore-{what}" for what in ("comments", "docstrings", "imports", "signatures")]
    command = [*symilar, f"--duplicates={MIN_LINES}", *ignored, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return sum(" similar lines in " in line for line in done.stdout.splitlines())


def _call(command: Sequence[str], folder: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.resolve().parent)}  # this package, not an installed one
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:6])} ... ended with {done.returncode}: {done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
