"""What hasher.json says of keys, and hashers from before it said anything."""

import json

import numpy as np
import pytest
from scipy.linalg import hadamard

from iom.config import HasherConfig
from iom.errors import WeightsError
from iom.keys import TransformKey
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.hash_network import build_hasher


@pytest.fixture
def folder(tmp_path):
    model = build_hasher(16, HasherConfig(code_length=8, alphabet_size=4, key_kind="permutation"))
    KerasFaceHasher(model, embedder_name="x.y", embedder_fingerprint="ab" * 32).save(tmp_path)
    return tmp_path


def change(folder, key):
    path = folder / "hasher.json"
    stored = json.loads(path.read_text())
    stored.pop("key")
    path.write_text(json.dumps(stored if key is None else {**stored, "key": key}))


def test_a_hasher_without_a_kind_takes_permutations(folder):
    change(folder, None)
    assert KerasFaceHasher.load(folder).key_kind == "permutation"


@pytest.mark.parametrize(
    "key",
    [
        {"kind": "permutation", "derivation": "iom/permutation/v2"},
        {"kind": "permutation", "derivation": "iom/orthogonal/v1"},
        {"kind": "permutation"},
        {"kind": [], "derivation": "iom/permutation/v1"},
        {"kind": "quantum", "derivation": "iom/quantum/v1"},
        {},
        "permutation",
        7,
    ],
)
def test_keys_of_another_version_are_refused(folder, key):
    change(folder, key)
    with pytest.raises(WeightsError, match=r"iom/permutation/v1.* received .* use the program that trained it"):
        KerasFaceHasher.load(folder)


@pytest.mark.parametrize("kind", ["subset", "orthogonal"])
def test_metadata_and_graph_must_agree(folder, kind):
    change(folder, {"kind": kind, "derivation": f"iom/{kind}/v1"})
    with pytest.raises(WeightsError, match=f"received .*'{kind}'.* take both files from the same place"):
        KerasFaceHasher.load(folder)


def turned(rows, key):
    """An orthogonal key by its definition in float64; 128 is a power of two."""
    first, second, last = key.signed_orders(128).reshape(3, 128)
    for order in (first, second, last):
        rows = rows[:, np.where(order < 0, -order - 1, order)] * np.where(order < 0, -1.0, 1.0)
        if order is not last:
            rows = rows @ hadamard(128) / np.sqrt(128)
    return rows


KEYED = {"permutation": lambda rows, key: rows[:, key.permutation(128)], "orthogonal": turned}


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("pre_models/mobilefacenet_y1_512x8", "orthogonal"),
        ("pre_models/mobilefacenet_y1_1536x2", "orthogonal"),
        ("tests/fixtures/permutation_hasher", "permutation"),
    ],
)
def test_committed_hashers_still_give_their_codes(root, folder, kind):
    """By the definition in NumPy, from their weights: learned layer, key, refinement, argmax."""
    hasher = KerasFaceHasher.load(root / folder)
    assert (hasher.key_kind, hasher.key_size, hasher.keep) == (kind, 128, 0)
    length, alphabet_size = hasher.code_length, hasher.alphabet_size
    rows = np.random.default_rng(0).normal(size=(40, 128)).astype("float32")
    key = TransformKey(bytes(range(32)))
    learned = rows @ np.asarray(hasher.model.get_layer("learned_layer").kernel)
    target = KEYED[kind](learned, key)
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    kernel = np.asarray(hasher.model.get_layer("projection").kernel)
    vectors = kernel.reshape(128, length, alphabet_size)
    vectors = (vectors - vectors.mean(axis=2, keepdims=True)).reshape(128, -1)

    def codes(row):
        return (row @ vectors).reshape(40, length, alphabet_size).argmax(axis=2)

    def read_back(row):
        return np.eye(alphabet_size)[codes(row)].reshape(40, -1) @ vectors.T

    held = read_back(target)
    along = (held * target).sum(axis=1, keepdims=True)
    across = (held * held).sum(axis=1, keepdims=True) - along**2
    corrected = target
    for step in range(10):
        remainder = target - held / (along + 4 * across / along)
        corrected = corrected + remainder / (1 + step / 2)
        held = read_back(corrected)
    assert (hasher.hash(rows, key) == codes(corrected)).mean() > 0.995
