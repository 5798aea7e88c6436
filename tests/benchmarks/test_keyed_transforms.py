import json

import numpy as np
import pytest

from benchmarks import keyed_transforms
from benchmarks.keyed_transforms import FAMILIES, draw_transform, salted_cost

SIZE = 32


@pytest.fixture
def rows():
    made = np.random.default_rng(3).normal(size=(200, SIZE))
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def transform(family, strength, seed=1):
    return draw_transform(family, strength, SIZE, np.random.default_rng(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_transform_follows_from_its_key_and_takes_each_row_for_itself(rows, family):
    strength = FAMILIES[family][-1]
    turned = transform(family, strength)(rows)
    assert turned.shape == rows.shape
    np.testing.assert_allclose(transform(family, strength)(rows[7:9]), turned[7:9], atol=1e-12)
    other = transform(family, strength, seed=2)(rows)
    assert abs(np.mean(np.sum(other * turned, axis=1))) < 0.1


@pytest.mark.parametrize("family", ["rotation", "turning", "pieces", "fold"])
def test_lengths_are_kept_where_a_transform_is_made_of_rotations(rows, family):
    offset = 0.1 if family == "fold" else 1e-9  # mirrors beside the origin
    lengths = np.linalg.norm(transform(family, FAMILIES[family][0])(rows), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=3 * offset)


def test_only_a_rotation_is_linear(rows):
    for family, strengths in FAMILIES.items():
        keyed = transform(family, strengths[-1])
        error = np.abs(keyed(rows[:50] + rows[50:100]) - keyed(rows[:50]) - keyed(rows[50:100])).max()
        assert (error < 1e-9) == (family == "rotation")


def test_a_fold_mirrors_what_lies_behind_its_plane(rows):
    """Whatever the key: no two rows come further apart, and the first fold leaves one side as it is."""
    keyed = transform("fold", 8)(rows)
    before, after = (np.linalg.norm(side[:100] - side[100:], axis=1) for side in (rows, keyed))
    assert (after <= before + 1e-9).all()
    assert (after < before - 1e-3).any()


def test_a_salt_makes_a_search_as_long_as_there_are_records(rows):
    cost = salted_cost(rows)
    assert cost["derive"] > cost["common"]
    assert cost["turn_and_compare"] > cost["common"]


def test_a_run_on_random_vectors(capsys):
    arguments = ["--synthetic", "--quick", "--known", "10", "60", "--families", "rotation", "coupling", "pieces"]
    assert keyed_transforms.main(arguments) == 0
    output = capsys.readouterr().out.splitlines()
    figures = json.loads(output[-1])
    assert [row["family"] for row in figures["rows"]] == ["rotation", "coupling", "coupling", "pieces", "pieces"]
    linear = figures["rows"][0]
    assert linear["eer"] == pytest.approx(figures["float"]["eer"], abs=1e-4)
    assert linear["accepted"]["60_exact"]["best"] > 0.9 > 0.5 > linear["accepted"]["10_exact"]["best"]
    assert figures["rows"][-1]["eer"] > linear["eer"]
    assert figures["fmr"] < 0.01
    assert output[-2].startswith("| pieces | ")


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        keyed_transforms.main(["--help"])
    assert stopped.value.code == 0
    assert "python -m benchmarks.keyed_transforms" in capsys.readouterr().out
