import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.errors import DataError
from iom.metrics.identification import GallerySearch, search_gallery


def loop_rank(row, own_column):
    """Pessimistic: everyone at the same distance stands before."""
    return 1 + sum(1 for column, value in enumerate(row) if column != own_column and value <= row[own_column])


def searches_of(table, probes, gallery):
    return search_gallery(table, probes, gallery)


def thresholds_of(found):
    """Minus infinity and every observed distance."""
    return np.unique([-np.inf, *found.best, *found.own[found.enrolled]])


@st.composite
def tables(draw):
    gallery = draw(st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True))
    probes = draw(st.lists(st.integers(0, 30), min_size=1, max_size=12))
    size = len(gallery) * len(probes)
    values = draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))
    return np.reshape(values, (len(probes), len(gallery))), probes, gallery


@given(tables(), st.booleans())
def test_against_a_loop(case, as_float):
    table, probes, gallery = case
    found = searches_of(table / 4 if as_float else table, probes, gallery)
    scale = 4 if as_float else 1
    ranks, own = [], []
    for row, subject in zip(table.tolist(), probes, strict=True):
        column = gallery.index(subject) if subject in gallery else None
        ranks.append(0 if column is None else loop_rank(row, column))
        own.append(np.inf if column is None else row[column] / scale)
    assert found.rank.tolist() == ranks
    assert found.own.tolist() == own
    assert (found.best * scale).tolist() == table.min(axis=1).tolist()
    enrolled = [i for i, rank in enumerate(ranks) if rank]
    if enrolled:
        expected = [sum(ranks[i] <= r for i in enrolled) / len(enrolled) for r in range(1, 11)]
        assert found.cmc().tolist() == expected
    others = [i for i, rank in enumerate(ranks) if not rank]
    if not (enrolled and others):
        with pytest.raises(DataError, match="open set"):
            found.identification_rates_at_fpirs([0.5])[0]
        return
    for rank in (1, 2, 5):
        for threshold in thresholds_of(found):
            hits = sum(ranks[i] <= rank and own[i] <= threshold for i in enrolled)
            alarms = sum(table[i].min() / scale <= threshold for i in others)
            assert found.identification_rate(threshold, rank) == hits / len(enrolled)
            assert found.false_positive_rate(threshold) == alarms / len(others)


@given(tables(), st.floats(0, 1))
def test_the_rate_at_an_fpir_is_that_of_the_largest_threshold_that_keeps_to_it(case, fpir):
    found = searches_of(*case)
    if not 0 < found.enrolled.sum() < len(found.rank):
        return
    threshold = max(t for t in thresholds_of(found) if found.false_positive_rate(t) <= fpir)
    for rank in (1, 2):
        assert found.identification_rates_at_fpirs([fpir], rank)[0] == found.identification_rate(threshold, rank)


@given(tables())
def test_blocks_give_what_the_whole_gives(case):
    table, probes, gallery = case
    search = GallerySearch(gallery)
    for start in range(0, len(probes), 3):
        search.add(table[start : start + 3], probes[start : start + 3])
    whole, parts = searches_of(*case), search.searches()
    for name in ("own", "rank", "best"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


@given(tables())
def test_more_ranks_and_higher_thresholds_never_find_less(case):
    found = searches_of(*case)
    if found.enrolled.any():
        cmc = found.cmc(len(case[2]))
        assert (np.diff(cmc) >= 0).all()
        assert cmc[-1] == 1


def test_ties_count_against():
    """All alike: the probe comes last, as luck must not be counted as recognition."""
    found = search_gallery(np.zeros((4, 4), int), [0, 1, 2, 3], [0, 1, 2, 3])
    assert found.cmc(4).tolist() == [0, 0, 0, 1]


def test_bad_input():
    with pytest.raises(DataError, match="2 of 3 subjects stand in it more than once: 1, 2"):
        GallerySearch([1, 1, 2, 2, 3])
    with pytest.raises(DataError, match="received shape"):
        GallerySearch([])
    with pytest.raises(DataError, match=r"expected distances \(1, 2\)"):
        search_gallery([[1, 2, 3]], [1], [1, 2])
    with pytest.raises(DataError, match="2 of 3 probes are not finite: rows 0, 2"):
        search_gallery([[np.nan, 1], [1, 1], [1, np.inf]], [1, 1, 1], [1, 2])
    with pytest.raises(DataError, match="none"):
        GallerySearch([1]).searches()
    with pytest.raises(DataError, match="enrolled"):
        search_gallery([[1]], [2], [1]).cmc()
    with pytest.raises(DataError, match="0 to 1"):
        search_gallery([[1], [1]], [2, 1], [1]).identification_rates_at_fpirs([2])[0]


def test_subjects_may_be_names():
    found = search_gallery([[0.1, 0.5], [0.3, 0.2]], ["Ada", "Eve"], ["Ada", "Bob"])
    assert found.rank.tolist() == [1, 0]
