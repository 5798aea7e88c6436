"""Decisions about two pictures, in one line, and codes of pictures."""

import io

import numpy as np
import pytest
from PIL import Image

import iom
from iom.errors import BystanderWarning, CodeError, ConfigError, FaceError, KeyMaterialError
from iom.models.verification import Verification, decide, threshold_at
from iom.synthetic import load_face_model


@pytest.fixture(scope="module")
def hasher():
    return iom.load("bundled")


@pytest.fixture(scope="module")
def faces():
    images, _ = load_face_model().sample(2, 2, seed=5)
    return images


def photograph(face):
    """A face on a larger canvas, as a photograph."""
    canvas = np.full((400, 500, 3), 128, np.uint8)
    canvas[60:284, 100:324] = np.asarray(Image.fromarray(face).resize((224, 224), Image.Resampling.BICUBIC))
    return canvas


def test_two_pictures_of_one_person_match_and_of_two_do_not(faces):
    same, other = iom.verify(faces[0], faces[1]), iom.verify(faces[0], faces[2])
    assert same.match
    assert not other.match
    assert same.distance < other.distance
    assert 0 < other.probability < same.probability < 1
    assert same.threshold == other.threshold == threshold_at(iom.load("bundled").calibration, 1e-2)
    assert "match" in str(same)
    assert "no match" in other._repr_html_()


def test_a_picture_may_come_in_any_form(faces, tmp_path, hasher):
    path = tmp_path / "a.png"
    Image.fromarray(faces[0]).save(path)
    stream = io.BytesIO(path.read_bytes())
    for picture in (path, str(path), path.read_bytes(), stream, Image.fromarray(faces[0])):
        assert iom.verify(picture, faces[0], hasher=hasher).distance == 0


def test_a_face_is_cut_from_a_photograph(faces, hasher):
    found = hasher.embed_picture(photograph(faces[0]))
    aligned = hasher.embed(faces[:1])[0]
    assert found.shape == (128,)
    assert found @ aligned > 0.9


def test_a_stricter_operating_point(faces, hasher):
    loose, strict = (iom.verify(faces[0], faces[1], hasher=hasher, fmr=fmr).threshold for fmr in (1e-3, 1e-4))
    assert strict < loose
    assert iom.verify(faces[0], faces[1], hasher=hasher, threshold=-1).match is False
    with pytest.raises(
        ConfigError, match=r"expected one of its false match rates 0\.001, 0\.0001, 0\.01, received 0\.5"
    ):
        iom.verify(faces[0], faces[1], hasher=hasher, fmr=0.5)


def test_a_code_hides_its_symbols_and_compares_under_its_key(faces, hasher):
    key, other = iom.Key.generate(), iom.Key.generate()
    code = hasher.hash(faces[0], key)
    assert len(code) == hasher.code_length
    np.testing.assert_array_equal(np.asarray(code), hasher.hash(hasher.embed(faces[:1]), key)[0])
    assert not any(character in repr(code) for character in "[]")
    assert str(code) == repr(code)
    assert hasher.compare(code, faces[1], key).match
    assert not hasher.compare(code, faces[2], key).match
    assert not hasher.compare(code, faces[0], other).match
    with pytest.raises(CodeError, match="two hashers"):
        code.distance(iom.Code(np.asarray(code), code.alphabet_size, "0" * 64))


def test_wrong_keys_and_pictures_are_told_before_anything_is_computed(faces, hasher):
    with pytest.raises(KeyMaterialError, match="received str"):
        hasher.hash(faces[0], "secret")
    with pytest.raises(FaceError, match="found none"):
        iom.verify(np.full((300, 300, 3), 90, np.uint8), faces[0], hasher=hasher)
    with pytest.raises(FaceError, match="no such file"):
        iom.verify("absent.jpg", faces[0], hasher=hasher)


def test_without_a_calibration_a_threshold_is_asked_for():
    assert decide(None, 3, 5).match
    assert decide(None, 3, 5).probability is None
    with pytest.raises(ConfigError, match="x: not calibrated"):
        threshold_at(None, name="x")


def test_a_decision_is_never_shown_as_certain():
    assert "probability 0.99983" in str(Verification(True, 140, 186, 0.9998342))
    assert "probability 0.00017" in str(Verification(False, 340, 186, 0.0001658))


def test_a_bystander_is_told(faces, hasher):
    canvas = photograph(faces[0])
    wide = np.full((400, 900, 3), 128, np.uint8)
    wide[:, :500] = canvas
    wide[150:240, 700:790] = np.asarray(Image.fromarray(faces[2]).resize((90, 90), Image.Resampling.BICUBIC))
    with pytest.warns(BystanderWarning, match="picture: 1 further face; the largest was taken"):
        row = hasher.embed_picture(wide)
    assert row @ hasher.embed(faces[:1])[0] > 0.9
