"""`iom deploy`: its choices, its errors, and an artefact that the other commands take."""

import http.client
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest

from iom.cli.main import main as run_iom
from tests.commands import command

main = command("deploy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hasher", "nowhere"], "nowhere"),
        (["--to", "onnx", "--to", "embedder"], "two of them write the same file"),
        (["--folder", "somewhere"], "--folder and --pairs go together"),
        (["--calibration", "nowhere"], "no folder nowhere"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.proof
def test_fast_is_written_without_bfloat16_and_says_in_what(tmp_path, monkeypatch, capsys):
    openvino = pytest.importorskip("openvino")
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    given = ["--to", "fast", "--output", str(tmp_path / "out"), "--name", "a", "--calibration-faces", "2"]
    assert main(given) == 0
    assert re.search("fast, (int8|float32): ", capsys.readouterr().out)
    assert (tmp_path / "out" / "a.fast.xml").is_file()


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    """The bundled hasher in ONNX, written by the command."""
    folder = tmp_path_factory.mktemp("artefact")
    assert main(["--to", "onnx", "--output", str(folder), "--name", "a"]) == 0
    return folder / "a.onnx"


@pytest.fixture
def iom(tmp_path, monkeypatch, capsys):
    """The gallery's commands, over an empty gallery."""
    from iom.synthetic import write_folder

    write_folder(tmp_path / "faces", 2, 2, seed=3)
    monkeypatch.setattr("iom.gallery.key_source.SCRYPT_COST", 2)
    monkeypatch.setenv("IOM_GALLERY", f"sqlite:///{tmp_path}/g.db")
    monkeypatch.setenv("IOM_KEYS", f"file:{tmp_path}/keys?key-file={tmp_path}/wrap")

    def run(*arguments):
        code = run_iom([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_an_artefact_is_loaded_by_its_path(artefact):
    from iom.models.artifact import read_manifest
    from iom.models.face_hasher import load

    manifest = read_manifest(artefact)
    assert manifest.check.equal_symbols > 0.99
    assert load(artefact).fingerprint == manifest.fingerprint


def test_an_artefact_runs_a_gallery_and_no_other_hasher_may(artefact, iom, tmp_path):
    folders = sorted((tmp_path / "faces").iterdir())
    (first, again), (other, _) = (sorted(folder.iterdir()) for folder in folders)
    assert iom("init", "--hasher", artefact, "--threshold", 400)[0] == 0
    assert iom("enroll", "alice", first, "--hasher", artefact)[0] == 0
    assert iom("verify", "alice", first, "--hasher", artefact)[0] == 0
    found = iom("identify", again, "--hasher", artefact)
    assert found[0] in (0, 1)
    assert found[2] == ""
    code, _, error = iom("verify", "alice", other)  # the folder it was made from: other symbols
    assert code == 2
    assert "codes of two models never compare" in error
    code, _, error = iom("verify", "alice", other, "--hasher", artefact, "--weights", "x")
    assert code == 2
    assert "embeds for itself" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated"),
        (lambda path: path.with_name("a.onnx.json").unlink(), "expected a.onnx.json beside it"),
        (lambda path: path.with_name("a.onnx.head.npz").unlink(), "missing"),
        (lambda path: path.unlink(), "no such file or folder"),
    ],
)
def test_a_broken_artefact_is_one_line(artefact, iom, tmp_path, change, message):
    for path in artefact.parent.iterdir():
        shutil.copy(path, tmp_path)
    change(tmp_path / "a.onnx")
    code, _, error = iom("init", "--hasher", tmp_path / "a.onnx")
    assert code == 2
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_service_runs_with_an_artefact_and_without_tensorflow(artefact, root):
    pytest.importorskip("fastapi")
    script = (
        "import sys\n"
        "from iom.cli.main import main\n"
        "try: main(['serve', *sys.argv[1:]])\n"
        "finally: print(sorted({'tensorflow', 'keras'} & set(sys.modules)))\n"
    )
    options = ["--demo", "--port", "0", "--detector", "none", "--hasher", artefact]
    command = [sys.executable, "-u", "-c", script, *options]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as served:
        timer = threading.Timer(60, served.kill)
        timer.start()
        line = next(line for line in served.stdout if "token=" in line)
        place = line.split("//")[1].split("/#")[0]
        connection = http.client.HTTPConnection(place, timeout=30)
        connection.request("GET", "/health/ready")
        status = connection.getresponse().status
        connection.close()
        served.terminate()
        assert served.stdout.read().splitlines()[-1] == "[]"
        timer.cancel()
    assert status == 200
