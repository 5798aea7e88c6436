"""A hasher and an artefact that the first edition wrote are read, with the same fingerprint and codes."""

import json

import numpy as np
import pytest

import iom


@pytest.fixture(scope="module")
def fixtures(root):
    return root / "tests" / "fixtures" / "edition_1"


@pytest.fixture(scope="module")
def expected(fixtures):
    with np.load(fixtures / "expected.npz") as arrays:
        return {name: arrays[name] for name in arrays}


def test_a_trained_hasher(fixtures, expected):
    hasher = iom.load(fixtures / "stage2", opens_embedder=False)
    manifest = json.loads((fixtures / "artifact" / "stage2.onnx.json").read_text())
    assert hasher.fingerprint == manifest["hasher"]
    key = iom.TransformKey.from_text(str(expected["key"]))
    np.testing.assert_array_equal(hasher.hash(expected["embeddings"], key), expected["codes"])


def test_an_artefact(fixtures, expected):
    pytest.importorskip("onnxruntime")
    hasher = iom.load(fixtures / "artifact" / "stage2.onnx")
    key = iom.TransformKey.from_text(str(expected["key"]))
    np.testing.assert_allclose(hasher.embed(expected["images"]), expected["embeddings"], atol=1e-4)
    np.testing.assert_array_equal(hasher.hash(expected["embeddings"], key), expected["codes"])
    assert np.mean(hasher.hash_images(expected["images"], key) == expected["codes"]) > 0.95


def test_the_backbone_of_a_run(fixtures, expected):
    (path,) = (fixtures / "stage1").glob("best.keras")
    rows = iom.load_embedder(str(path), batch_size=3).embed(expected["images"])
    np.testing.assert_allclose(rows, expected["embeddings"], atol=1e-4)
