"""Pictures of every kind, their faces, and the one face that is compared."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

import iom
from iom.errors import ConfigError, DataError, FaceError, TooLargeError
from iom.photos.align import TEMPLATE, TEMPLATES, Face, align
from iom.photos.detect import build_detector
from iom.photos.images import is_aligned, read_picture
from iom.photos.picture import faces, one_face
from iom.synthetic import write_folder

SCENE = np.random.default_rng(4).integers(0, 256, (150, 200, 3)).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Two synthetic faces."""
    folder = tmp_path_factory.mktemp("people")
    write_folder(folder, 2, 1, seed=1, progress=False)
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*/*.png"))]


def group(people, *places, size=(420, 300)):
    """A picture with faces at (left, top, side)."""
    canvas = Image.new("RGB", size, (110, 120, 130))
    for person, (left, top, side) in zip(people, places, strict=False):
        canvas.paste(person.resize((side, side), Image.Resampling.BICUBIC), (left, top))
    return canvas


def test_whatever_a_picture_comes_as_it_is_read_alike(tmp_path):
    path = tmp_path / "a picture.png"
    data = encoded(SCENE)
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    lines = "\n".join(re.findall(".{1,76}", text))
    for picture in (
        path,
        str(path),
        data,
        bytearray(data),
        memoryview(data),
        text,
        lines,
        base64.urlsafe_b64encode(data).decode(),
        f"data:image/png;base64,{text}",
        io.BytesIO(data),
        path.open("rb"),
        SCENE,
        Image.fromarray(SCENE),
        Image.open(path),
    ):
        pixels, notes = read_picture(picture)
        np.testing.assert_array_equal(pixels, SCENE)
        assert pixels.dtype == np.uint8
        assert notes == ()
        if hasattr(picture, "close"):
            picture.close()
    grey, _ = read_picture(SCENE[:, :, 0])
    np.testing.assert_array_equal(grey, SCENE[:, :, :1].repeat(3, axis=2))


def test_a_picture_of_pillow_is_converted_as_a_file_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(SCENE, exif=exif)
    turned = read_picture(data)
    assert turned[1] == ("turned",)
    with Image.open(io.BytesIO(data)) as image:
        pixels, notes = read_picture(image)
    np.testing.assert_array_equal(pixels, turned[0])
    assert notes == ("turned",)
    assert read_picture(Image.fromarray(SCENE).convert("CMYK"))[1] == ("cmyk_without_profile",)
    assert read_picture(Image.fromarray(SCENE[:, :, 0].astype(np.uint16) * 257))[1] == ("16_bit",)
    frames = [Image.new("RGB", (30, 30), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_picture(data)[1] == ("animated",)
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)
        assert read_picture(image)[0][0, 0].argmax() == 2  # the frame that it stands at


BAD = {
    "missing": ("none.jpg", "'none.jpg': there is no such file, and as base64 it is no picture"),
    "word": ("face", "'face': there is no such file, and as base64"),
    "long": ("A" * 5000, "there is no such file, and as base64"),
    "null": ("a\0b.jpg", "there is no such file"),
    "url": ("https://example.org/a.jpg", "are not fetched; download it"),
    "data url": ("data:image/png,abc", "expected data:image/"),
    "base64 of nothing": ("data:image/png;base64,%%%", "expected data:image/"),
    "empty": (b"", "picture: expected a photograph, received an empty file"),
    "text": (b"not a picture", "received something else"),
    "cut": (encoded(SCENE)[:3000], "damaged or truncated"),
    "none": (None, "picture: expected a path, bytes, base64 text, .* received NoneType"),
    "list": ([b"a"], "received list"),
    "text file": (io.StringIO("abc"), r"opened for bytes \('rb'\), received str"),
    "floats": (SCENE / 255, r"expected pixels \(H, W, 3\), RGB, or \(H, W\) of uint8 0..255, received \(150, 200, 3\)"),
    "alpha": (np.zeros((9, 9, 4), np.uint8), r"received \(9, 9, 4\)"),
    "batch": (SCENE[None], r"received \(1, 150, 200, 3\)"),
    "no pixels": (np.zeros((0, 9, 3), np.uint8), r"received \(0, 9, 3\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_one_clear_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture, message = BAD[name]
    with pytest.raises(DataError, match=message) as caught:
        read_picture(picture)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_files_that_cannot_be_read_say_which(tmp_path):
    with pytest.raises(FaceError, match="folder: cannot read the image: Is a directory"):
        read_picture(str(tmp_path), source="folder")
    with pytest.raises(FaceError, match=r"none\.jpg: cannot read the image: No such file"):
        read_picture(tmp_path / "none.jpg")
    closed = io.BytesIO(b"")
    closed.close()
    with pytest.raises(DataError, match="closed file"):
        read_picture(closed)
    for large in (SCENE, Image.fromarray(SCENE), encoded(SCENE)):
        with pytest.raises(TooLargeError, match=r"at most 0\.01 megapixels"):
            read_picture(large, max_megapixels=0.01)


def test_heic_asks_for_its_package(monkeypatch):
    data = b"\0\0\0\x18ftypheic" + bytes(100)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(FaceError, match=r"needs the extra 'heic'.*or save it as JPEG"):
        read_picture(data)


def test_heic_is_read_where_its_package_is():
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is an extra that is not installed")
    heif.register_heif_opener()
    data = encoded(Image.new("RGB", (64, 48), (200, 30, 30)), "HEIF")
    pixels, notes = read_picture(data)
    assert pixels.shape == (48, 64, 3)
    assert abs(pixels[20, 20].astype(int) - [200, 30, 30]).max() < 12
    assert notes == ()


def test_all_faces_of_a_picture(people):
    found = iom.faces(group(people, (20, 60, 180), (230, 80, 150)))
    assert len(found) == 2
    assert [face.number for face in found] == [0, 1]
    for face in found:
        left, top, side = min([(20, 60, 180), (230, 80, 150)], key=lambda place: abs(place[0] - face.box[0]))
        expected = (TEMPLATE + 0.5) * side / 112 - 0.5 + [left, top]
        assert np.linalg.norm(face.landmarks - expected, axis=1).mean() < 0.08 * side
        assert face.crop.shape == (112, 112, 3)
        np.testing.assert_array_equal(face.crop, align(found.picture, face.landmarks))
        assert 0.9 < face.score <= 1
        assert 0.7 * side < face.size < 1.3 * side
        assert abs(face.pose["roll"]) < 10
        assert face.sharpness > 2
        assert face.others == 1
    assert found[0:1] == (found[0],)
    assert found.notes == ("several_faces",)
    text = repr(found)
    assert text.startswith("2 faces in a picture of 420 x 300 pixels\n  AlignedFace(0: score ")
    html = found._repr_html_()
    assert html.count('<img src="data:image/jpeg;base64,') == 3
    assert "<script" not in html
    assert found.draw().size == (420, 300)
    assert found.sheet().size == (420, 412)
    assert len(iom.faces(group(people, (20, 60, 180), (230, 80, 150)), min_size=175)) <= 1


def test_a_picture_without_a_face_has_none():
    found = faces(np.full((60, 80, 3), 120, np.uint8))
    assert len(found) == 0
    assert list(found) == []
    assert "found none" in found.reason
    assert "0 faces in a picture of 80 x 60 pixels (picture: expected a face" in repr(found)
    assert "<figure" not in found._repr_html_()
    assert found.sheet().size == (112, 60)
    with pytest.raises(ConfigError, match="min_sizes"):
        faces(SCENE, min_sizes=3)


def test_an_aligned_face_stays_as_it_is(people):
    crop = np.asarray(people[0])
    for template in TEMPLATES:
        chip, face = one_face(encoded(crop), template=template)
        np.testing.assert_array_equal(chip, crop)
        assert (face.box, face.score, face.size) == ((-0.5, -0.5, 111.5, 111.5), 1.0, 112.0)
    (face,) = faces(crop)
    np.testing.assert_array_equal(face.landmarks, TEMPLATE)
    assert face.pose == {}
    assert not is_aligned(SCENE)
    with pytest.raises(FaceError, match="received CMYK"):
        one_face(encoded(people[0].convert("CMYK"), "TIFF"))


def test_the_one_face_is_cut_from_the_picture_itself(people):
    picture = group(people, (120, 60, 180))
    chip, face = one_face(picture, template="dlib")
    assert chip.shape == (150, 150, 3)
    np.testing.assert_array_equal(chip, align(np.asarray(picture), face.landmarks, template=TEMPLATES["dlib"]))
    chip, face = one_face(picture)
    np.testing.assert_array_equal(chip, face.crop)
    assert face.others == 0
    with pytest.raises(ConfigError, match="arcfaces"):
        one_face(picture, template="arcfaces")


def test_of_several_faces_the_dominant_one_counts(people, tmp_path):
    _, face = one_face(group(people, (20, 20, 240), (300, 100, 80)))
    assert face.others == 1
    assert face.size > 150
    path = tmp_path / "two.png"
    group(people, (20, 60, 180), (230, 80, 150)).save(path)
    with pytest.raises(
        FaceError, match=r"two\.png: expected one face, found 2; cut the picture to one person"
    ) as caught:
        one_face(path)
    assert caught.value.status == "several_faces"


def test_large_pictures_are_looked_at_again_where_no_large_face_is_found(people, monkeypatch):
    sides = []

    def packaged(name, max_side):
        sides.append(max_side)
        return build_detector(name, max_side=max_side)

    monkeypatch.setattr("iom.photos.picture._packaged", packaged)
    _, large = one_face(group(people, (300, 100, 400), size=(1280, 800)))
    assert sides == [640]
    assert 300 < large.size < 520
    _, small = one_face(group(people, (600, 300, 80), size=(1280, 800)))
    assert sides == [640, 640, 1024]
    assert 60 < small.size < 110
    sides.clear()
    one_face(group(people, (120, 60, 180)))
    assert sides == [1024]


def test_failures_are_told_in_plain_words(people):
    for picture, status, message in (
        (np.full((200, 300, 3), 99, np.uint8), "no_face", "found none; show it upright"),
        (group(people, (100, 100, 30)), "too_small", "pixels or more, found one of .*; take it from nearer"),
        (np.zeros((112, 112, 3), np.uint8), "too_blurred", "sharpness 2 or more, found 0.0; take a sharper picture"),
    ):
        detect = (lambda _: [Face(TEMPLATE * 0.25 + 100, 0.99)]) if status == "too_small" else None
        with pytest.raises(FaceError, match=f"face of Ada: .*{message}") as caught:
            one_face(picture, detector=detect, source="face of Ada")
        assert caught.value.status == status
    chip, _ = one_face(np.zeros((112, 112, 3), np.uint8), checked=False)
    assert not chip.any()
