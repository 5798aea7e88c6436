"""Intervals of 1:N figures against loops, which repeat each drawn probe."""

import numpy as np
import pytest

from iom.errors import DataError
from iom.metrics.bootstrap import group_draws
from iom.metrics.identification import RANKS, Searches, identification_rates, search_gallery

FPIRS = (0.0, 0.01, 0.1, 0.5)
POINTS = [(fpir, rank) for rank in (1, 3) for fpir in FPIRS]
PROBES = np.repeat(np.arange(30), 4)


def _searches(seed: int) -> Searches:
    """Subjects 0 to 14 are in the gallery; distances 0 to 19 tie often."""
    table = np.random.default_rng(seed).integers(5, 20, (len(PROBES), 15))
    table[np.arange(60), PROBES[:60]] -= 5
    return search_gallery(table, PROBES, np.arange(15))


def _repeated(searches: Searches, weights: np.ndarray) -> Searches:
    rows = np.repeat(np.arange(len(weights)), weights.astype(int))
    return Searches(searches.own[rows], searches.rank[rows], searches.best[rows])


def test_weighted_figures_are_those_of_repeated_probes() -> None:
    searches = _searches(1)
    for counts in group_draws(30, replicates=25, seed=3):
        weights = counts[PROBES]
        oracle = _repeated(searches, weights)
        np.testing.assert_allclose(searches.cmc(weights=weights), oracle.cmc(), atol=1e-12)
        for rank in (1, 3):
            rates = searches.identification_rates_at_fpirs(FPIRS, rank, weights=weights)
            expected = [oracle.identification_rates_at_fpirs([fpir], rank)[0] for fpir in FPIRS]
            np.testing.assert_allclose(rates, expected, atol=1e-12)


def test_intervals_are_quantiles_of_the_mean_over_drawn_keys_and_galleries() -> None:
    by_key = [_searches(1), _searches(2), _searches(3)]
    galleries = [[one, _searches(number)] for number, one in enumerate(by_key, start=4)]
    values, intervals = identification_rates(galleries, PROBES, points=POINTS, replicates=20, seed=5)
    assert identification_rates(galleries, PROBES, points=POINTS, replicates=0) == (values, [])
    keys = group_draws(3, "keys", replicates=20, seed=5)
    every = [one for each in galleries for one in each]
    assert values[0] == pytest.approx(np.mean([one.cmc()[0] for one in every]))
    assert values[RANKS:] == pytest.approx(
        [np.mean([e.identification_rates_at_fpirs([p[0]], p[1])[0] for e in every]) for p in POINTS]
    )
    loop = []
    for counts, times in zip(group_draws(30, replicates=20, seed=5), keys, strict=True):
        drawn = np.repeat(np.arange(3), times.astype(int))
        each = [_repeated(one, counts[PROBES]) for key in drawn for one in galleries[key]]
        row = [np.mean([one.cmc()[0] for one in each])]
        row += [np.mean([one.identification_rates_at_fpirs([p[0]], p[1])[0] for one in each]) for p in POINTS]
        loop.append(row)
    expected = np.quantile(loop, (0.025, 0.975), axis=0).T
    np.testing.assert_allclose([intervals[0], *intervals[RANKS:]], expected, atol=1e-12)


def test_draws_without_a_probe_of_either_kind_are_drawn_again() -> None:
    table = np.array([[1, 5], [5, 1], [3, 4]])
    searches = search_gallery(table, [0, 1, 2], [0, 1])
    _, intervals = identification_rates([[searches]], [0, 1, 2], points=[(0.0, 1)])
    # Both enrolled subjects are found in every draw: the exact bound for two trials.
    assert intervals[0] == intervals[RANKS] == (pytest.approx(0.025**0.5), 1.0)


def test_refuses_subjects_that_do_not_match() -> None:
    with pytest.raises(DataError, match="119 subjects"):
        identification_rates([[_searches(1)]], PROBES[:-1], points=POINTS)
    with pytest.raises(DataError, match="received 0"):
        identification_rates([], PROBES, points=POINTS)
