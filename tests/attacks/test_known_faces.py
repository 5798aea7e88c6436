import itertools

import keras
import numpy as np
import pytest

from iom.attacks import ATTACKS
from iom.attacks.base import KNOWN_FACES, KnownFaces, Leak, StolenStore, read_back, unit
from iom.attacks.known_faces import (
    fitted_rotation,
    free_assignment,
    matched_columns,
    ordered_assignment,
    polar,
    store_rows,
)
from iom.attacks.targets import attacked_hasher, attacked_protection
from iom.baselines import BASELINES
from iom.config import CodeConfig, HasherConfig
from iom.errors import DataError
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.hash_network import build_hasher

SIZE, SUBJECTS, KNOWN = 32, 300, 40


@pytest.fixture(scope="module")
def spectrum():
    """Shared covariance of enrolled subjects and strangers."""
    generator = np.random.default_rng(2)
    return np.diag(np.linspace(0.5, 1.6, SIZE)) @ np.linalg.qr(generator.normal(size=(SIZE, SIZE)))[0]


@pytest.fixture(scope="module")
def faces(spectrum):
    """Enrolled photographs and other ones of the same subjects, and strangers."""
    generator = np.random.default_rng(4)
    centres = generator.normal(size=(SUBJECTS, SIZE)) @ spectrum
    enrolled, others = (unit(centres + 0.3 * generator.normal(size=centres.shape)) for _ in range(2))
    return enrolled, others, unit(generator.normal(size=(1500, SIZE)) @ spectrum)


def hasher(**settings):
    """A refined hasher with a learned layer that is not the identity."""
    shape = {"code_length": 512, "alphabet_size": 2, "projection": "simplex", "refinement_steps": 10}
    model = build_hasher(SIZE, HasherConfig(**shape, **settings), seed=1)
    noise = np.random.default_rng(7).normal(size=(SIZE, SIZE)) / np.sqrt(SIZE)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(np.eye(SIZE) + 0.3 * noise)
    return attacked_hasher("ours", KerasFaceHasher(model, embedder_name="-", embedder_fingerprint="0" * 64))


def baseline(name, **shape):
    code = CodeConfig(**({"code_length": 512, "alphabet_size": 2} | shape))
    return attacked_protection(name, BASELINES[name](SIZE, code, 1), SIZE)


def stolen(system, faces, key, *, known=KNOWN, other=False, templates=None):
    """A leak of the store, where the first subjects are known and the last hundred wanted."""
    enrolled, others, strangers = faces
    templates = system.hash(enrolled, key) if templates is None else templates
    rows = np.arange(known)
    wanted = np.arange(SUBJECTS - 100, SUBJECTS)
    return Leak(
        system,
        len(wanted),
        population=strangers,
        population_labels=np.arange(len(strangers)),
        store=StolenStore(templates, wanted, store_rows(system, templates)),
        known_faces=KnownFaces(rows, (others if other else enrolled)[rows]),
    )


def cosine(name, leak, faces):
    attack = ATTACKS[name]
    found = attack.reconstruct(leak.only(attack.knowledge))
    assert found.shape == (len(leak.store.wanted), SIZE)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    return float(np.mean(np.sum(found * faces[0][leak.store.wanted], axis=1)))


@pytest.mark.parametrize("settings", [{"key_kind": "permutation"}, {"key_kind": "permutation", "keep": 24}])
def test_five_known_faces_give_a_permutation_away(faces, key, settings):
    leak = stolen(hasher(**settings), faces, key(3), known=5)
    assert cosine("known_faces_assignment", leak, faces) > (0.8 if "keep" in settings else 0.95)


@pytest.mark.parametrize("kind", ["subset", "part"])
def test_the_kept_dimensions_are_found_too(faces, key, kind):
    leak = stolen(hasher(key_kind=kind, keep=16), faces, key(3), known=10)
    assert cosine("known_faces_assignment", leak, faces) > 0.6
    assert cosine("known_faces_assignment", stolen(hasher(key_kind=kind, keep=16), faces, key(4)), faces) > 0.6


