"""Seconds from the start of the process to the first code, and resident memory, per runtime.

    python -m benchmarks.cold_start

A fresh process opens an artefact and hashes one face; the clock starts before Python does. The
lowest of several starts counts for the seconds, as the rest is the machine's other business, and
the peak of resident memory belongs to the same start. `trained` is the hasher's own folder, opened
with Keras. Ends with one line of JSON: `seconds` and `rss_mb`, by format.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import new_parser, run

FORMATS = ("onnx", "openvino", "fast", "litert", "keras", "saved_model")
HASHER = "pre_models/mobilefacenet_y1_1536x2"
START = """
import pathlib, re, sys
import numpy as np
import iom
hasher = iom.load(sys.argv[1])
face = np.random.default_rng(0).integers(0, 256, (1, 112, 112, 3), np.uint8)
hasher.hash(hasher.embed(face), iom.TransformKey(bytes(32)))
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss would be the parent's
print(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.cold_start`."""
    parser = new_parser("python -m benchmarks.cold_start", str(__doc__))
    parser.add_argument("--hasher", default=HASHER, help="default: %(default)s")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS))
    parser.add_argument("--starts", type=int, default=5, help="default: %(default)s")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    figures: dict[str, Any] = {"seconds": {}, "rss_mb": {}}
    with tempfile.TemporaryDirectory() as folder:
        places = {**_exported(arguments, Path(folder)), "trained": Path(arguments.hasher)}
        for name, place in places.items():
            best = min(_start(place) for _ in range(arguments.starts))
            figures["seconds"][name], figures["rss_mb"][name] = round(best[0], 2), round(best[1])
            print(f"{name}: {best[0]:.2f} s, {best[1]:.0f} MB", flush=True)
    print(json.dumps(figures))
    return 0


def _exported(arguments: argparse.Namespace, folder: Path) -> dict[str, Path]:
    from iom.export.context import load_source
    from iom.export.exporter import Exporter, synthetic_faces
    from iom.export.formats import FORMATS as ALL

    source = load_source(arguments.hasher)
    faces = synthetic_faces(source.embedder.input_size)
    Exporter(source, calibration=faces.images, faces=faces).export(arguments.formats, folder, name="hasher")
    return {name: folder / f"hasher{ALL[name].suffix}" for name in arguments.formats}


def _start(place: Path) -> tuple[float, float]:
    """Seconds and megabytes of one start."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", START, str(place)], capture_output=True, text=True, check=True)
    return time.perf_counter() - start, float(done.stdout.split()[-1])


if __name__ == "__main__":
    raise SystemExit(main())
