import dataclasses
import json

import numpy as np
import pytest

from benchmarks.attack_setting import draw_victims
from benchmarks.attacks import decision_threshold
from iom.attacks import ATTACKS
from iom.attacks.base import unit
from iom.attacks.targets import attacked_protection
from iom.baselines import BASELINES
from iom.config import CodeConfig
from iom.errors import ConfigError, DataError
from iom.evaluation.attacks import AttackKeys, Victims, attack_rows, measuring_keys
from iom.evaluation.report.text import attack_table

SIZE = 24
ALIKE = {name for name in BASELINES if name.endswith("_refined")} | {"orthonormal"}
"""Frames differ in their vectors only; one of them is enough here."""


def subjects(count, images, seed):
    generator = np.random.default_rng(seed)
    centres = np.repeat(generator.normal(size=(count, SIZE)), images, axis=0)
    rows = unit(centres + 0.4 * generator.normal(size=centres.shape))
    return rows, np.repeat(np.arange(count), images)


def system(name="grp", **shape):
    code = CodeConfig(**({"code_length": 96, "alphabet_size": 4} | shape))
    return attacked_protection(name, BASELINES[name](SIZE, code, 1), SIZE)


@pytest.fixture
def faces():
    return subjects(80, 3, 1)


@pytest.fixture
def victims(faces):
    people, labels = subjects(150, 2, 2)
    return draw_victims(*faces, population=people, population_labels=labels, subjects=12, samples=3, seed=1)


@pytest.fixture
def keys():
    return AttackKeys(measuring_keys(1, "old", 2), measuring_keys(1, "fresh", 40), measuring_keys(1, "more", 4))


def run(names, victims, keys, faces, attacked=None, **more):
    attacked = attacked or system()
    threshold = decision_threshold(attacked, *faces, fmr=1e-3, keys=keys.old)
    return list(attack_rows(attacked, threshold, names, victims, keys, **more))


def test_full_disclosure_is_not_undone_by_fresh_keys(faces, victims, keys):
    (row,) = run(["closed_form"], victims, keys, faces)
    assert row.sar == row.prar == 1
    assert row.cosine > 0.9
    assert row.prar_other > 0.5
    assert (row.subjects, row.old_keys, row.fresh_keys, row.records) == (12, 2, 40, 1)
    assert row.knowledge == "codes + key"
    low, high = row.intervals["cosine"]
    assert low < row.cosine < high


def test_a_guess_is_accepted_as_often_as_a_false_match(faces, victims, keys):
    (row,) = run(["one_guess"], victims, keys, faces)
    assert row.sar < 0.1
    assert row.prar < 0.02
    assert abs(row.cosine) < 0.15


def test_more_records_tell_more(faces, victims, keys):
    short = system(code_length=16)
    rows = run(["record_multiplicity"], victims, keys, faces, short, records=(2, 5))
    assert [row.records for row in rows] == [2, 5]
    assert rows[0].prar_other < rows[1].prar_other


def test_linkers_report_their_curve(faces, victims, keys):
    (row,) = run(["keyed_linker"], victims, keys, faces)
    assert row.linking_auc > 0.95
    assert row.linking_eer < 0.1
    assert row.prar is None


def test_what_does_not_apply_says_why(faces, victims, keys):
    rows = run(["closed_form", "one_guess"], victims, keys, faces, system("urp"))
    assert rows[0].obstacle
    assert rows[0].prar is None
    assert not rows[1].obstacle
    table = attack_table(rows).markdown()
    assert "does not apply: templates are not an argmax" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_rows_go_into_json_without_a_key(faces, victims, keys):
    rows = run(["closed_form", "keyed_linker"], victims, keys, faces)
    text = json.dumps([row.model_dump() for row in rows], allow_nan=False)
    assert keys.old[0].secret.hex() not in text
    assert "secret" not in repr(keys)


def test_the_threshold_keeps_to_the_fmr(faces):
    attacked, (rows, labels) = system(), faces
    (key,) = measuring_keys(1, "old", 1)
    threshold = decision_threshold(attacked, rows, labels, fmr=0.01, keys=[key])
    codes = attacked.hash(rows, key)
    falsely = [
        (codes[a] != codes[b]).sum() <= threshold for a in range(len(codes)) for b in range(a) if labels[a] != labels[b]
    ]
    assert np.mean(falsely) <= 0.01
    with pytest.raises(DataError, match="cannot be seen"):
        decision_threshold(attacked, rows[:9], labels[:9], fmr=1e-3, keys=[key])


def test_the_threshold_of_real_templates_is_a_mean_over_keys(faces):
    attacked, keys = system("polyprotect"), measuring_keys(1, "old", 2)
    both = decision_threshold(attacked, *faces, fmr=0.01, keys=keys)
    assert both == pytest.approx(np.mean([decision_threshold(attacked, *faces, fmr=0.01, keys=[key]) for key in keys]))


def test_bad_input(faces, victims, keys):
    with pytest.raises(ConfigError, match="unknown attack 'closed_from' - did you mean"):
        run(["closed_from"], victims, keys, faces)
    with pytest.raises(DataError, match="40 fresh keys"):
        run(["one_guess"], victims, dataclasses.replace(keys, fresh=keys.fresh[:39]), faces)
    with pytest.raises(DataError, match="10 records"):
        run(["record_multiplicity"], victims, keys, faces)
    with pytest.raises(DataError, match="two subjects"):
        Victims(victims.samples[:, :1], victims.population, victims.population_labels)
    with pytest.raises(DataError, match="have 9 samples"):
        draw_victims(*faces, population=faces[0], population_labels=faces[1], subjects=3, samples=9, seed=1)


@pytest.mark.parametrize("name", sorted(set(BASELINES) - ALIKE))
def test_every_baseline_is_attacked(faces, victims, keys, name, monkeypatch):
    for constant in ("GENERATIONS", "QUERY_GENERATIONS"):
        monkeypatch.setattr(f"iom.attacks.reconstruction.{constant}", 2)
    few = dataclasses.replace(victims, samples=victims.samples[:4])
    one = dataclasses.replace(keys, old=keys.old[:1])
    rows = run(sorted(ATTACKS), few, one, faces, system(name), records=(2,), replicates=0)
    assert {row.attack for row in rows} == set(ATTACKS)
    for row in rows:
        assert row.obstacle or row.prar is not None or row.linking_auc is not None
