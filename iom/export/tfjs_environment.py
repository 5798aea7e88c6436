"""The isolated environment in which TF.js models are made and tried; made when first needed.

tensorflowjs cannot stand in the environment of this project: it wants other versions of nearly
everything, of TensorFlow first. Here it is installed alone, without what it asks for, into a
virtual environment that borrows TensorFlow from the running one; node's packages lie beside it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from iom.errors import MissingExtraError
from iom.pretrained import cache_folder

VERSION = "4.22.0"
NODE_PACKAGES = ("@tensorflow/tfjs", "@tensorflow/tfjs-backend-wasm")
_READY = "ready"


def environment() -> Path:
    """Folder of the environment, `tfjs-<version>` in the cache (`iom.pretrained.cache_folder`).

    Raises:
        MissingExtraError: node is not installed, or a package cannot be had.
    """
    place = cache_folder() / f"tfjs-{VERSION}"
    if (place / _READY).is_file() and (place / "python" / "bin" / "python").exists():
        return place
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise MissingExtraError(f"TF.js needs {program}, which is not installed; install Node.js 18 or later")
    shutil.rmtree(place, ignore_errors=True)  # what an interrupted start left
    place.mkdir(parents=True)
    _make_python(place / "python")
    packages = [f"{name}@{VERSION}" for name in NODE_PACKAGES]
    (place / "package.json").write_text("{}\n", encoding="utf-8")
    _run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages], place)
    (place / _READY).touch()
    return place


def python_of(place: Path) -> Path:
    """The environment's Python."""
    return place / "python" / "bin" / "python"


def _make_python(folder: Path) -> None:
    _run([sys.executable, "-m", "venv", str(folder)], folder.parent)
    packages = next((folder / "lib").glob("python*/site-packages"))
    _run(
        [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps",
         f"tensorflowjs=={VERSION}"],
        folder.parent,
    )  # fmt: skip
    import numpy as np

    borrowed = Path(np.__file__).parents[1]
    (packages / "zz_borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(  # noqa: S603  (fixed programs, no shell)
        command, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        tail = " ".join((done.stderr or done.stdout).split()[-40:])
        raise MissingExtraError(
            f"cannot make the environment for TF.js in {folder} ({' '.join(command[:4])} ...): "
            f"{tail}; is the package index reachable?"
        )