def test_a_permutation_falls_to_other_photographs_too(faces, key):
    assert (
        cosine("known_faces_assignment", stolen(hasher(key_kind="permutation"), faces, key(3), other=True), faces) > 0.9
    )


@pytest.mark.parametrize("attack", ["known_faces_regression", "known_faces_rotation"])
def test_as_many_known_faces_as_dimensions_give_a_rotation_away(faces, key, attack):
    system = hasher(key_kind="orthogonal")
    found = [cosine(attack, stolen(system, faces, key(3), known=known), faces) for known in (2, 10, 40)]
    assert found == sorted(found)
    assert found[0] < 0.5
    assert found[2] > 0.9
    assert cosine(attack, stolen(system, faces, key(3), known=80, other=True), faces) > 0.7


def test_without_known_faces_a_store_is_matched_with_a_population_like_it(spectrum):
    """Moments and covariances of thousands of rows order the dimensions; a population of another kind does not."""
    generator = np.random.default_rng(8)
    mean = 0.3 * generator.normal(size=SIZE)
    store, people = (unit(generator.normal(size=(4000, SIZE)) @ spectrum + mean) for _ in range(2))
    order = generator.permutation(SIZE)
    columns, _ = matched_columns(store[:0], people[:0], store[:, order], people)
    assert np.mean(columns == order) > 0.9
    foreign = unit(generator.normal(size=(4000, SIZE)))
    columns, _ = matched_columns(store[:0], people[:0], store[:, order], foreign)
    assert np.mean(columns == order) < 0.2


def test_without_known_faces_a_rotation_holds(faces, key):
    assert abs(cosine("store_moments", stolen(hasher(key_kind="orthogonal"), faces, key(3)), faces)) < 0.5


@pytest.mark.parametrize("name", ["known_faces_assignment", "known_faces_regression", "store_moments"])
@pytest.mark.parametrize("protection", ["masks", "key per record"])
def test_masks_and_keys_of_their_own_leave_chance(faces, key, name, protection):
    system = hasher(key_kind="permutation")
    codes = system.hash(faces[0], key(3) if protection == "masks" else [key(number) for number in range(SUBJECTS)])
    if protection == "masks":
        codes ^= np.random.default_rng(5).integers(2, size=codes.shape, dtype=codes.dtype)
    strangers = faces[2].mean(axis=0)
    guess = float(np.mean(faces[0][-100:] @ strangers / np.linalg.norm(strangers)))
    assert cosine(name, stolen(system, faces, None, templates=codes), faces) < max(guess, 0) + 0.12


@pytest.mark.parametrize("name", ["biohash", "mlphash", "grp", "sign", "scalar_2bit", "scalar_4bit", "bloom", "ifo"])
def test_baselines_fall_to_regression(faces, key, name):
    """Distances of templates give the embeddings up to a rotation, which known faces give; not for URP, whose products
    of two are the same for a row and its negative."""
    shape = {"alphabet_size": 8, "code_length": 256} if name == "ifo" else {}
    leak = stolen(baseline(name, **shape), faces, key(3), known=150)
    assert cosine("known_faces_regression", leak, faces) > {"ifo": 0.3, "bloom": 0.45}.get(name, 0.8)


def test_polyprotect_is_solved_with_one_known_face(faces, key):
    leak = stolen(baseline("polyprotect"), faces, key(3), known=1)
    assert cosine("known_faces_solved", leak, faces) > 0.6
    disclosed = leak.system.responses(key(3))
    solved = leak.system.recover(leak.store.templates[:1], faces[0][:1])
    start = np.ones((100, SIZE), np.float32)
    codes = leak.store.templates[leak.store.wanted]
    np.testing.assert_allclose(
        solved.descend(codes, start, steps=20), disclosed.descend(codes, start, steps=20), atol=1e-3
    )


