import dataclasses

import numpy as np
import pytest

from iom.attacks import ATTACKS
from iom.attacks.base import KNOWLEDGE, AttackedSystem, read_back, unit
from iom.attacks.reconstruction import (
    climb_scores,
    closed_form,
    cross_entropy_descent,
    dictionary,
    one_guess,
    posterior_mode,
    prior_regressor,
    ridge,
    similarity_search,
)
from iom.baselines import BASELINES
from iom.codes.comparators import SymbolComparator
from iom.errors import DataError

RECONSTRUCTING = sorted(name for name, attack in ATTACKS.items() if attack.reconstruct and not attack.of_store)


def cosine(found, truth):
    return float(np.einsum("nd,nd->n", found, truth).mean())


def agreement(system, found, truth, key):
    return float((system.hash(found, key) == system.hash(truth, key)).mean())


@pytest.mark.parametrize(("code_length", "closest", "under_new_key"), [(128, 0.60, 0.37), (512, 0.90, 0.67)])
def test_changing_the_key_does_not_revoke_what_was_disclosed(
    make_system, make_leak, rows, key, code_length, closest, under_new_key
):
    """GRP-IoM at d = 512, q = 8, as measured by others: and descent gets a little nearer."""
    system = make_system(size=512, code_length=code_length, alphabet_size=8)
    truth = rows(10, 512)
    leak = make_leak(system, truth, population=rows(4, 512, seed=9))
    found = cross_entropy_descent(leak)
    assert agreement(system, found, truth, key(1)) > 0.995
    assert cosine(found, truth) == pytest.approx(closest, abs=0.05)
    assert agreement(system, found, truth, key(2)) == pytest.approx(under_new_key, abs=0.05)


def test_read_back_matches_a_loop(rows):
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(6, 5, 3)).astype(np.float32)
    codes = generator.integers(3, size=(4, 5))
    wanted = np.zeros((4, 6))
    for row in range(4):
        for position in range(5):
            wanted[row] += vectors[:, position, codes[row, position]]
    np.testing.assert_allclose(read_back(vectors, codes), wanted, rtol=1e-5, atol=1e-5)


def test_refined_codes_are_read_back_more_exactly(make_system, make_leak, rows):
    """That is what they are made for; it is also what a leak gives away."""
    truth = rows(20)
    angle = {}
    for name in ("simplex", "simplex_refined"):
        system = make_system(name, code_length=192, alphabet_size=2)
        angle[name] = np.arccos(cosine(closed_form(make_leak(system, truth)), truth))
    assert angle["simplex_refined"] < 0.7 * angle["simplex"]


def test_more_positions_and_more_records_tell_more(make_system, make_leak, rows):
    truth = rows(30)
    short, long = (make_system(code_length=length) for length in (16, 128))
    assert cosine(closed_form(make_leak(long, truth)), truth) > 0.1 + cosine(
        closed_form(make_leak(short, truth)), truth
    )
    reached = [cosine(prior_regressor(make_leak(short, truth, range(1, count + 1))), truth) for count in (1, 3, 10)]
    assert reached[0] + 0.1 < reached[1]
    assert reached[1] + 0.05 < reached[2]


def test_a_prior_tells_what_keep_cut_off(make_system, make_leak):
    """Dimensions that depend on each other: the kept ones tell the others."""
    generator = np.random.default_rng(5)
    mixing = generator.normal(size=(6, 32))

    def draw(count):
        return unit(generator.normal(size=(count, 6)) @ mixing)

    truth = draw(30)
    system = make_system(code_length=128, keep=12)
    leak = make_leak(system, truth, population=draw(1500))
    blind = cosine(closed_form(leak), truth)
    assert cosine(prior_regressor(leak), truth) > blind + 0.15
    assert cosine(posterior_mode(leak), truth) > blind + 0.1


@pytest.mark.parametrize("name", ["bloom", "ifo", "polyprotect"])
def test_the_regressor_takes_any_template(make_system, make_leak, rows, name):
    system = make_system(name, size=16, code_length=256, alphabet_size=4)
    truth = rows(20, 16)
    leak = make_leak(system, truth, population=rows(1500, 16, seed=9))
    assert cosine(prior_regressor(leak), truth) > 0.3


