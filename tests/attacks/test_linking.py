import numpy as np
import pytest

from iom.attacks.base import unit
from iom.attacks.linkage import keyed_linker, keyless_linker, training_pairs
from iom.errors import DataError
from iom.metrics.verification import error_curve


def linked(linker, system, make_leak, truth, others, population):
    first = make_leak(system, truth, (1,), population=population)
    second = make_leak(system, others, (2,), population=population)
    left, right = (side.ravel() for side in np.indices((len(truth), len(truth))))
    scores = linker(first, second, left, right)
    return error_curve(-scores[left == right], -scores[left != right]).area_under_curve()


def people(count, seed, tail=0.0):
    """Two samples a subject; `tail` adds to all coordinates of a subject alike."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(count, 32))
    centres += tail * generator.normal(size=(count, 1)) * np.ones(32)
    noise = 0.3 * generator.normal(size=(2, count, 32))
    return unit(centres + noise[0]), unit(centres + noise[1])


def both(pair):
    return np.stack(pair, axis=1).reshape(-1, 32)


def test_with_both_keys_templates_are_linked(make_system, make_leak):
    truth, others = people(40, 1)
    system = make_system(code_length=128)
    auc = linked(keyed_linker, system, make_leak, truth, others, both(people(500, 2)))
    assert auc > 0.97


def test_without_keys_a_secret_projection_says_nothing(make_system, make_leak):
    truth, others = people(60, 1)
    system = make_system("biohash", code_length=128)
    auc = linked(keyless_linker, system, make_leak, truth, others, both(people(400, 2)))
    assert 0.4 < auc < 0.6


@pytest.mark.parametrize(("tail", "least"), [(0.0, 0.62), (1.0, 0.75)])
def test_what_no_permutation_changes_links(make_system, make_leak, tail, least):
    """A subject's mean coordinate passes every permutation, and a public projection tells it."""
    truth, others = people(60, 1, tail=tail)
    background = both(people(400, 2, tail=tail))
    system = make_system(code_length=128)
    assert linked(keyless_linker, system, make_leak, truth, others, background) > least


def test_training_pairs_are_of_different_images():
    labels = np.array([0, 0, 1, 1, 1, 2])
    left, right, same = training_pairs(labels, np.random.default_rng(0))
    np.testing.assert_array_equal(labels[left] == labels[right], same)
    assert np.all(left != right)
    assert same.any()
    assert not same.all()
    with pytest.raises(DataError, match="two images"):
        training_pairs(np.arange(5), np.random.default_rng(0))
