"""Keyed rows of face hashers, and the comparison that goes with a calibration."""

import dataclasses

import numpy as np
import pytest

import iom
from iom.codes.asymmetric import LENGTH, UNIT
from iom.codes.comparators import AsymmetricComparator, SymbolComparator
from iom.config import HasherConfig
from iom.errors import ConfigError, DataError, KeyMaterialError
from iom.keys import KEY_KINDS, TransformKey
from iom.models.artifact import Calibration
from iom.models.face_hasher import ForwardingFaceHasher, KerasFaceHasher
from iom.nn.hash_network import KEYED_LAYER, build_hasher

SIZE, KEY = 16, TransformKey(bytes(range(32)))
FOUND = Calibration(threshold=5, fmr=0.01, fnmr=0.1, subjects=9, keys=2)


def made(calibration=FOUND, **settings):
    plain = {"code_length": 64, "alphabet_size": 4, "key_kind": "orthogonal", "refinement_steps": 10}
    network = build_hasher(SIZE, HasherConfig(**plain | settings), seed=1)
    return KerasFaceHasher(network, embedder_name="made.test", embedder_fingerprint="a" * 64, calibration=calibration)


@pytest.fixture(scope="module")
def embeddings():
    rows = np.random.default_rng(0).normal(size=(40, SIZE)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"key_kind": "orthogonal"},
        {"key_kind": "permutation"},
        {"key_kind": "permutation", "keep": 10, "code_length": 20},
        {"key_kind": "part", "keep": 8, "code_length": 20},
        {"bottleneck": 8, "hidden_layers": 1},
        {"refinement_steps": 0},
    ],
)
def test_keyed_rows_are_what_enters_the_projection(embeddings, settings):
    import keras

    hasher = made(**settings)
    layer = hasher.model.get_layer("projection")
    before = keras.Model(hasher.model.inputs, layer.input)
    order = KEY_KINDS[hasher.key_kind].order(KEY, hasher.key_size, hasher.keep)
    orders = np.broadcast_to(order, (len(embeddings), hasher.order_width))
    expected = before.predict_on_batch({"embedding": embeddings, "order": orders})
    rows = hasher.rows(embeddings, KEY)
    assert rows.dtype == np.int32
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(rows - LENGTH * expected / lengths).max() < 0.51
    assert (
        np.asarray(layer.kernel).shape == hasher.vectors.kernel.shape == (rows.shape[1], hasher.vectors.code_length * 4)
    )
    assert hasher.model.get_layer(KEYED_LAYER) is not layer


@pytest.mark.parametrize("kind", ["orthogonal", "permutation"])
def test_a_code_is_near_its_own_row_alone(embeddings, kind):
    """The vectors, rows and codes of one hasher belong together: under one key only, and of one face only."""
    hasher, other = made(key_kind=kind), TransformKey.generate()
    comparator = hasher.comparator_of("asymmetric")
    templates = comparator.prepare(hasher.templates(embeddings, KEY, "asymmetric"))
    own = comparator.paired(templates, templates)
    assert own.max() < 0.1 * UNIT
    table = comparator.all_pairs(templates, templates)
    np.testing.assert_array_equal(table.argmin(axis=0), np.arange(len(embeddings)))
    elsewhere = comparator.prepare(hasher.templates(embeddings, other, "asymmetric"))
    assert abs(np.mean(comparator.paired(templates, elsewhere)) - UNIT) < 0.2 * UNIT


def test_rows_do_not_depend_on_how_many_are_asked_for(embeddings):
    hasher = made()
    whole = hasher.rows(embeddings, KEY)
    for few in (1, 16, 17):
        np.testing.assert_array_equal(hasher.rows(embeddings[:few], KEY), whole[:few])
    keys = [TransformKey.generate() for _ in embeddings]
    each = hasher.rows(embeddings, keys)
    np.testing.assert_array_equal(each[3], hasher.rows(embeddings[3:4], keys[3])[0])
    assert hasher.rows(embeddings[:0], KEY).shape == (0, SIZE)


def test_the_calibration_says_how_codes_are_compared(embeddings):
    hasher = made()
    assert (hasher.comparison, hasher.comparator) == ("symbols", SymbolComparator(4))
    assert made(None).comparison == "symbols"
    np.testing.assert_array_equal(hasher.templates(embeddings, KEY, "symbols"), hasher.hash(embeddings, KEY))
    hasher = made(dataclasses.replace(FOUND, comparison="asymmetric"))
    assert hasher.comparison == "asymmetric"
    assert isinstance(hasher.comparator, AsymmetricComparator)
    codes, rows = hasher.templates(embeddings, KEY, hasher.comparison)
    np.testing.assert_array_equal(codes, hasher.hash(embeddings, KEY))
    np.testing.assert_array_equal(rows, ForwardingFaceHasher(hasher).rows(embeddings, KEY))
    assert hasher.fingerprint == made().fingerprint


def test_the_comparison_is_kept_with_the_calibration_and_is_symbols_in_old_files(tmp_path):
    made(dataclasses.replace(FOUND, comparison="asymmetric")).save(tmp_path)
    assert KerasFaceHasher.load(tmp_path).comparison == "asymmetric"
    values = dataclasses.asdict(FOUND)
    del values["comparison"]
    assert Calibration.from_json(values) == FOUND
    with pytest.raises(DataError, match="expected the comparison symbols or asymmetric, received 'cosine'"):
        Calibration.from_json(values | {"comparison": "cosine"})


def test_wrong_input_is_refused_as_by_hash(embeddings):
    hasher = made()
    with pytest.raises(ConfigError, match="asymmetric"):
        hasher.comparator_of("asymetric")
    with pytest.raises(DataError, match=r"\(N, 16\), received \(2, 3\)"):
        hasher.rows(np.zeros((2, 3), np.float32), KEY)
    with pytest.raises(KeyMaterialError, match="received 2 keys"):
        hasher.rows(embeddings, [KEY, KEY])


def test_an_artefact_has_the_rows_and_vectors_of_its_source(root):
    pytest.importorskip("onnxruntime")
    fixtures = root / "tests" / "fixtures" / "edition_1"
    trained, artefact = (
        iom.load(fixtures / "stage2", opens_embedder=False),
        iom.load(fixtures / "artifact" / "stage2.onnx"),
    )
    with np.load(fixtures / "expected.npz") as arrays:
        rows = arrays["embeddings"]
    np.testing.assert_array_equal(trained.vectors.kernel, artefact.vectors.kernel)
    np.testing.assert_array_equal(trained.rows(rows, KEY), artefact.rows(rows, KEY))
    assert artefact.comparison == "symbols"
