"""The interface of face hashers: what it takes, what it refuses, what it shows of itself."""

import numpy as np
import pytest
from PIL import Image

import iom
from iom.config import HasherConfig
from iom.errors import DataError, KeyMaterialError, WeightsError
from iom.keys import TransformKey
from iom.models.artifact import Calibration
from iom.models.embedder import Embedder
from iom.models.face_hasher import FaceHasher, ForwardingFaceHasher, KerasFaceHasher
from iom.nn.hash_network import build_hasher
from iom.synthetic import load_face_model

KEY = TransformKey(bytes(range(32)))


@pytest.fixture(scope="module")
def hasher():
    def predict(pixels):
        return pixels.reshape(len(pixels), -1)[:, :8]

    made = KerasFaceHasher(
        build_hasher(8, HasherConfig(code_length=16, alphabet_size=4, key_kind="orthogonal")),
        embedder_name="made.test",
        embedder_fingerprint="a" * 64,
        calibration=Calibration(threshold=5, fmr=0.01, fnmr=0.1, subjects=9, keys=2),
    )
    made.embedder = Embedder(predict, name="made.test", fingerprint="a" * 64, embedding_size=8, batch_size=2)
    return made


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(0).integers(1, 256, (3, 112, 112, 3), np.uint8)


def test_paths_may_be_strings_and_faces_a_list(hasher, faces, tmp_path):
    expected = hasher.embed(faces)
    np.testing.assert_array_equal(hasher.embed(list(faces)), expected)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, face in zip(paths, faces, strict=True):
        Image.fromarray(face).save(path)
    np.testing.assert_array_equal(hasher.embed_files([str(path) for path in paths]), expected)
    np.testing.assert_array_equal(hasher.embed_files(paths), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: h.embed_files("a.jpg"), "a list of image files, received str"),
        (lambda h: h.embed_files([3]), "paths of image files, received int"),
        (lambda h: h.embed_files(None), "received NoneType"),
        (lambda h: h.embed(["a.jpg"]), r"received list \(embed_files takes files\)"),
        (lambda h: h.embed("a.jpg"), "received str"),
        (lambda h: h.embed([np.zeros((2, 2)), np.zeros(3)]), "a list of different shapes"),
        (lambda h: h.embed(np.zeros((1, 112, 112, 3))), "of float64"),
        (lambda h: h.hash("secret", KEY), "no such file, and as base64 it is no picture"),
    ],
)
def test_wrong_types_are_told_as_such(hasher, call, message):
    with pytest.raises(DataError, match=message):
        call(hasher)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("hunter2", "received str"),
        (b"hunter2", "received bytes"),
        (None, "received NoneType"),
        (["hunter2", KEY, KEY], "received a list of str"),
        ([KEY], "received 1 keys"),
    ],
)
def test_keys_of_a_wrong_type_are_told_and_never_shown(hasher, keys, message):
    with pytest.raises(KeyMaterialError, match=f"one for each of 3 embeddings, {message}") as error:
        hasher.hash(np.eye(8, dtype=np.float32)[:3], keys)
    assert "hunter2" not in str(error.value)


def test_they_say_what_they_are(hasher):
    text = "(16x4, orthogonal, made.test, threshold 5 at FMR 0.01)"
    assert repr(hasher) == f"KerasFaceHasher{text}"
    assert repr(hasher.embedder) == "Embedder(made.test, 8 dimensions)"
    assert repr(ForwardingFaceHasher(hasher)) == f"ForwardingFaceHasher{text}"


def test_a_forwarding_hasher_is_the_other_one(hasher, faces):
    other = ForwardingFaceHasher(hasher)
    for name in (*FaceHasher.__annotations__, "input_size", "fingerprint", "parts", "order_width"):
        assert getattr(other, name) == getattr(hasher, name)
    rows = other.with_batch_size(1).embed(faces)
    np.testing.assert_allclose(rows, hasher.embed(faces), atol=1e-6)
    np.testing.assert_array_equal(other.hash(rows, KEY), hasher.hash(rows, KEY))
    with pytest.raises(AttributeError, match="no attribute 'model'"):
        _ = other.model


def test_an_embedder_of_another_fingerprint_is_refused(hasher):
    with pytest.raises(WeightsError, match=r"trained with the embedder made\.test"):
        hasher.embedder = Embedder(lambda x: x, name="b", fingerprint="b" * 64, embedding_size=8)


def test_a_backbone_that_was_trained_along_is_the_embedder(hasher, tmp_path):
    hasher.save(tmp_path)
    assert KerasFaceHasher.load(tmp_path).weights == "made.test"
    (tmp_path / "embedder.keras").write_bytes(b"")
    assert KerasFaceHasher.load(tmp_path).weights == str(tmp_path / "embedder.keras")
    assert KerasFaceHasher.load(tmp_path, weights="other.test").weights == "other.test"


def test_the_bundled_hasher_is_loaded_by_its_name():
    hasher = iom.load("bundled")
    assert isinstance(hasher, iom.ArtifactFaceHasher)
    assert (hasher.code_length, hasher.alphabet_size, hasher.input_size) == (1536, 2, 112)
    assert [point.fmr for point in hasher.calibration.points] == [1e-3, 1e-4, 1e-2]
    trained = iom.KerasFaceHasher.load("bundled")
    assert trained.embedder_name == "dlib_resnet.bundled"
    faces, _ = load_face_model().sample(4, 1, seed=1)
    rows = hasher.embed(faces)
    np.testing.assert_array_equal(rows, trained.embedder.embed(faces))
    assert (hasher.hash(rows, KEY) == trained.hash(rows, KEY)).mean() > 0.99
    with pytest.raises(WeightsError, match="did you mean 'bundled'"):
        iom.load("bundeld")
