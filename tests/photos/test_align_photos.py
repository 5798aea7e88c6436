"""Folders of generated photographs: every outcome, continuing, several processes."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from iom.errors import ConfigError, DataError, MissingExtraError
from iom.photos import detect as detectors
from iom.photos.align import TEMPLATE, Face, read_landmarks, write_landmarks
from iom.photos.detect import Detector, build_detector
from iom.photos.images import read_image
from iom.photos.photograph import PhotoSettings
from iom.photos.pipeline import PhotoRun, align_photos

CALLS = []


def by_colour(image):
    """Red photographs hold a face, green ones two, blue a tiny one, white points without a spread.

    The two faces: a large one at the left edge, a smaller one in the middle.
    """
    CALLS.append(image.shape)
    red, green, blue = image[0, 0] > 128
    if red and green and blue:
        return [Face(np.full((5, 2), 9.0), 0.99)]
    if red:
        return [Face(TEMPLATE + 20, 0.95), Face(TEMPLATE, 0.1)]
    if green:
        return [Face(TEMPLATE * 0.5 + 70, 0.99), Face(TEMPLATE, 0.9)]
    return [Face(TEMPLATE * 0.2, 0.9)] if blue else []


@pytest.fixture
def fake(monkeypatch):
    CALLS.clear()
    monkeypatch.setitem(detectors.DETECTORS, "fake", Detector(lambda *_: by_colour, 0.5))


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    colours = {
        "Ada/1.jpg": "red",
        "Ada/2.png": "lime",
        "Bea/1.jpg": "blue",
        "Bea/2.jpg": "black",
        "Bea/3.jpg": "white",
        "Bea/4.jpg": "red",
        "Bea/4.png": "red",
    }
    for name, colour in colours.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 190), colour).save(root / name)
    (root / "Bea" / "5.jpg").write_bytes((root / "Bea" / "4.jpg").read_bytes()[:300])
    Image.new("1", (3000, 2000)).save(root / "huge.png")
    (root / "notes.txt").write_text("x")
    (root / ".hidden.jpg").write_bytes(b"x")
    return root


def settings(**changes):
    return PhotoSettings(**{"detector": "fake", "faces": "largest", "max_megapixels": 5, **changes})


def align(photos, output, chosen, *, format="jpg", **options):
    return align_photos(PhotoRun(photos, chosen, **{"workers": 0, **options}), output, format=format)


def test_every_outcome_is_counted(fake, photos, tmp_path):
    out = tmp_path / "faces"
    report = align(photos, out, settings())
    counts = {
        "photographs": 9, "aligned": 4, "too_small": 1, "no_face": 1, "bad_landmarks": 1,
        "damaged": 1, "too_large": 1, "several_faces": 1, "faces_written": 4,
    }  # fmt: skip
    assert {key: report[key] for key in counts} == counts
    assert report["other_files"] == {".txt": 1}
    assert json.loads((out / "report.json").read_text()) == report
    written = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.jpg"))
    assert written == ["Ada/1.jpg", "Ada/2.jpg", "Bea/4.jpg.jpg", "Bea/4.png.jpg"]
    assert read_image(out / "Ada" / "1.jpg").shape == (112, 112, 3)
    with (out / "report.csv").open() as stream:
        rows = {row["photo"]: row for row in csv.DictReader(stream)}
    assert rows["Bea/1.jpg"]["status"] == "too_small"
    assert "expected a face of 32" in rows["Bea/1.jpg"]["reason"]
    assert "damaged" in rows["Bea/5.jpg"]["reason"]
    assert "Ada/1.jpg" not in rows


@pytest.mark.parametrize(("which", "chosen"), [("largest", [1]), ("centre", [0]), ("all", [0, 1])])
def test_the_choice_of_several_faces(fake, photos, tmp_path, which, chosen):
    out = tmp_path / "faces"
    align(photos, out, settings(faces=which), format="png")
    with (out / "landmarks.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["photo"] == "Ada/2.png"]
    assert [int(row["face"]) for row in rows if row["file"]] == chosen
    assert all((out / row["file"]).is_file() for row in rows if row["file"])


def test_a_run_goes_on_where_it_was_stopped(fake, photos, tmp_path):
    out = tmp_path / "faces"
    whole = align(photos, out, settings())
    reports = [(out / name).read_bytes() for name in ("report.csv", "landmarks.csv")]
    journal = out / "align.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    for cut in (b"", lines[0], b"".join(lines[:4]) + lines[4][:20], b"".join(lines)[:-1]):
        for name in ("report.csv", "landmarks.csv", "report.json"):
            (out / name).unlink(missing_ok=True)
        journal.write_bytes(cut)
        again = align(photos, out, settings())
        assert again["done_before"] == max(0, cut.count(b"\n") - 1)
        assert {**again, "done_before": 0} == whole
        assert [(out / name).read_bytes() for name in ("report.csv", "landmarks.csv")] == reports


def test_what_changed_or_is_gone_is_done_again(fake, photos, tmp_path):
    out = tmp_path / "faces"
    align(photos, out, settings())
    CALLS.clear()
    (out / "Ada" / "1.jpg").unlink()
    Image.new("RGB", (150, 150), "red").save(photos / "Bea" / "2.jpg")
    assert align(photos, out, settings())["aligned"] == 5
    assert sorted(CALLS) == [(150, 150, 3), (190, 200, 3)]


def test_a_folder_of_another_run_is_refused(fake, photos, tmp_path):
    out = tmp_path / "faces"
    align(photos, out, settings())
    with pytest.raises(DataError, match=r"other settings.*faces"):
        align(photos, out, settings(faces="all"))
    first, second = (out / "align.jsonl").read_text().splitlines()[:2]
    for damaged, message in {
        f"{first}\nnonsense\n": "damaged",
        f'{first}\n{{"photo": "a.jpg"}}\n': "damaged",
        f'{{"detector": "fake", "which": "largest"}}\n{second}\n': "older version; use another output",
    }.items():
        (out / "align.jsonl").write_text(damaged)
        with pytest.raises(DataError, match=message):
            align(photos, out, settings())
    with pytest.raises(ConfigError, match="format jpg or png"):
        align(photos, out, settings(), format="gif")
    (out / "align.jsonl").write_text(f"{first}\n0\n")
    with pytest.raises(DataError, match="damaged"):
        align(photos, out, settings())
    with pytest.raises(DataError, match="other files"):
        align(photos, photos.parent, settings())
    with pytest.raises(DataError, match="outside"):
        align(photos, photos / "faces", settings())
    with pytest.raises(DataError, match="no folder"):
        align(tmp_path / "none", out, settings())


def test_known_landmarks_need_no_detector_and_run_in_processes(photos, tmp_path):
    listed = tmp_path / "landmarks.csv"
    names = ("Ada/1.jpg", "Ada/2.png", "Bea/4.png")
    write_landmarks(listed, [(name, 0, Face(TEMPLATE + 9, 1.0), "") for name in names])
    points = read_landmarks(listed)
    chosen = PhotoSettings(detector="points", faces="largest")
    outputs = [tmp_path / "one", tmp_path / "two"]
    for workers, out in zip((0, 2), outputs, strict=True):
        report = align(photos, out, chosen, points=points, workers=workers)
        assert report["aligned"] == report["photographs"] == 3
    for name in ("landmarks.csv", "Ada/1.jpg", "Bea/4.jpg"):
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()
    np.testing.assert_allclose(read_landmarks(outputs[0] / "landmarks.csv")["Ada/1.jpg"][0].points,
                               TEMPLATE + 9, atol=1e-3)  # fmt: skip
    with pytest.raises(DataError, match=r"1 of 1 listed.*gone\.jpg"):
        align(photos, outputs[0], chosen, points={"gone.jpg": []})


def test_damaged_lists_of_landmarks_are_refused(tmp_path):
    path = tmp_path / "landmarks.csv"
    write_landmarks(path, [("a.jpg", 0, Face(TEMPLATE * [-1, 1], 1.0), "")])
    with pytest.raises(DataError, match="left and right confused"):
        read_landmarks(path)
    write_landmarks(path, [("a.jpg", 0, Face(TEMPLATE, 1.0), "")])
    text = path.read_text()
    for damaged, message in [
        ("", "columns"),
        (text.replace("nose_x", "nase_x"), "nose_x"),
        (text.splitlines()[0], "no line"),
        (text.replace("56.025", "nan"), "line 2.*finite"),
        (text.replace("56.025", "x"), "line 2.*numbers"),
        (text[: len(text) * 8 // 10], "line 2"),
    ]:
        path.write_text(damaged)
        with pytest.raises(DataError, match=message):
            read_landmarks(path)


def test_bad_settings_and_missing_packages_say_what_to_do(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="mtcnn, yunet"):
        PhotoSettings(detector="mtcn")
    with pytest.raises(ConfigError, match="largest"):
        PhotoSettings(faces="biggest")
    for change in ({"min_score": 2.0}, {"min_size": float("nan")}):
        with pytest.raises(ConfigError):
            PhotoSettings(**change)
    with pytest.raises(DataError, match="--detector-weights"):
        build_detector("yunet")
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(MissingExtraError, match=r"extra 'yunet'"):
        build_detector("yunet", weights=tmp_path / "w.onnx")


def test_a_large_photograph_is_shrunk_for_the_detector_alone(fake):
    image = np.zeros((400, 800, 3), np.uint8)
    image[..., 0] = 255
    face = build_detector("fake", max_side=200)(image)[0]
    assert CALLS == [(100, 200, 3)]
    np.testing.assert_allclose(face.points, (TEMPLATE + 20.5) * 4 - 0.5)
