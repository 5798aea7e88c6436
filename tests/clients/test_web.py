"""The client library for browsers: its own tests, codes equal to Python's, and its packed form in an empty project."""

import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from iom.export.web import bundled_web
from iom.models.face_hasher import load
from iom.photos.images import read_images
from tests.clients.web_trial import photographs_of, write_trial
from tests.commands import command

PRE_MODELS = Path(__file__).parents[2] / "pre_models"
VITEST = "node_modules/vitest/vitest.mjs"
PACKED = {"package.json", "README.md"} | {
    f"dist/{name}"
    for name in (
        "index.js",
        "index.js.map",
        "types/index.d.ts",
        "types/hasher.d.ts",
        "LICENSES.txt",
        "ort-wasm-simd-threaded.mjs",
        "ort-wasm-simd-threaded.wasm",
    )
}
BIG = [(400, 500), (640, 480), (1200, 900), (3000, 2000)]


def test_its_own_tests(node, run, client, trial):
    told = run(node, VITEST, "run", folder=client, IOM_WEB_TRIAL=trial)
    assert "trial.test.ts" in told
    assert "skipped" not in told


@pytest.mark.proof
@pytest.mark.parametrize("name", ["bundled", "mobilefacenet_y1_1536x2"])
def test_codes_of_real_faces(node, run, client, name, prepared_data, foreign_weights, tmp_path):
    """200 faces of LFW, and 40 photographs that they were laid into."""
    if name == "bundled":
        hasher, artefact = load(name), bundled_web(tmp_path)
    else:
        foreign_weights("mobilefacenet_y1")
        hasher = load(PRE_MODELS / name)
        assert command("deploy")(["--hasher", PRE_MODELS / name, "--to", "web", "--output", tmp_path]) == 0
        artefact = tmp_path / f"{name}.web"
    files = sorted(prepared_data.glob("lfw_112x112/*/*.jpg"))[:: 13233 // 200][:200]
    faces = read_images(files)
    sizes = [(width, height, number) for number, (width, height) in enumerate(10 * BIG)]
    write_trial(tmp_path, artefact, hasher, faces, photographs_of(faces, sizes))
    run(node, VITEST, "run", "test/trial.test.ts", folder=client, IOM_WEB_TRIAL=tmp_path)
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    print(name, found)
    assert found["faces"] == 200
    assert found["equal_symbols_pixels"] >= 0.999
    assert found["equal_symbols_photos"] >= 0.98


def test_a_packed_library_in_an_empty_project(node, run, client, package, trial, tmp_path):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm (Debian: npm), which is not here")
    archive = run(npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", tmp_path, folder=package).strip()
    with tarfile.open(tmp_path / archive) as stream:
        held = {name.removeprefix("package/") for name in stream.getnames()}
    assert held >= PACKED
    assert not [name for name in held if name.startswith(("src/", "test/", "node_modules/", "page/"))]
    project = tmp_path / "project"
    project.mkdir()
    (project / "package.json").write_text('{"private": true, "type": "module"}', encoding="utf-8")
    run(npm, "install", "--offline", "--ignore-scripts", "--no-audit", tmp_path / archive, folder=project)
    types = project / "node_modules" / "iom-web" / "dist" / "types"
    declared = "\n".join(each.read_text(encoding="utf-8") for each in types.glob("*.d.ts"))
    assert not re.findall(r"""from ["'](?!\./)""", declared), "what is bundled is not installed: its types are missing"
    shutil.copy(client / "example" / "hash.mjs", project)
    facts = json.loads((trial / "trial.json").read_text(encoding="utf-8"))
    picture = facts["photographs"][0]
    manifest, sizes = trial / facts["manifest"], (picture["width"], picture["height"])
    found = json.loads(run(node, "hash.mjs", manifest, trial / picture["file"], *sizes, folder=project))
    assert found["bytes"] == 192
    assert found["same"] == 0
    assert 600 < found["other"] < 936, "codes under two keys are as far apart as those of two persons"
