"""Manifests: what was written is read, and what was changed is refused."""

import json

import numpy as np
import pytest

from iom.errors import WeightsError
from iom.keys import TransformKey
from iom.models.artifact import Calibration, Check, Manifest, hashed_files, manifest_path, read_manifest, write_manifest
from iom.models.face_hasher import FEW, ArtifactFaceHasher
from iom.nn.hash_numpy import Head


@pytest.fixture
def artefact(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"graph")
    write_manifest(path, made(path))
    return path


def made(path, **changes):
    settings = {
        "target": "onnx",
        "runtime": "onnxruntime",
        "precision": "float32",
        "files": hashed_files([path], path.parent),
        "input_size": 112,
        "embedding_size": 128,
        "code_length": 512,
        "alphabet_size": 8,
        "keep": 0,
        "key_size": 128,
        "key_kind": "permutation",
        "embedder": {"name": "x", "sha256": "y"},
        "hasher": "z",
    }
    return Manifest(**{**settings, **changes})


def test_what_is_written_is_read(artefact):
    check = Check("faces", 3, 0.99, 0.97, 10, 0.01, 0.011, 0.001)
    manifest = made(artefact, check=check, calibration=Calibration(7, fmr=0.01, fnmr=0.1, subjects=9, keys=2))
    write_manifest(artefact, manifest)
    assert read_manifest(artefact) == manifest
    found = Calibration(6100, fmr=0.01, fnmr=0.1, subjects=9, keys=2, comparison="asymmetric")
    asymmetric = made(artefact, calibration=found)
    assert asymmetric.fingerprint == manifest.fingerprint
    write_manifest(artefact, asymmetric)
    assert read_manifest(artefact).calibration.comparison == "asymmetric"


@pytest.mark.parametrize("changes", [{"precision": "bfloat16"}, {"key_kind": "orthogonal"}, {"files": {"a.onnx": "0"}}])
def test_another_precision_kind_of_key_or_file_is_another_fingerprint(artefact, changes):
    assert made(artefact, **changes).fingerprint != made(artefact).fingerprint


def test_a_truncated_file_is_refused(artefact):
    artefact.write_bytes(b"gra")
    with pytest.raises(WeightsError, match="truncated"):
        read_manifest(artefact)


def test_a_missing_part_is_named(artefact):
    files = {**made(artefact).files, "a.bin": "0" * 64}
    write_manifest(artefact, made(artefact, files=files))
    with pytest.raises(WeightsError, match=r"a\.bin is missing"):
        read_manifest(artefact)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "version 1, received 2"),
        ({"precision": "int8"}, "was changed"),
        ({"files": {}}, "was changed"),
        ({"files": {"../a": "0"}}, "was changed"),
        ({"key_kind": "riddle"}, "damaged"),
        ({"surplus": 1}, "damaged"),
        ({"check": 7}, "damaged"),
        ({"calibration": {"riddle": 1}}, "damaged"),
    ],
)
def test_a_changed_manifest_is_refused(artefact, change, message):
    path = manifest_path(artefact)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(WeightsError, match=message):
        read_manifest(artefact)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_manifest_that_is_none_is_refused(artefact, text):
    manifest_path(artefact).write_text(text)
    with pytest.raises(WeightsError, match=r"damaged|version 1"):
        read_manifest(artefact)


def test_an_artefact_without_a_manifest_and_none_at_all(artefact, tmp_path):
    manifest_path(artefact).unlink()
    with pytest.raises(WeightsError, match=r"expected a\.onnx\.json beside it"):
        read_manifest(artefact)
    with pytest.raises(WeightsError, match="no artefact"):
        read_manifest(tmp_path / "b.onnx")


def test_a_folder_is_told_as_one(artefact, tmp_path):
    with pytest.raises(WeightsError, match=r"is a folder; give the artefact in it: .*a\.onnx"):
        ArtifactFaceHasher.load(str(artefact.parent))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"is a folder; give the file"):
        ArtifactFaceHasher.load(tmp_path / "empty")


@pytest.mark.parametrize(
    ("equal", "eer", "passed"), [(0.98, 0.0109, True), (0.96, 0.01, False), (0.98, 0.0112, False), (0.98, None, True)]
)
def test_a_check_holds_both_bounds(equal, eer, passed):
    source = None if eer is None else 0.01
    assert Check("faces", 3, equal, 0.97, 10, source, eer, 0.001).passed is passed


@pytest.mark.parametrize(("length", "alphabet"), [(512, 8), (1536, 2)])
def test_a_code_does_not_depend_on_how_many_rows_are_hashed(artefact, length, alphabet):
    stream = np.random.default_rng(0)
    kernel = stream.standard_normal((128, length * alphabet)).astype(np.float32)
    rows = stream.standard_normal((40, 128)).astype(np.float32)
    settings = {"alphabet_size": alphabet, "steps": 6, "gain": 0.3, "rate": 0.5, "decay": 0.2}
    steps = [
        {"step": "unit", "reads": [0], "settings": {}, "arrays": {}},
        {"step": "permutation", "reads": [2, 1], "settings": {"keep": 0}, "arrays": {}},
        {"step": "projection", "reads": [3], "settings": settings, "arrays": {"kernel": "kernel"}},
    ]
    manifest = made(artefact, code_length=length, alphabet_size=alphabet)
    hasher = ArtifactFaceHasher(None, manifest, Head(steps, {"kernel": kernel}), path=artefact)
    key = TransformKey.generate()
    whole = hasher.hash(rows, key)
    for few in (1, FEW, FEW + 1):
        np.testing.assert_array_equal(hasher.hash(rows[:few], key), whole[:few])
    assert len(np.unique(whole[0])) == alphabet
