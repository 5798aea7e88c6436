import dataclasses

import numpy as np
import pytest

from iom.attacks import ATTACKS
from iom.attacks.base import unit
from iom.attacks.targets import attacked_protection
from iom.baselines import BASELINES
from iom.config import CodeConfig, ReportConfig
from iom.errors import ConfigError, DataError
from iom.evaluation.attacks import AttackKeys, attack_figures, measuring_keys
from iom.evaluation.stolen_store import Store, draw_enrolled, stolen_store_rows, store_attacks

SIZE = 24


@pytest.fixture
def faces():
    generator = np.random.default_rng(1)
    labels = np.repeat(np.arange(200), 3)
    labels = np.concatenate([labels, np.arange(200, 260)])
    rows = unit(generator.normal(size=(260, SIZE))[labels] + 0.3 * generator.normal(size=(len(labels), SIZE)))
    return rows, labels


@pytest.fixture
def keys():
    return AttackKeys(measuring_keys(1, "old", 2), measuring_keys(1, "fresh", 5))


def run(name, faces, keys, **more):
    system = attacked_protection(name, BASELINES[name](SIZE, CodeConfig(code_length=256, alphabet_size=2), 1), SIZE)
    enrolled = draw_enrolled(*faces, victims=20, limit=1000, seed=1)
    stores = [Store(system.hash(enrolled.samples, key), key) for key in keys.old]
    threshold = 0.5 if system.alphabet_size == 0 else 70
    return enrolled, list(stolen_store_rows(system, threshold, enrolled, stores, keys, replicates=20, **more))


def test_enrolled_strangers_victims_and_known_are_apart(faces):
    rows, labels = faces
    enrolled = draw_enrolled(*faces, victims=20, limit=1000, seed=1)
    assert len(enrolled.samples) == 130
    assert not set(enrolled.wanted) & set(enrolled.known)
    assert len(enrolled.wanted) == 20
    subject_of = {row.tobytes(): label for row, label in zip(rows, labels, strict=True)}
    own = [subject_of[row.tobytes()] for row in enrolled.samples]
    assert len(set(own)) == 130
    assert not set(own) & {subject_of[row.tobytes()] for row in enrolled.population}
    for row in (*enrolled.wanted, *enrolled.known):
        assert subject_of[enrolled.others[row].tobytes()] == own[row]
        assert (enrolled.others[row] != enrolled.samples[row]).any()
    assert np.isnan(enrolled.others[100:]).all()
    assert len(draw_enrolled(*faces, victims=20, limit=30, seed=1).samples) == 30
    foreign = {"population": rows[:9], "population_labels": labels[:9]}
    assert len(draw_enrolled(*faces, victims=20, limit=1000, seed=1, **foreign).samples) == 260
    with pytest.raises(DataError, match=r"four subjects .* received 0; leave it out"):
        draw_enrolled(rows[:9], np.arange(9), victims=3, limit=9, seed=1)


def test_more_known_faces_give_more_away(faces, keys):
    enrolled, rows = run("grp", faces, keys, known=(0, 2, 20, 500))
    by_place = {(row.attack, row.known, row.photograph): row for row in rows}
    guess = by_place["one_guess", 0, ""]
    few, many = (by_place["known_faces_assignment", count, "enrolled"] for count in (2, 20))
    assert guess.accepted_fresh < 0.1
    assert few.cosine < many.cosine
    assert min(many.accepted_fresh, many.accepted_old) > 0.97
    assert (many.enrolled, many.subjects, many.old_keys, many.fresh_keys) == (len(enrolled.samples), 20, 2, 5)
    assert many.intervals["accepted_fresh"].high == 1
    assert by_place["known_faces_assignment", 20, "other"].accepted_fresh > 0.5
    assert "80 enrolled subjects" in by_place["known_faces_assignment", 500, "other"].obstacle
    assert many.acquaintance == "20, enrolled photograph"
    assert guess.acquaintance == "none"


@pytest.mark.parametrize("name", ["biohash", "polyprotect", "scalar_4bit"])
def test_baselines_have_rows_or_obstacles(faces, keys, name):
    _, rows = run(name, faces, dataclasses.replace(keys, old=keys.old[:1]), known=(0, 5))
    assert {row.attack for row in rows} == set(store_attacks())
    for row in rows:
        assert row.obstacle or row.accepted_fresh is not None
    assert any(row.obstacle for row in rows if row.attack == "known_faces_assignment")


def test_attacks_on_a_store_do_not_run_on_leaked_keys(faces):
    assert {name for name, attack in ATTACKS.items() if attack.of_store} == set(store_attacks()) - {"one_guess"}
    with pytest.raises(ConfigError, match="known_faces"):
        ReportConfig(known_faces=(-1,))


def test_figures_are_means_over_keys_and_victims():
    by_leak = {"cosine": np.array([[0.2, 0.4], [0.6, 0.8]]), "sar": np.array([[True, False], [True, True]])}
    by_renewal = {"prar": np.array([[[True, False], [False, False]], [[True, True], [True, True]]])}
    found = attack_figures(by_leak, by_renewal, replicates=0, seed=1)
    assert found == {
        "subjects": 2, "old_keys": 2, "fresh_keys": 2, "intervals": {}, "cosine": pytest.approx(0.5), "sar": 0.75,
        "prar": 0.625,
    }  # fmt: skip
    intervals = attack_figures(by_leak, by_renewal, replicates=50, seed=1)["intervals"]
    assert set(intervals) == {"cosine", "sar", "prar"}
