"""Export to TF.js graph models, for browsers, converted and run in an environment of their own.

tensorflowjs needs other versions of most packages. It is installed without its dependencies, when first needed, into a
virtual environment that borrows the running TensorFlow, with the packages of Node.js beside it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom.errors import IomError, MissingExtraError, WeightsError
from iom.export.context import ExportContext
from iom.export.tensorflow import frozen_saved_model
from iom.keys import KEY_KINDS, TransformKey
from iom.models.artifact import Manifest
from iom.pretrained import cache_folder

HERE = Path(__file__).parent
VERSION = "4.22.0"
NODE_PACKAGES = ("@tensorflow/tfjs", "@tensorflow/tfjs-backend-wasm")
_READY = "ready"


def write_tfjs(context: ExportContext, path: Path) -> None:
    """Write a folder with `model.json` and its weights."""
    place = environment()
    script = HERE / "tfjs_convert.py"
    command = [_python_of(place), "-I", script, frozen_saved_model(context).resolve(), path.resolve()]
    _run(command, place, WeightsError, f"{path.name}: TF.js failed")


def run_tfjs(path: Path, manifest: Manifest, images: NDArray[np.uint8], key: TransformKey) -> NDArray[np.uint8]:
    """Codes `(N, M)` of faces `(N, S, S, 3)`, by node, in WebAssembly."""
    order = KEY_KINDS[manifest.key_kind].order(key, manifest.key_size, manifest.keep)
    orders = np.tile(order.astype("<i4"), (len(images), 1))
    with tempfile.TemporaryDirectory() as name:
        inputs, output = Path(name) / "inputs", Path(name) / "codes"
        inputs.write_bytes(np.ascontiguousarray(images).tobytes() + orders.tobytes())
        sizes = (len(images), manifest.input_size, manifest.order_width, manifest.code_length)
        command = ["node", HERE / "tfjs_run.mjs", path.resolve(), inputs, output, *sizes]
        _run(command, environment(), WeightsError, f"{path.name}: TF.js failed")
        codes = np.frombuffer(output.read_bytes(), "<i4")
    return codes.reshape(len(images), manifest.code_length).astype(np.uint8)


def environment() -> Path:
    """Folder of the environment, `tfjs-<version>` in the cache (`iom.pretrained.cache_folder`), made if need be."""
    place = cache_folder() / f"tfjs-{VERSION}"
    if (place / _READY).is_file() and _python_of(place).exists():
        return place
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise MissingExtraError(f"TF.js needs {program}, which is not installed; install Node.js 18 or later")
    shutil.rmtree(place, ignore_errors=True)  # what an interrupted start left
    place.mkdir(parents=True)
    _install([sys.executable, "-m", "venv", place / "python"], place)
    _install([_python_of(place), "-m", "pip", "install", "-q", "--no-deps", f"tensorflowjs=={VERSION}"], place)
    borrowed = next((place / "python" / "lib").glob("python*/site-packages")) / "zz_borrowed.pth"
    borrowed.write_text(f"{Path(np.__file__).parents[1]}\n", encoding="utf-8")
    packages = [f"{name}@{VERSION}" for name in NODE_PACKAGES]
    (place / "package.json").write_text("{}\n", encoding="utf-8")
    _install(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages], place)
    (place / _READY).touch()
    return place


def _python_of(place: Path) -> Path:
    return place / "python" / "bin" / "python"


def _install(command: Sequence[object], folder: Path) -> None:
    shown = " ".join(str(part) for part in command[:4])
    purpose = f"cannot make the environment for TF.js in {folder} ({shown} ...; is the package index reachable?)"
    _run(command, folder, MissingExtraError, purpose)


def _run(command: Sequence[object], folder: Path, error: type[IomError], message: str) -> None:
    done = subprocess.run(  # noqa: S603  (fixed programs and own scripts, no shell)
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise error(f"{message}: {' '.join((done.stderr or done.stdout).split()[-40:])}")
