"""`--json`: every command that answers something prints one object, and nothing else."""

import json

import numpy as np
import pytest
from PIL import Image

from iom.cli.main import main, root
from iom.photos.align import TEMPLATE, Face, write_landmarks

WITHOUT = {"serve", "serve-keys", "serve-share"}
PARTS = {"weights": "list", "score-files": "evaluate"}


@pytest.mark.parametrize("name", sorted(root.commands))
def test_help_is_of_this_command_and_knows_json(name, capsys):
    assert main([name, *([PARTS[name]] if name in PARTS else []), "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: iom {name} ")
    assert ("--json" in shown) == (name not in WITHOUT)
    assert "python -m iom" not in shown


@pytest.fixture
def ask(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(expected, *arguments):
        code = main([str(argument) for argument in (*arguments, "--json")])
        shown = capsys.readouterr()
        assert code == expected, shown
        assert shown.out.count("\n") == 1
        return json.loads(shown.out)

    return run


def test_what_data_commands_answer(ask, tmp_path):
    made = ask(0, "synthesize", "--output", "faces", "--subjects", 2, "--images", 2, "--quiet")
    assert made == {"output": "faces", "subjects": 2, "images": 4}
    written = ask(0, "convert", "faces", "shards", "--kind", "folder:tfrecord", "--quiet")
    assert (written["target"], written["images"], written["subjects"]) == ("shards", 4, 2)
    assert ask(0, "check-data", "shards", "--quiet") == {
        "path": "shards", "images": 4, "findings": []
    }  # fmt: skip
    (tmp_path / "faces" / "broken").mkdir()
    (tmp_path / "faces" / "broken" / "x.png").write_text("no image")
    findings = ask(1, "check-data", "faces", "--quiet")["findings"]
    assert {each["kind"] for each in findings} >= {"corrupt"}
    assert ask(2, "convert", "none", "x", "--kind", "folder:tfrecord")["error"]["exit_code"] == 2


def test_what_align_answers(ask, tmp_path):
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photos" / "a.png")
    write_landmarks(tmp_path / "points.csv", [("a.png", 0, Face(TEMPLATE + 30, 1.0), "")])
    report = ask(0, "align", "photos", "out", "--points", "points.csv", "--quiet")
    assert (report["output"], report["photographs"], report["faces_written"]) == ("out", 1, 1)


def test_what_keys_and_tokens_answer(ask, tmp_path):
    assert ask(0, "make-key", "door.key") == {"file": "door.key"}
    assert (tmp_path / "door.key").stat().st_mode & 0o777 == 0o600
    assert ask(2, "make-key", "door.key")["error"]["type"] == "DataError"
    made = ask(0, "make-token", "tokens.json", "door", "--role", "admin")
    assert (made["name"], made["role"], made["application"]) == ("door", "admin", "default")
    assert len(made["token"]) > 20
    assert ask(0, "make-token", "tokens.json", "door", "--remove") == {
        "name": "door", "removed": True
    }  # fmt: skip


def test_what_lists_answer(ask):
    assert "did you mean 'enroll'" in ask(2, "enrol")["error"]["message"]
    rows = ask(0, "weights", "list")["weights"]
    bundled = next(row for row in rows if row["name"] == "dlib_resnet.bundled")
    assert bundled["path"].endswith("dlib_resnet.onnx")
    assert bundled["embedding_size"] == 128
    assert len(ask(0, "list-backbones")["backbones"]) > 50
