"""`iom serve --on-device` as a program: a whole life of a subject, and no network in its process; `iom init`."""

import json
import subprocess
import sys

import pytest

from iom.cli.main import main
from iom.gallery.on_device import OnDeviceGallery, WebHasher
from tests.on_device import Place, web_artifact
from tests.service.test_on_device import built_page


def test_the_server_never_imports_a_network(tmp_path, root):
    web_artifact(tmp_path)
    page = built_page(tmp_path / "page")
    command = [sys.executable, "-W", "error", "-m", "tests.service.on_device_cycle", str(tmp_path), str(page)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["runtimes"] == []
    assert told["status"] == 0
    assert told["answers"] == [
        {"subject": "alice", "slots": [0]},
        {"match": True, "distance": 3, "threshold": 30},
        {"match": False, "distance": 82, "threshold": 30},
        {"subject": "alice", "slots": [0]},
        {"status": 410},
        {"match": True, "distance": 0, "threshold": 30},
        {"revoked": 1},
        {"status": 410},
    ]
    assert "on the device: faces and keys stay in browsers" in told["printed"]
    assert "alice" not in done.stderr
    assert "verify-code 410" in done.stderr


@pytest.fixture
def door(tmp_path, monkeypatch):
    """A place whose gallery the commands find."""
    place = Place(tmp_path)
    monkeypatch.setenv("IOM_GALLERY", place.url)
    monkeypatch.setenv("IOM_KEYS", f"file:{place.key_file}?key-file={tmp_path}/g.wrap")
    monkeypatch.setenv("IOM_HASHER", str(place.artifact))
    yield place
    place.close()


def told(capsys):
    return json.loads(capsys.readouterr().out)


def test_the_commands_of_a_gallery(door, capsys):
    assert main(["init", "--key-mode", "device", "--application", "door", "--json"]) == 0
    made = told(capsys)
    assert (made["key_mode"], made["masked"], made["threshold"]) == ("device", True, 30)
    assert made["model"] == WebHasher(door.artifact).fingerprint
    gallery = door.open()
    door.ask(gallery, "enroll", "alice", 1, 1)
    door.ask(gallery, "enroll", "bob", 2, 2)
    assert main(["list", "--application", "door", "--json"]) == 0
    assert [each["subject"] for each in told(capsys)["subjects"]] == ["alice", "bob"]
    assert main(["show", "alice", "--application", "door", "--json"]) == 0
    assert told(capsys)["references"][0]["metadata"] == {}
    assert main(["stats", "--json"]) == 0
    assert told(capsys)["applications"][0]["subjects"] == 2
    assert main(["revoke", "alice", "--application", "door"]) == 0
    assert main(["check"]) == 0
    assert capsys.readouterr().out.endswith("no problems\n")
    with pytest.raises(Exception, match="was revoked"):
        door.ask(gallery, "verify", "alice", 1, 1)
    assert door.ask(gallery, "verify", "bob", 2, 2).match


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ["init", "--key-mode", "device", "--hasher", "exported/door.onnx"],
            2,
            "iom deploy --to web --hasher exported/door.onnx",
        ),
        (["init", "--key-mode", "device", "--hasher", "none.web"], 2, "no artefact none.web"),
        (["init", "--key-mode", "device", "--weights", "y1"], 2, "--weights"),
        (["init", "--key-mode", "device", "--unmasked"], 2, "leave out --unmasked"),
        (["init", "--key-mode", "device", "--comparison", "asymmetric", "--threshold", "9"], 2, "by symbols alone"),
        (["serve", "--on-device", "--demo", "--port", "0", "--search", "ray://local"], 2, "--search"),
        (["serve", "--on-device", "--side", "a", "--tokens", "t"], 2, "need --on-device --side a|b --pair-key FILE"),
        (["serve", "--on-device", "--other", "https://b", "--tokens", "t"], 2, "--side: shares of codes need"),
        (["serve", "--on-device", "--demo", "--side", "a", "--pair-key", "k", "--other", "https://b"], 2, "no --demo"),
        (["serve", "--tokens", "t", "--side", "a", "--pair-key", "k", "--other", "https://b"], 2, "need --on-device"),
    ],
)
def test_mistakes_are_one_line(door, capsys, arguments, code, words, tmp_path, monkeypatch):
    monkeypatch.setattr("iom.service.on_device.PAGE_FOLDER", built_page(tmp_path / "page"))
    assert main(arguments) == code
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert words in error[0]


def test_a_page_that_is_not_built_is_told_at_once(door, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("iom.service.on_device.PAGE_FOLDER", tmp_path / "none")
    assert main(["serve", "--on-device", "--demo", "--port", "0"]) == 2
    assert "run make web" in capsys.readouterr().err


def test_a_gallery_without_devices_is_told(door, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("iom.service.on_device.PAGE_FOLDER", built_page(tmp_path / "page"))
    door.open(create=True)
    door.close()
    assert main(["make-token", str(tmp_path / "tokens.json"), "door"]) == 0
    assert main(["serve", "--on-device", "--port", "0", "--tokens", str(tmp_path / "tokens.json")]) == 2
    assert "iom init --key-mode device" in capsys.readouterr().err


def test_a_gallery_can_be_made_in_python(tmp_path):
    artifact = web_artifact(tmp_path)
    keys = f"file:{tmp_path}/g.keys?key-file={tmp_path}/g.wrap"
    with OnDeviceGallery.open(tmp_path / "g.db", keys=keys, hasher=WebHasher(artifact), create=True) as gallery:
        assert gallery.create_application("door", key_mode="device").key_mode == "device"
