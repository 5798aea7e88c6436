"""The client library for browsers: its own tests, codes equal to Python's, and its packed form in an empty project."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from iom.export.trial import synthetic_faces
from iom.export.web import bundled_web
from iom.models.face_hasher import load
from iom.photos.images import read_images
from tests.clients.web_trial import photographs_of, write_trial
from tests.commands import command

ROOT = Path(__file__).parents[2]
CLIENT, PRE_MODELS = ROOT / "clients" / "web", ROOT / "pre_models"
VITEST = "node_modules/vitest/vitest.mjs"
SECONDS = 240.0
SIZES = [(320, 240, 0), (700, 500, 1), (1100, 820, 5), (560, 672, 9)]
"""Width and height of a photograph, and the number of its face."""
BIG = [(400, 500), (640, 480), (1200, 900), (3000, 2000)]


@pytest.fixture(scope="module")
def node():
    """Node.js, where the packages of the client library are installed."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("needs Node.js (Debian: nodejs), which is not here")
    if not (CLIENT / "node_modules").is_dir():
        pytest.skip("needs the packages of the client library: run make web")
    return found


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """The bundled hasher for the web, synthetic faces and photographs of them, and what Python makes of them."""
    folder = tmp_path_factory.mktemp("trial")
    faces = synthetic_faces(112).images
    write_trial(folder, bundled_web(folder), load("bundled"), faces[:4], photographs_of(faces, SIZES))
    return folder


def run(*arguments, folder, **variables):
    """Standard output of a command, which must end well."""
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


def test_its_own_tests(node, trial):
    told = run(node, VITEST, "run", folder=CLIENT, IOM_WEB_TRIAL=trial)
    assert "trial.test.ts" in told
    assert "skipped" not in told


@pytest.mark.proof
@pytest.mark.parametrize("name", ["bundled", "mobilefacenet_y1_1536x2"])
def test_codes_of_real_faces(node, name, prepared_data, foreign_weights, tmp_path):
    """200 faces of LFW, and 40 photographs that they were laid into."""
    if name == "bundled":
        hasher, artefact = load(name), bundled_web(tmp_path)
    else:
        path, weights = PRE_MODELS / name, foreign_weights("mobilefacenet_y1")
        hasher = load(path, weights=str(weights))
        arguments = ["--hasher", path, "--weights", weights, "--to", "web", "--output", tmp_path]
        assert command("deploy")(arguments) == 0
        artefact = tmp_path / f"{name}.web"
    files = sorted(prepared_data.glob("lfw_112x112/*/*.jpg"))[:: 13233 // 200][:200]
    faces = read_images(files)
    sizes = [(width, height, number) for number, (width, height) in enumerate(10 * BIG)]
    write_trial(tmp_path, artefact, hasher, faces, photographs_of(faces, sizes))
    run(node, VITEST, "run", "test/trial.test.ts", folder=CLIENT, IOM_WEB_TRIAL=tmp_path)
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    print(name, found)
    assert found["faces"] == 200
    assert found["equal_symbols_pixels"] >= 0.999
    assert found["equal_symbols_photos"] >= 0.98


def test_a_packed_library_in_an_empty_project(node, trial, tmp_path):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm (Debian: npm), which is not here")
    package, project = tmp_path / "package", tmp_path / "project"
    package.mkdir()
    project.mkdir()
    for name in ("package.json", "README.md"):
        shutil.copy(CLIENT / name, package)
    run(node, "build.mjs", package / "dist", folder=CLIENT)
    archive = run(npm, "pack", "--silent", "--ignore-scripts", folder=package).strip()
    (project / "package.json").write_text('{"private": true, "type": "module"}', encoding="utf-8")
    run(npm, "install", "--offline", "--ignore-scripts", "--no-audit", package / archive, folder=project)
    shutil.copy(CLIENT / "example" / "hash.mjs", project)
    facts = json.loads((trial / "trial.json").read_text(encoding="utf-8"))
    picture = facts["photographs"][0]
    manifest, sizes = trial / facts["manifest"], (picture["width"], picture["height"])
    found = json.loads(run(node, "hash.mjs", manifest, trial / picture["file"], *sizes, folder=project))
    assert found["bytes"] == 192
    assert found["same"] == 0
    assert 600 < found["other"] < 936, "codes under two keys are as far apart as those of two persons"
