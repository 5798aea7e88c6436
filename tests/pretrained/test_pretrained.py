"""What the package brings along, and names of hashers, from any folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from iom.errors import WeightsError
from iom.pretrained import hasher_path, hashers, search_folders
from iom.pretrained.manifest import locate, read_manifest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working folder, and no folder of the user's."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("IOM_WEIGHTS", raising=False)
    monkeypatch.delenv("INSIGHTFACE_HOME", raising=False)
    monkeypatch.setenv("IOM_CACHE", str(tmp_path / "cache"))
    return folder


def make_hasher(folder):
    folder.mkdir(parents=True)
    (folder / "hasher.json").write_text("{}")
    return folder


def test_the_bundled_hasher_is_found_by_name_in_any_folder():
    artefact, folder = hasher_path("bundled"), hasher_path("dlib_resnet.bundled")
    assert artefact == hasher_path() == folder / "dlib_resnet.onnx"
    assert json.loads((folder / "hasher.json").read_text())["embedder"]["name"] == "dlib_resnet.bundled"


def test_the_manifest_and_the_bundled_weights_come_with_the_package():
    (path,) = locate(read_manifest()["dlib_resnet.bundled"])
    assert path == hasher_path("bundled")


def test_a_path_that_exists_wins_over_a_name(elsewhere):
    folder = make_hasher(elsewhere / "bundled")
    assert hasher_path("bundled").resolve() == folder
    (elsewhere / "x.onnx").touch()
    assert hasher_path(Path("x.onnx")) == Path("x.onnx")


def test_hashers_of_the_user_are_found_by_name(tmp_path, monkeypatch):
    cached = make_hasher(tmp_path / "cache" / "weights" / "door")
    assert hasher_path("door") == cached
    own = make_hasher(tmp_path / "own" / "door")
    monkeypatch.setenv("IOM_WEIGHTS", str(tmp_path / "own"))
    assert hasher_path("door") == own
    assert hashers()["door"] == own


def test_the_cache_follows_the_convention_of_the_platform(tmp_path, monkeypatch):
    assert tmp_path / "cache" / "weights" in search_folders()
    monkeypatch.delenv("IOM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tmp_path / "xdg" / "iom" / "weights" in search_folders()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Path.home() / ".cache" / "iom" / "weights" in search_folders()


@pytest.mark.parametrize("folder", ["buffalo_l", "buffalo_m"])
@pytest.mark.parametrize("root", ["home", "variable"])
def test_weights_of_an_installation_of_insightface_are_found(root, folder, tmp_path, monkeypatch):
    place = tmp_path / ".insightface" / "models" / folder / "w600k_r50.onnx"
    place.parent.mkdir(parents=True)
    place.touch()
    monkeypatch.setenv("HOME", str(tmp_path if root == "home" else tmp_path / "nobody"))
    if root == "variable":
        monkeypatch.setenv("INSIGHTFACE_HOME", str(tmp_path / ".insightface"))
    assert locate(read_manifest()["iresnet50.w600k"], verify=False) == [place]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("bundeld", r"no hasher 'bundeld' - did you mean 'bundled'\?.*iom train-stage2"),
        ("pre_models/dlib_resnet.bundled", r"no hasher 'pre.*; give its name alone: dlib_resnet\.bundled"),
        ("runs/none", r"no hasher 'runs/none': expected .*bundled.*no such file or folder"),
        ("none.onnx", r"no hasher 'none\.onnx'.*an artefact of iom deploy"),
    ],
)
def test_an_unknown_hasher_is_told_with_what_to_do(given, message):
    with pytest.raises(WeightsError, match=message) as caught:
        hasher_path(given)
    assert ".py" not in str(caught.value)


def test_asking_for_a_path_imports_nothing_heavy():
    code = (
        "import sys, iom.pretrained\n"
        "iom.pretrained.hasher_path('bundled')\n"
        "assert not {'numpy', 'tensorflow', 'keras'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