def test_attacks_say_why_they_do_not_apply():
    moved, turned = (hasher(key_kind=kind) for kind in ("permutation", "orthogonal"))
    obstacles = {name: [ATTACKS[name].obstacle(system) for system in (moved, turned, baseline("biohash"))]
                 for name in ("known_faces_assignment", "known_faces_rotation", "known_faces_solved")}  # fmt: skip
    assert [bool(text) for text in obstacles["known_faces_assignment"]] == [False, True, True]
    assert [bool(text) for text in obstacles["known_faces_rotation"]] == [True, False, False]
    assert all("too many parameters" in text for text in obstacles["known_faces_solved"])
    assert "mixes the dimensions" in obstacles["known_faces_assignment"][1]
    assert "only moves the dimensions" in obstacles["known_faces_rotation"][0]
    assert not ATTACKS["known_faces_solved"].obstacle(baseline("polyprotect"))
    assert not any(ATTACKS["known_faces_regression"].obstacle(system) for system in (moved, turned))


def test_an_attack_sees_neither_key_nor_more_faces_than_it_declares(faces, key):
    leak = stolen(hasher(key_kind="permutation"), faces, key(3)).only(ATTACKS["store_moments"].knowledge)
    assert leak.known_faces is None
    assert (leak.hashers, leak.vectors, leak.codes) == (None, None, None)
    with pytest.raises(DataError, match="needs 'known_faces', which did not leak"):
        ATTACKS["known_faces_assignment"].reconstruct(leak)
    assert all(KNOWN_FACES in ATTACKS[name].knowledge for name in ATTACKS if name.startswith("known_faces"))


def test_rows_of_a_store_follow_the_definition(faces, key):
    system = hasher(key_kind="permutation")
    codes = system.hash(faces[0][:3], key(1))
    vectors = system.public_vectors - system.public_vectors.mean(axis=2, keepdims=True)
    for code, row in zip(codes, store_rows(system, codes), strict=True):
        summed = sum(vectors[:, position, symbol] for position, symbol in enumerate(code))
        np.testing.assert_allclose(row, summed / np.linalg.norm(summed), atol=1e-5)
    np.testing.assert_allclose(
        read_back(vectors, codes)[0], sum(vectors[:, m, s] for m, s in enumerate(codes[0])), rtol=1e-3, atol=1e-4
    )


def test_principal_coordinates_keep_the_angles(faces, key):
    rows = store_rows(baseline("biohash"), baseline("biohash").hash(faces[0], key(2)))
    angles, told = (matrix @ matrix.T for matrix in (faces[0], rows))
    assert np.corrcoef(angles[~np.eye(SUBJECTS, dtype=bool)], told[~np.eye(SUBJECTS, dtype=bool)])[0, 1] > 0.8


@pytest.mark.parametrize("shape", [(3, 3), (3, 6), (4, 7)])
def test_assignments_are_the_best_of_all(shape):
    scores = np.random.default_rng(3).normal(size=shape)
    places = np.arange(shape[0])
    every = list(itertools.permutations(range(shape[1]), shape[0]))
    best = max(every, key=lambda columns: scores[places, columns].sum())
    ascending = max(
        itertools.combinations(range(shape[1]), shape[0]), key=lambda columns: scores[places, columns].sum()
    )
    np.testing.assert_array_equal(free_assignment(scores), best)
    np.testing.assert_array_equal(ordered_assignment(scores), ascending)


def test_columns_are_matched_by_known_rows_alone(spectrum):
    generator = np.random.default_rng(8)
    rows, people, order = (unit(generator.normal(size=(n, SIZE))) for n in (40, 400, 1))
    order = np.argsort(order[0])
    columns, fit = matched_columns(rows[:8][:, order], rows[:8], rows[:, order], people)
    np.testing.assert_array_equal(columns, order)
    assert fit > matched_columns(rows[:8][:, order], people[:8], rows[:, order], people)[1]


def test_a_rotation_is_fitted_to_known_rows(spectrum):
    generator = np.random.default_rng(8)
    rotation = polar(generator.normal(size=(SIZE, SIZE)))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(SIZE), atol=1e-10)
    faces, people = (
        unit(generator.normal(size=(60, SIZE)) @ spectrum),
        unit(generator.normal(size=(2000, SIZE)) @ spectrum),
    )
    found = fitted_rotation(faces @ rotation, faces, people[:1000] @ rotation, people[1000:])
    assert np.sum(found * rotation) / SIZE > 0.98
