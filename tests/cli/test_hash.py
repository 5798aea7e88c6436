"""`iom hash` and `iom make-key`, with the bundled hasher on synthetic faces."""

import json
import stat

import numpy as np
import pytest
from PIL import Image

from iom.cli.main import main
from iom.codes.packing import unpack
from iom.keys import TransformKey
from iom.photos.align import TEMPLATE, Face, align, read_landmarks, write_landmarks
from iom.photos.codes_file import read_codes
from iom.photos.images import read_photograph
from iom.photos.pipeline import BATCH
from iom.synthetic import load_face_model


@pytest.fixture
def iom(tmp_path, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    monkeypatch.delenv("IOM_KEY", raising=False)
    monkeypatch.delenv("IOM_HASHER", raising=False)

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def photos(tmp_path):
    """Three synthetic faces, each within a larger photograph, and a text."""
    images, _ = load_face_model().sample(3, 1, seed=4)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(images):
        photo = np.full((200, 260, 3), 128, np.uint8)
        photo[30:142, 60:172] = image
        Image.fromarray(photo).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("x")
    face = Face(TEMPLATE + np.array([60, 30]), 1.0)
    rows = [(f"{i}.png", 0, face, "") for i in range(3)]
    write_landmarks(tmp_path / "landmarks.csv", rows)
    return folder, images


def test_from_photographs_to_codes(iom, photos, tmp_path, monkeypatch):
    from iom import load

    folder, images = photos
    assert iom("make-key", tmp_path / "door.key")[0] == 0
    key = TransformKey.from_text((tmp_path / "door.key").read_text())
    hasher = load("bundled", batch_size=BATCH)
    out = tmp_path / "codes.parquet"
    options = ["--points", tmp_path / "landmarks.csv", "--workers", "0", "--quiet"]
    code, shown, error = iom("hash", folder, "--output", out, "--key-file", tmp_path / "door.key", *options)
    assert code == 0, error
    assert shown.splitlines()[0] == "3 photographs: 3 hashed, 1 wrong type"
    found = read_codes(out)
    assert found.model == hasher.fingerprint
    assert found.encoding == "iom-planes/1:1536x2"
    points = read_landmarks(tmp_path / "landmarks.csv")
    aligned = [align(read_photograph(folder / name)[0], points[name][0].points) for name in found.photos]
    assert np.abs(np.stack(aligned).astype(int) - images).mean() < 1
    codes = hasher.hash(hasher.embed(np.stack(aligned)), key)
    np.testing.assert_array_equal(unpack(found.codes), codes)
    last = json.loads((tmp_path / "codes.report.jsonl").read_text().splitlines()[-1])
    assert last["counts"]["wrong_type"] == 1
    monkeypatch.setenv("IOM_KEY", key.to_text())
    assert iom("hash", folder, "--output", tmp_path / "again.parquet", *options)[0] == 0
    assert (tmp_path / "again.parquet").read_bytes() == out.read_bytes()
    code, _, error = iom("hash", folder, "--output", out, *options)
    assert code == 2
    assert "exists already and is finished" in error


def test_a_key_is_made_for_its_owner_and_never_overwritten(iom, tmp_path):
    file = tmp_path / "a.key"
    code, shown, _ = iom("make-key", file)
    assert code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert text.strip() not in shown
    assert iom("make-key", file)[0] == 2
    assert file.read_text() == text
    assert iom("make-key", tmp_path / "none" / "a.key")[0] == 2


def test_there_is_no_key_but_a_given_one(iom, photos, tmp_path, monkeypatch):
    out = ("hash", photos[0], "--output", tmp_path / "codes.parquet")
    code, _, error = iom(*out)
    assert code == 6
    assert "--key-file FILE or the environment variable IOM_KEY" in error
    damaged = TransformKey.generate().to_text()[:-2]
    (tmp_path / "bad.key").write_text(damaged)
    for arguments in (["--key-file", tmp_path / "bad.key"], ["--key-file", tmp_path / "none"]):
        code, _, error = iom(*out, *arguments)
        assert code == 6
        assert str(arguments[1]) in error
        assert damaged[10:20] not in error
    monkeypatch.setenv("IOM_KEY", damaged)
    code, _, error = iom(*out)
    assert code == 6
    assert "IOM_KEY" in error
    assert damaged[10:20] not in error
    assert not list(tmp_path.glob("codes*"))


@pytest.mark.parametrize(
    "arguments",
    [["--workers", "-1"], ["--seconds", "0"], ["--faces", "some"], ["--detector", "none"],
     ["--aligned", "--landmarks"], ["--min-size", "-3"], ["--points", "none.csv"],
     ["--detector", "yunet"], ["--max-megapixels", "-1"]],
)  # fmt: skip
def test_mistakes_are_one_line(iom, photos, tmp_path, monkeypatch, arguments):
    monkeypatch.setenv("IOM_KEY", TransformKey.generate().to_text())
    monkeypatch.setattr("iom.models.face_hasher.load", lambda *a, **k: Fake())
    code, _, error = iom("hash", photos[0], "--output", tmp_path / "c.parquet", *arguments)
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_an_output_that_cannot_be_written_is_one_line(iom, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("IOM_KEY", TransformKey.generate().to_text())
    monkeypatch.setattr("iom.models.face_hasher.load", lambda *a, **k: Fake())
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "codes.parquet"
    code, _, error = iom("hash", photos[0], "--output", out, "--aligned", "--workers", "0")
    assert code == 2
    assert error.startswith("error: ")
    assert "is a file; name another output" in error


class Fake:
    code_length, alphabet_size, fingerprint = 64, 2, "0" * 64
