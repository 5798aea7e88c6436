"""Photographs of every kind, good and bad: each is found, or refused for the right reason."""

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from iom.errors import ConfigError
from iom.photos.align import TEMPLATE, Face, align
from iom.photos.codes_file import MEASURES
from iom.photos.photograph import PhotoSettings, find_faces

DRAW = np.random.default_rng(3)
SCENE = DRAW.integers(0, 256, (160, 200, 3)).astype(np.uint8)
FACE = Face(TEMPLATE + np.array([30, 20]), 0.9)


def found(root, name="a.png", faces=(FACE,), *, asked="all", **changes):
    settings = PhotoSettings(**{"detector": "points", "faces": asked, **changes})
    return find_faces(root, name, faces, settings=settings)


def save(root, image, name="a.png", **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(root / name, **options)


def test_a_face_is_aligned_and_measured(tmp_path):
    save(tmp_path, SCENE)
    result = found(tmp_path)
    assert (result.status, result.reason, result.notes) == ("aligned", "", ())
    (face,) = result.faces
    np.testing.assert_array_equal(face.crop, align(SCENE, FACE.points))
    box = [face.measures[side] for side in ("left", "top", "right", "bottom")]
    np.testing.assert_allclose(box, (29.5, 19.5, 141.5, 131.5), atol=0.01)
    assert face.measures["size"] == pytest.approx(112, abs=0.01)
    assert face.measures["score"] == 0.9
    assert abs(face.measures["yaw"]) < 0.1
    assert face.measures["sharpness"] > 0
    assert set(face.measures) == set(MEASURES)
    assert result.mark[0] == (tmp_path / "a.png").stat().st_size
    assert all(spent >= 0 for spent in result.seconds)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_gives_the_same_face(tmp_path, orientation):
    """Stored as a camera stores it, each of the eight ways, and turned back when read."""
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: np.rot90,
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path, np.ascontiguousarray(undo[orientation](SCENE)), exif=exif)
    result = found(tmp_path)
    assert result.notes == (() if orientation == 1 else ("turned",))
    np.testing.assert_array_equal(result.faces[0].crop, align(SCENE, FACE.points))


