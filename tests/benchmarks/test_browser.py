"""The benchmark of the client library: its mistakes, its pictures, what it would notice, and a small run."""

import base64
import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmarks import browser
from iom.photos.images import read_photograph
from iom.synthetic import load_face_model


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        browser.main(["--help"])
    assert stopped.value.code == 0
    assert "python -m benchmarks.browser" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("built", "program", "message"),
    [(False, "chromium", "run make web"), (True, "", "no Chromium on this machine; name one with --browser")],
)
def test_what_is_missing_is_one_line(built, program, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(browser, "LIBRARY", browser.ROOT / "nowhere")
    if built:
        (tmp_path / "index.js").touch()
        monkeypatch.setattr(browser, "LIBRARY", tmp_path)
    assert browser.main(["--data", str(tmp_path), "--browser", program]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_photographs_are_upright_behind_their_orientation(tmp_path):
    faces, _ = load_face_model().sample(2, 1, seed=1)
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    paths = browser.made_photographs(faces, 16, tmp_path / "first")
    again = browser.made_photographs(faces, 16, tmp_path / "second")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    found = set()
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            found.add(image.getexif().get(0x0112))
            upright = ImageOps.exif_transpose(image)
            assert upright.size == ((640, 480), (1280, 960), (1600, 1200), (960, 1280))[number % 4]
            pixels, _ = read_photograph(path)
            np.testing.assert_array_equal(pixels, np.asarray(upright.convert("RGB")))
    assert found == set(browser.ORIENTATIONS)


SECRET = np.random.default_rng(3).integers(0, 256, 4096, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("start", [0, 5, 1000, 4000])
@pytest.mark.parametrize("form", ["raw", "base64", "base64 of url"])
def test_a_part_of_a_picture_in_a_body_is_noticed(start, form):
    part = b"before" + SECRET[start : start + 48] + b"behind"
    if form != "raw":
        encode = base64.b64encode if form == "base64" else base64.urlsafe_b64encode
        part = json.dumps({"nonce": "x", "code": encode(part).decode().rstrip("=")}).encode()
    assert browser.tells(part, [bytes(100), SECRET])


def test_other_bodies_tell_nothing():
    code = np.random.default_rng(4).integers(0, 256, 192, dtype=np.uint8).tobytes()
    body = json.dumps({"subject": "alice", "code": base64.urlsafe_b64encode(code).decode(), "number": 3}).encode()
    assert not browser.tells(body, [SECRET, bytes(1000)])
    assert not browser.tells(bytes(64), [bytes(1000)])  # a black picture is no secret


@pytest.mark.proof
def test_a_small_run(prepared_data, capsys):
    if not (browser.LIBRARY / "index.js").is_file() or not any(map(shutil.which, browser.BROWSERS)):
        pytest.skip("needs the client library (make web) and Chromium")
    small = ["--hashers", "bundled", "--faces", "4", "--photographs", "2", "--pairs", "20", "--turns", "1"]
    assert browser.main([*small, "--no-peer", "--no-tfjs", "--data", str(prepared_data)]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["bundled"]
    assert figures["equal_symbols_pixels"] >= 0.999
    assert figures["equal_symbols_photos"] >= 0.98
    assert figures["images_sent"] == 0
    assert figures["bodies"] >= 12
    assert [each["match"] for each in figures["service"]][::2] == [True, True]
