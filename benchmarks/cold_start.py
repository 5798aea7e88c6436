"""Seconds from the start of a process to its first code, per runtime and for two commands, and its memory.

    python -m benchmarks.cold_start
    python -m benchmarks.cold_start --formats --photographs A.jpg B.jpg     # the commands alone, on photographs

A fresh process opens an artefact and hashes one face; the clock starts before Python does. The
lowest of several starts counts for the seconds, as the rest is the machine's other business, and
the peak of resident memory belongs to the same start. `trained` is the hasher's own folder, opened
with Keras. `commands` are `iom verify A.jpg B.jpg` and `iom verify alice A.jpg` with the bundled
hasher, on two pictures of one person (synthetic aligned faces, or `--photographs`), in a gallery
with a passphrase. Ends with one line of JSON: `seconds`, `rss_mb` and `cpu_seconds`, by format and
command, and `installed_mb`, the files of this package and of all that its core requires.
"""

import argparse
import importlib.metadata
import json
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.command_line import new_parser, run
from iom.cli._command import NO, OK

FORMATS = ("onnx", "openvino", "fast", "litert", "keras", "saved_model")
HASHER = "pre_models/mobilefacenet_y1_1536x2"
PEAK = """
import pathlib, re, sys
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss would be the parent's
print(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024, file=sys.stderr)
"""
START = f"""
import sys
import numpy as np
import iom
hasher = iom.load(sys.argv[1])
face = np.random.default_rng(0).integers(0, 256, (1, 112, 112, 3), np.uint8)
hasher.hash(hasher.embed(face), iom.TransformKey(bytes(32)))
{PEAK}"""
COMMAND = f"""
import sys
from iom.cli.main import main
code = main(sys.argv[1:])
{PEAK}
sys.exit(code)
"""
"""What the installed program `iom` does."""


class Start(NamedTuple):
    """Seconds on the clock, seconds of all cores, and megabytes at the peak, of one process."""

    seconds: float
    cpu_seconds: float
    rss_mb: float


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.cold_start`."""
    parser = new_parser("python -m benchmarks.cold_start", str(__doc__))
    parser.add_argument("--hasher", default=HASHER, help="default: %(default)s")
    parser.add_argument("--formats", nargs="*", default=list(FORMATS))
    parser.add_argument("--photographs", nargs=2, type=Path, metavar=("A", "B"), help="two of one person")
    parser.add_argument("--starts", type=int, default=5, help="default: %(default)s")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    figures: dict[str, Any] = {name: {} for name in Start._fields}
    with tempfile.TemporaryDirectory() as folder:
        places = _exported(arguments, Path(folder)) if arguments.formats else {}
        starts = {name: (START, str(place)) for name, place in places.items()}
        starts |= _commands(arguments.photographs, Path(folder))
        for name, program in starts.items():
            best = min(_start(*program) for _ in range(arguments.starts))
            for figure, value in best._asdict().items():
                figures[figure][name] = round(value, 2)
            print(f"{name}: {best.seconds:.2f} s ({best.cpu_seconds:.2f} s of CPU), {best.rss_mb:.0f} MB", flush=True)
    print(json.dumps(figures | {"installed_mb": round(_installed_bytes() / 1e6)}))
    return 0


def _commands(photographs: Sequence[Path] | None, folder: Path) -> dict[str, tuple[str, ...]]:
    """Programs and arguments of the commands, in a gallery that is made here."""
    if photographs is None:
        _run_command("synthesize", "--output", str(folder / "faces"), "--subjects", "1", "--images", "2", "--quiet")
        photographs = sorted((folder / "faces").rglob("*.png"))
    passphrase = folder / "passphrase"
    passphrase.write_text("correct horse battery staple\n", encoding="utf-8")
    place = ("--gallery", f"sqlite:///{folder}/door.db", "--keys", f"file:{folder}/door.keys")
    place += ("--passphrase-file", str(passphrase))
    enrolled, probe = map(str, photographs)
    _run_command("init", *place)
    _run_command("enroll", "alice", enrolled, *place)
    return {
        "iom verify A.jpg B.jpg": (COMMAND, "verify", enrolled, probe),
        "iom verify alice A.jpg": (COMMAND, "verify", "alice", probe, *place),
    }


def _run_command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "iom", *arguments], check=True, stdout=subprocess.DEVNULL)


def _installed_bytes() -> int:
    """Bytes of the files of the core: this package, and each distribution that it requires without an extra."""
    package = Path(__file__).parents[1] / "iom"
    total = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    project = tomllib.loads((package.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting, known = [Requirement(text) for text in project["dependencies"]], set()
    while waiting:
        required = waiting.pop()
        name = canonicalize_name(required.name)
        if name in known or (required.marker and not required.marker.evaluate({"extra": ""})):
            continue
        known.add(name)
        found = importlib.metadata.distribution(name)
        places = (Path(str(each.locate())) for each in found.files or [])
        total += sum(place.stat().st_size for place in places if place.is_file())
        waiting += [Requirement(text) for text in found.requires or []]
    return total


def _exported(arguments: argparse.Namespace, folder: Path) -> dict[str, Path]:
    from iom.export.context import load_source
    from iom.export.exporter import Exporter
    from iom.export.formats import FORMATS as ALL
    from iom.export.trial import synthetic_faces

    source = load_source(arguments.hasher)
    faces = synthetic_faces(source.embedder.input_size)
    Exporter(source, calibration=faces.images, faces=faces).export(arguments.formats, folder, name="hasher")
    made = {name: folder / f"hasher{ALL[name].suffix}" for name in arguments.formats}
    return made | {"trained": Path(arguments.hasher)}


def _start(program: str, *arguments: str) -> Start:
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (OK, NO):
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Start(seconds, used, float(done.stderr.split()[-1]))


if __name__ == "__main__":
    raise SystemExit(main())