def test_every_kind_of_pixel(tmp_path):
    grey = SCENE[:, :, 0]
    replicated = align(np.repeat(grey[:, :, None], 3, axis=2), FACE.points)
    save(tmp_path, grey, "grey.png")
    save(tmp_path, grey.astype(np.uint16) * 257, "deep.png")
    save(tmp_path, grey.astype(np.uint16) * 257, "deep.tif")
    for name, notes in {"grey.png": (), "deep.png": ("16_bit",), "deep.tif": ("16_bit",)}.items():
        result = found(tmp_path, name)
        assert result.notes == notes
        np.testing.assert_array_equal(result.faces[0].crop, replicated)
    save(tmp_path, Image.fromarray(SCENE).convert("CMYK"), "cmyk.jpg", quality=100, subsampling=0)
    result = found(tmp_path, "cmyk.jpg")
    assert result.notes == ("cmyk_without_profile",)
    difference = result.faces[0].crop.astype(int) - align(SCENE, FACE.points)
    assert np.abs(difference).mean() < 6
    palette = Image.fromarray(SCENE).quantize(16)
    save(tmp_path, palette, "alpha.png", transparency=3)
    assert found(tmp_path, "alpha.png").notes == ("transparent",)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_of_an_animation_the_first_frame_counts(tmp_path, name):
    frames = [Image.new("RGB", (200, 160), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if name == "a.webp" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    result = found(tmp_path, name)
    assert result.notes == ("animated",)
    assert (result.faces[0].crop[20:90, 20:90] == [255, 0, 0]).all()


def test_several_faces(tmp_path):
    save(tmp_path, SCENE)
    small, tiny = Face(TEMPLATE * 0.5 + 60, 0.99), Face(TEMPLATE * 0.1 + 9, 0.95)
    faces = (small, FACE, tiny, Face(TEMPLATE, 0.2))
    every = found(tmp_path, faces=faces, min_score=0.5)
    assert [face.number for face in every.faces] == [0, 1]
    assert every.notes == ("several_faces", "small_faces_left_out")
    largest = found(tmp_path, faces=faces, min_score=0.5, asked="largest")
    assert [face.number for face in largest.faces] == [1]
    assert "faces_left_out" in largest.notes
    one = found(tmp_path, faces=faces, min_score=0.5, asked="one")
    assert (one.status, one.reason) == ("several_faces", "photograph: expected one face, found 2")
    assert found(tmp_path, faces=(FACE, tiny), asked="one").status == "aligned"
    bystander = Face(TEMPLATE * 0.45 + 60, 0.99)
    assert found(tmp_path, faces=(small, FACE), asked="dominant").status == "several_faces"
    assert [face.number for face in found(tmp_path, faces=(bystander, FACE), asked="dominant").faces] == [1]
    assert [face.number for face in found(tmp_path, faces=(FACE, bystander), asked="centre").faces] == [0]


def test_what_is_no_face(tmp_path):
    save(tmp_path, SCENE)
    assert found(tmp_path, faces=()).status == "no_face"
    assert found(tmp_path, faces=(Face(TEMPLATE, 0.1),), min_score=0.5).status == "no_face"
    tiny = found(tmp_path, faces=(Face(TEMPLATE * 0.2, 0.9),))
    assert (tiny.status, tiny.reason) == (
        "too_small",
        "photograph: expected a face of 32 pixels or more, found one of 22",
    )
    assert found(tmp_path, faces=(Face(np.full((5, 2), 9.0), 0.9),)).status == "bad_landmarks"
    assert found(tmp_path, faces=(Face(TEMPLATE + 900, 0.9),)).status == "bad_landmarks"


def test_bad_files(tmp_path):
    save(tmp_path, SCENE, "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no photograph at all")
    (tmp_path / "page.png").write_text("<!doctype html>")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    expected = {
        "half.jpg": "damaged", "empty.jpg": "empty", "text.jpg": "wrong_type",
        "page.png": "wrong_type", "folder.jpg": "unreadable", "pipe.jpg": "wrong_type",
        "none.jpg": "unreadable",
    }  # fmt: skip
    for name, status in expected.items():
        result = found(tmp_path, name)
        assert (name, result.status) == (name, status)
        assert result.reason
        assert str(tmp_path) not in result.reason


def test_heic_is_read_or_refused_with_the_way_on(tmp_path, monkeypatch):
    save(tmp_path, SCENE)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    result = found(tmp_path, "a.heic")
    assert result.status == "wrong_type"
    assert "needs the extra 'heic'" in result.reason
    monkeypatch.undo()
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is an extra that is not installed")
    heif.from_pillow(Image.new("RGB", (200, 160), (200, 30, 30))).save(tmp_path / "a.heic")
    result = found(tmp_path, "a.heic")
    assert result.status == "aligned"
    assert abs(result.faces[0].crop[50, 50].astype(int) - [200, 30, 30]).max() < 12


def test_a_photograph_that_may_not_be_read(tmp_path, monkeypatch):
    save(tmp_path, SCENE)

    def refuse(*_):  # the tests may run as root, who may read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    result = found(tmp_path)
    assert (result.status, result.reason) == ("unreadable", "photograph: cannot read the image: Permission denied")


def test_every_cut_and_any_flipped_byte_is_an_outcome(tmp_path):
    for name in ("a.jpg", "a.png", "a.webp", "a.gif", "a.tif", "a.bmp"):
        save(tmp_path, SCENE, name)
        data = (tmp_path / name).read_bytes()
        changed = [data[: len(data) * i // 10] for i in range(10)]
        for _ in range(15):
            flipped = bytearray(data)
            flipped[DRAW.integers(len(data))] ^= int(DRAW.integers(1, 256))
            changed.append(bytes(flipped))
        for each in changed:
            (tmp_path / name).write_bytes(each)
            result = found(tmp_path, name, max_megapixels=1)
            assert result.status in ("aligned", "damaged", "empty", "wrong_type", "too_large")


def bomb(width, height):
    """A PNG of a few kilobytes that states, and much of that number of pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compress(bytes(2**24), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("size", [(9000, 8000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_before_a_pixel_is_decoded(tmp_path, size):
    (tmp_path / "a.png").write_bytes(bomb(*size))
    result = found(tmp_path)
    assert result.status in ("too_large", "damaged")
    if size[0] == 9000:
        assert result.reason == "photograph: expected at most 64 megapixels, received 72"


def test_large_files_are_refused_unread(tmp_path):
    with (tmp_path / "a.png").open("wb") as stream:
        stream.truncate(300_000_000)
    result = found(tmp_path)
    assert result.status == "too_large"
    assert "at most 256000000 bytes, received 300000000" in result.reason


LARGE = """
import resource, sys
from pathlib import Path
from iom.photos.align import TEMPLATE
from iom.photos.align import Face
from iom.photos.photograph import PhotoSettings, find_faces

def highest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before = highest()
face = Face(TEMPLATE * 20 + 500, 0.9)
for name in sys.argv[2:]:
    found = find_faces(Path(sys.argv[1]), name, (face,), settings=PhotoSettings(detector="points"))
    print(name, found.status, *found.notes, round(highest() - before))
"""


def test_fifty_megapixels_take_bounded_memory(tmp_path):
    Image.new("L", (8000, 6250), 90).save(tmp_path / "grey.jpg")
    Image.new("I;16", (8000, 6250), 40000).save(tmp_path / "deep.png", compress_level=1)
    Image.new("RGB", (8000, 6250), "red").save(tmp_path / "turned.jpg", exif=turned())
    command = [sys.executable, "-c", LARGE, str(tmp_path), "grey.jpg", "deep.png", "turned.jpg"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[:-1] for line in lines] == [
        ["grey.jpg", "aligned"], ["deep.png", "aligned", "16_bit"], ["turned.jpg", "aligned", "turned"]
    ]  # fmt: skip
    print(lines)
    assert max(int(line.split()[-1]) for line in lines) < 700


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_aligned_faces_are_taken_as_they_are(tmp_path):
    save(tmp_path, SCENE[:112, :112], "a.png")
    save(tmp_path, SCENE, "b.png")
    result = found(tmp_path, faces=None, detector="aligned")
    np.testing.assert_array_equal(result.faces[0].crop, SCENE[:112, :112])
    assert set(result.faces[0].measures) == {"sharpness", "brightness"}
    other = found(tmp_path, "b.png", faces=None, detector="aligned")
    assert other.status == "damaged"
    assert "expected 112x112 aligned face, received 200x160" in other.reason


@pytest.mark.parametrize(
    "changes",
    [{"detector": "none"}, {"faces": "some"}, {"min_score": 2.0}, {"min_size": -1.0},
     {"max_megapixels": 0.0}, {"max_side": 50}],
)  # fmt: skip
def test_settings_out_of_range(changes):
    with pytest.raises(ConfigError):
        PhotoSettings(**changes)
