import keras
import numpy as np
import pytest

from iom.attacks.base import unit
from iom.attacks.reconstruction import cross_entropy_descent
from iom.attacks.targets import attacked_hasher
from iom.baselines import BASELINES
from iom.config import HasherConfig
from iom.keys import part_of
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.hash_network import build_hasher

LINEAR = ["grp", "sign", "biohash", "orthonormal", "simplex", "cross_polytope"]


def hasher(size=16, **settings):
    plain = {"projection": "orthonormal", "refinement_steps": 0}
    code = HasherConfig(**({"code_length": 48, "alphabet_size": 4} | plain | settings))
    model = build_hasher(size, code, seed=2)
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense) and not layer.name.startswith("hidden"):
            noise = 0.2 * generator.normal(size=layer.kernel.shape)
            layer.kernel.assign(np.asarray(layer.kernel) + noise)
    return KerasFaceHasher(model, embedder_name="none", embedder_fingerprint="0" * 64)


def argmax(rows, vectors):
    return np.einsum("nd,dmq->nmq", rows, vectors).argmax(axis=2)


@pytest.mark.parametrize("keep", [0, 9])
@pytest.mark.parametrize("name", LINEAR)
def test_vectors_give_the_codes_of_a_protection(make_system, rows, key, name, keep):
    if keep and name == "biohash":
        pytest.skip("BioHash has no keep")
    system = make_system(name, keep=keep)
    truth = rows(40)
    codes = system.hash(truth, key(3))
    assert np.mean(argmax(truth, system.vectors(key(3))) == codes) > 0.999


@pytest.mark.parametrize(
    "settings",
    [{}, {"keep": 9}, {"bottleneck": 12}, {"key_kind": "orthogonal"},
     {"key_kind": "subset", "keep": 8}],
)  # fmt: skip
def test_vectors_give_the_codes_of_a_hasher(rows, key, settings):
    system = attacked_hasher("ours", hasher(**settings))
    truth = rows(40, 16)
    codes = system.hash(truth, key(3))
    assert np.mean(argmax(truth, system.vectors(key(3))) == codes) > 0.999
    assert system.responses is None


def test_a_hasher_with_hidden_layers_is_descended_through(make_leak, rows):
    model = hasher(hidden_layers=1, code_length=128)
    assert model.head.disclosed(16)[0] is None
    system = attacked_hasher("ours", model)
    assert system.vectors is None
    truth = rows(6, 16)
    before = model.model.get_weights()
    found = cross_entropy_descent(make_leak(system, truth, population=rows(9, 16)))
    assert np.einsum("nd,nd->n", found, truth).mean() > 0.85
    for old, new in zip(before, model.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_parts_share_nothing(rows, key):
    """Two keys of different parts: their vectors span two halves of the learned layer's output."""
    model = hasher(32, key_kind="part", keep=16)
    system = attacked_hasher("ours", model)
    truth = rows(20)
    learned = np.linalg.inv(model.head.disclosed(32)[0])
    spans = {}
    for number in range(1, 12):
        one = key(number)
        vectors = system.vectors(one)
        assert np.mean(argmax(truth, vectors) == system.hash(truth, one)) > 0.999
        behind = np.einsum("kd,dmq->kmq", learned, vectors)
        used = frozenset(np.flatnonzero(np.abs(behind).max(axis=(1, 2)) > 1e-3).tolist())
        spans.setdefault(part_of(one, 2), set()).add(used)
    assert spans == {0: {frozenset(range(16))}, 1: {frozenset(range(16, 32))}}


def test_every_linear_baseline_is_known_as_such(make_system):
    linear = {name for name in BASELINES if make_system(name).vectors}
    assert linear >= {*LINEAR, "grp_refined", "simplex_refined"}
    assert not linear & {"urp", "ifo", "bloom", "mlphash", "polyprotect"}
    assert np.allclose(unit(np.zeros((1, 3))), 0)