def test_urp_hides_the_sign_from_a_regression_but_not_from_a_search(make_system, make_leak, rows):
    """Products of two entries are the same for x and -x; up to that the search finds x."""
    system = make_system("urp", size=16, code_length=128, alphabet_size=4)
    truth = rows(4, 16)
    leak = make_leak(system, truth, population=rows(1000, 16, seed=9))
    assert abs(cosine(prior_regressor(leak), truth)) < 0.3
    assert np.median(np.abs(np.einsum("nd,nd->n", similarity_search(leak), truth))) > 0.8


@pytest.mark.parametrize(("name", "nearest"), [("biohash", 0.9), ("mlphash", 0.8)])
def test_signs_are_inverted(make_system, make_leak, rows, name, nearest):
    truth = rows(10)
    system = make_system(name, code_length=256, alphabet_size=2)
    assert cosine(cross_entropy_descent(make_leak(system, truth)), truth) > nearest


@pytest.mark.parametrize("name", ["ifo", "bloom"])
def test_hidden_bits_are_inverted(make_system, make_leak, rows, key, name):
    """Places of first ones and sets of words give the signs away, and those the direction."""
    truth = rows(6)
    system = make_system(name, code_length=256)
    found = cross_entropy_descent(make_leak(system, truth))
    assert cosine(found, truth) > 0.9
    chance = system.distances(system.hash(rows(6, seed=5), key(2)), system.hash(truth, key(2)))
    renewed = system.distances(system.hash(found, key(2)), system.hash(truth, key(2)))
    assert renewed.mean() < 0.6 * chance.mean()


def test_urp_is_inverted_up_to_its_sign(make_system, make_leak, rows, key):
    """The sign is lost to URP itself: a row and its negative have one code under every key."""
    truth = rows(8)
    system = make_system("urp", code_length=256)
    np.testing.assert_array_equal(system.hash(truth, key(2)), system.hash(-truth, key(2)))
    found = cross_entropy_descent(make_leak(system, truth))
    assert np.median(np.abs(np.einsum("nd,nd->n", found, truth))) > 0.9
    assert agreement(system, found, truth, key(1)) > 0.9
    assert agreement(system, found, truth, key(2)) > 0.8


def test_polyprotect_is_solved(make_system, make_leak, rows, key):
    truth = rows(12)
    system = make_system("polyprotect")
    leak = make_leak(system, truth)
    found = cross_entropy_descent(leak)
    same = np.einsum("nd,nd->n", found, truth)
    assert np.median(same) > 0.8


@pytest.mark.parametrize("attack", [similarity_search, climb_scores])
def test_trying_gets_near(make_system, make_leak, rows, key, attack, monkeypatch):
    monkeypatch.setattr("iom.attacks.reconstruction.GENERATIONS", 60)
    monkeypatch.setattr("iom.attacks.reconstruction.QUERY_GENERATIONS", 60)
    system = make_system("grp", size=16, code_length=96)
    truth = rows(5, 16)
    leak = make_leak(system, truth, population=rows(200, 16, seed=9))
    found = attack(leak)
    assert cosine(found, truth) > 0.9
    assert agreement(system, found, truth, key(1)) > 0.75


def test_the_dictionary_finds_whom_it_holds(make_system, make_leak, rows):
    truth = rows(6)
    people = np.concatenate([rows(50, seed=4), truth[::-1]])
    leak = make_leak(make_system(), truth, population=people)
    np.testing.assert_array_equal(dictionary(leak), truth)
    assert {tuple(row) for row in one_guess(leak)} <= {tuple(row) for row in people}


