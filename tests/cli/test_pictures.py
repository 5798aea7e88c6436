"""Commands on photographs as they are, with the bundled hasher."""

import json

import click
import numpy as np
import pytest
from PIL import Image

from iom.cli.main import main
from iom.cli.main import root as program
from iom.synthetic import load_face_model


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """`a0.jpg` and `a1.jpg` of one person, `b0.jpg` of another, in pictures of 640x480."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("iom.gallery.key_source.SCRYPT_COST", 2)
    monkeypatch.setenv("IOM_PASSPHRASE", "correct horse")
    for variable in ("IOM_GALLERY", "IOM_KEYS", "IOM_HASHER"):
        monkeypatch.delenv(variable, raising=False)
    faces, _ = load_face_model().sample(2, 2, seed=5)
    for name, face in zip(("a0", "a1", "b0"), faces, strict=False):
        scene = Image.new("RGB", (640, 480), (90, 120, 90))
        scene.paste(Image.fromarray(face).resize((168, 168)), (220, 120))
        scene.save(f"{name}.jpg", quality=95)
    Image.new("RGB", (640, 480), (90, 120, 90)).save("none.jpg")
    Image.new("RGB", (112, 112)).save("black.png")
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    Image.fromarray(noise).save("noise.png")
    return tmp_path


def ask(capsys, expected, *arguments):
    code = main([*map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert code == expected, shown
    return json.loads(shown.out)


def test_two_photographs_need_no_setting_up(photographs, capsys):
    found = ask(capsys, 0, "verify", "a0.jpg", "a0.jpg")
    assert found.keys() == {"images", "match", "distance", "threshold", "probability"}
    assert found["match"]
    strict = ask(capsys, 1, "verify", "a0.jpg", "b0.jpg", "--fmr", "0.0001")
    assert strict["threshold"] < found["threshold"]
    assert main(["verify", "a0.jpg", "b0.jpg"]) == 1
    assert capsys.readouterr().out.startswith("no match: distance ")
    for wrong, code, text in (
        ("none.jpg", 5, "none.jpg: expected a face, found none"),
        ("black.png", 5, "black.png: expected a face of sharpness"),
        ("noise.png", 5, "noise.png: expected an aligned face of 112x112 pixels, found none"),
        ("nothere.jpg", 2, "nothere.jpg: cannot read the image"),
    ):
        assert text in ask(capsys, code, "verify", "a0.jpg", wrong)["error"]["message"]
    assert ask(capsys, 1, "verify", "a0.jpg", "noise.png", "--unchecked")["match"] is False
    assert {each.name for each in photographs.iterdir()} == {
        "a0.jpg", "a1.jpg", "b0.jpg", "none.jpg", "black.png", "noise.png"
    }  # fmt: skip


def test_a_gallery_takes_photographs(photographs, capsys):
    ask(capsys, 0, "init")
    assert ask(capsys, 0, "enroll", "alice", "a0.jpg")["slots"] == [0]
    assert ask(capsys, 0, "verify", "alice", "a0.jpg")["match"]
    assert ask(capsys, 0, "identify", "a0.jpg")["candidates"][0]["subject"] == "alice"
    assert ask(capsys, 5, "enroll", "bob", "noise.png")["error"]["status"] == "no_face"
    assert ask(capsys, 0, "enroll", "bob", "noise.png", "--unchecked")["slots"] == [0]
    assert ask(capsys, 5, "renew", "alice", "black.png")["error"]["status"] == "too_blurred"
    assert ask(capsys, 0, "renew", "alice", "a1.jpg")["slots"] == [0]
    for name, image in (("carol", "b0.jpg"), ("dave", "noise.png")):
        (photographs / "people" / name).mkdir(parents=True)
        (photographs / image).rename(photographs / "people" / name / image)
    found = ask(capsys, 1, "bulk-enroll", "people", "--engine", "here", "--quiet")
    assert (found["subjects"], found["failed_images"]) == (1, 1)
    assert ask(capsys, 0, "verify", "carol", "people/carol/b0.jpg")["match"]
    assert [each["subject"] for each in ask(capsys, 0, "list")["subjects"]] == ["alice", "bob", "carol"]


def test_one_photograph_is_a_folder_of_one(photographs, capsys):
    assert ask(capsys, 0, "align", "a0.jpg", "faces", "--workers", "0", "--quiet")["faces_written"] == 1
    assert (photographs / "faces" / "a0.jpg").is_file()
    ask(capsys, 0, "make-key", "key")
    options = ("--output", "codes.parquet", "--key-file", "key", "--workers", "0", "--quiet")
    assert ask(capsys, 0, "hash", "a0.jpg", *options)["counts"]["faces"] == 1


def test_commands_stand_in_groups_and_each_has_examples_of_its_own(capsys):
    assert list(program.sections) == ["Try it", "Gallery", "Cards", "Service", "Train", "Data", "Evaluate"]
    assert [each.name for each in program.sections["Try it"]] == ["demo", "verify", "faces"]
    for name, command in program.commands.items():
        assert main([name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"Usage: iom {name} ")
        assert f"\n  iom {name}" in shown or isinstance(command, click.Group)
