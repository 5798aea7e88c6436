"""The client library, built and packed once, and what Python makes of some faces."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from iom.export.trial import synthetic_faces
from iom.export.web import bundled_web
from iom.models.face_hasher import load
from tests.clients.web_trial import photographs_of, write_trial

CLIENT = Path(__file__).parents[2] / "clients" / "web"
SECONDS = 240.0
SIZES = [(320, 240, 0), (700, 500, 1), (1100, 820, 5), (560, 672, 9)]
"""Width and height of a photograph, and the number of its face."""


@pytest.fixture(scope="session")
def client():
    """Folder of the client library."""
    return CLIENT


@pytest.fixture(scope="session")
def node():
    """Node.js, where the packages of the client library are installed."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("needs Node.js (Debian: nodejs), which is not here")
    if not (CLIENT / "node_modules").is_dir():
        pytest.skip("needs the packages of the client library: run make web")
    return found


@pytest.fixture(scope="session")
def run():
    """Runs a command in a folder, with more variables if need be, and gives its standard output; it must end well."""

    def run(*arguments, folder, **variables):
        ended = subprocess.run(
            [*map(str, arguments)],
            cwd=folder,
            env={**os.environ, "NO_COLOR": "1", **{name: str(value) for name, value in variables.items()}},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    return run


@pytest.fixture(scope="session")
def trial(tmp_path_factory):
    """The bundled hasher for the web, synthetic faces and photographs of them, and what Python makes of them."""
    folder = tmp_path_factory.mktemp("trial")
    faces = synthetic_faces(112).images
    write_trial(folder, bundled_web(folder), load("bundled"), faces[:4], photographs_of(faces, SIZES))
    return folder


@pytest.fixture(scope="session")
def package(node, run, tmp_path_factory):
    """The package of the client library, with what its build makes."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("package.json", "README.md"):
        shutil.copy(CLIENT / name, folder)
    run(node, "build.mjs", folder / "dist", folder=CLIENT)
    return folder
