"""TF.js graph models, for browsers: converted and tried in an environment of their own."""

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iom.errors import WeightsError
from iom.export.context import Material
from iom.export.tfjs_environment import environment, python_of
from iom.keys import KEY_KINDS, TransformKey
from iom.models.artifact import Manifest

HERE = Path(__file__).parent


def write_tfjs(material: Material, path: Path) -> None:
    """Write a folder with `model.json` and its weights.

    Raises:
        MissingExtraError: The environment cannot be made.
        WeightsError: The converter failed.
    """
    place = environment()
    script = HERE / "tfjs_convert.py"
    command = [python_of(place), "-I", script, material.saved_model.resolve(), path.resolve()]
    _run(command, place, path.name)


def run_tfjs(path: Path, manifest: Manifest, images: NDArray[np.uint8], key: TransformKey) -> NDArray[np.uint8]:
    """Codes `(N, M)` of faces `(N, S, S, 3)`, by node, in WebAssembly.

    Raises:
        WeightsError: It does not run there.
    """
    order = KEY_KINDS[manifest.key_kind].order(key, manifest.key_size, manifest.keep)
    orders = np.tile(order.astype("<i4"), (len(images), 1))
    with tempfile.TemporaryDirectory() as name:
        inputs, output = Path(name) / "inputs", Path(name) / "codes"
        inputs.write_bytes(np.ascontiguousarray(images).tobytes() + orders.tobytes())
        sizes = (len(images), manifest.input_size, manifest.order_width, manifest.code_length)
        command = ["node", HERE / "tfjs_run.mjs", path.resolve(), inputs, output, *sizes]
        _run(command, environment(), path.name)
        codes = np.frombuffer(output.read_bytes(), "<i4")
    return codes.reshape(len(images), manifest.code_length).astype(np.uint8)


def _run(command: list[object], folder: Path, name: str) -> None:
    done = subprocess.run(  # noqa: S603  (own scripts, no shell)
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        tail = " ".join(done.stderr.split()[-40:])
        raise WeightsError(f"{name}: TF.js failed: {tail}")