def test_a_code_without_information_is_worth_nothing(make_leak, rows):
    """Codes drawn from the key alone: every attack stays at chance."""

    def hashed(batch, key):
        seed = int.from_bytes(key.secret, "big")
        code = np.random.default_rng(seed).integers(4, size=64).astype(np.uint8)
        return np.repeat(code[None], len(batch), axis=0)

    vectors = rows(64 * 4, seed=2).T.reshape(32, 64, 4)
    system = AttackedSystem(
        "void", 32, 4, hashed, SymbolComparator(4), vectors=lambda key: vectors
    )  # fmt: skip
    truth = rows(60)
    leak = make_leak(system, truth, (1, 2), population=rows(300, seed=9))
    for name in RECONSTRUCTING:
        attack = ATTACKS[name]
        found = attack.reconstruct(leak.only(attack.knowledge))
        assert abs(cosine(found, truth)) < 0.12, name


@pytest.mark.parametrize("name", ["urp", "ifo", "bloom"])
def test_somebody_elses_template_is_worth_nothing(make_system, make_leak, rows, name):
    """What is found belongs to the template: neither the starts nor the search know the truth."""
    truth, others = rows(40), rows(40, seed=7)
    found = cross_entropy_descent(make_leak(make_system(name, code_length=128), others))
    assert np.median(np.abs(np.einsum("nd,nd->n", found, others))) > 0.6
    assert np.median(np.abs(np.einsum("nd,nd->n", found, truth))) < 0.2  # of chance: 0.12


@pytest.mark.parametrize(("name", "symbol"), [("urp", 0), ("ifo", 4), ("bloom", 0), ("bloom", 1)])
def test_a_template_that_nobody_has_is_no_trap(make_system, make_leak, rows, name, symbol):
    """All symbols alike: all void, filters without a word or with more words than fit."""
    system = make_system(name)
    leak = make_leak(system, rows(3))
    codes = np.full_like(leak.codes[0], symbol)
    found = cross_entropy_descent(dataclasses.replace(leak, codes=(codes,)))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-4)


@pytest.mark.parametrize("name", RECONSTRUCTING)
def test_an_attack_runs_on_what_it_says_it_knows(make_system, make_leak, rows, name, monkeypatch):
    monkeypatch.setattr("iom.attacks.reconstruction.GENERATIONS", 3)
    monkeypatch.setattr("iom.attacks.reconstruction.QUERY_GENERATIONS", 3)
    attack = ATTACKS[name]
    assert set(attack.knowledge) <= set(KNOWLEDGE)
    leak = make_leak(make_system(), rows(3), (1, 2), population=rows(60, seed=9))
    found = attack.reconstruct(leak.only(attack.knowledge))
    assert found.shape == (3, 32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-4)
    without = dataclasses.replace(leak, **{f: None for part in KNOWLEDGE.values() for f in part})
    with pytest.raises(DataError, match="did not leak"):
        attack.reconstruct(without)


def test_who_cannot_be_attacked_is_told_why(make_system):
    for name in BASELINES:
        system = make_system(name)
        reasons = {attack: entry.obstacle(system) for attack, entry in ATTACKS.items()}
        assert not reasons["prior_regressor"]
        assert not reasons["similarity_search"]
        assert bool(reasons["closed_form"]) == (system.vectors is None)
    closed = dataclasses.replace(make_system("urp"), responses=None)
    assert "gradient" in ATTACKS["descent"].obstacle(closed)


def test_ridge_is_the_same_from_both_sides():
    generator = np.random.default_rng(0)
    wide = generator.normal(size=(20, 30)).astype(np.float32)
    targets = (wide @ generator.normal(size=(30, 3))).astype(np.float32)
    told = generator.normal(size=(4, 30)).astype(np.float32)
    scale, centre = wide.std(axis=0), wide.mean(axis=0)
    seen, asked = (wide - centre) / scale, (told - centre) / scale
    gram = seen.T @ seen + 0.01 * 20 * np.eye(30)
    mean = targets.mean(axis=0)
    wanted = mean + asked @ np.linalg.solve(gram, seen.T @ (targets - mean))
    np.testing.assert_allclose(ridge(wide, targets, told), wanted, atol=2e-3)


def test_a_leak_shows_no_key(make_system, make_leak, rows, key):
    text = repr(make_leak(make_system(), rows(3)))
    assert key(1).secret.hex() not in text
    assert "TransformKey(secret" not in text
