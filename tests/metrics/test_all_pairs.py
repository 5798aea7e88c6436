import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.codes.asymmetric import CodeVectors, keyed_rows
from iom.codes.comparators import AsymmetricComparator, AsymmetricTemplates, CosineComparator, SymbolComparator
from iom.codes.packing import pack
from iom.errors import DataError
from iom.metrics import all_pairs
from iom.metrics.all_pairs import AllPairs
from iom.metrics.bootstrap import PairSubjects, group_draws
from iom.metrics.verification import RankedScores, error_curve

IMAGES = np.array([3, 1, 5, 2, 4, 1, 6, 3, 3, 2])
SUBJECTS = np.repeat(np.arange(10), IMAGES)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks that end within subjects, and at none of them."""
    monkeypatch.setattr(all_pairs, "ROWS", 7)


def codes_of(seed, length=20, alphabet=3):
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, alphabet, size=(10, length))[SUBJECTS]
    changed = generator.random(codes.shape) < 0.5
    return np.where(changed, generator.integers(0, alphabet, size=codes.shape), codes)


def looped(codes):
    """Distance, subjects of every pair, by a plain loop."""
    for i, j in itertools.combinations(range(len(codes)), 2):
        yield int((codes[i] != codes[j]).sum()), SUBJECTS[i], SUBJECTS[j]


def test_codes_are_counted_as_a_loop_counts_them():
    codes = codes_of(1)
    pairs = AllPairs(SUBJECTS)
    counted = pairs.count(SymbolComparator(3), pack(codes, 3))
    mated, non_mated = np.zeros(21, int), np.zeros(21, int)
    for distance, left, right in looped(codes):
        (mated if left == right else non_mated)[distance] += 1
    np.testing.assert_array_equal(counted.mated, mated)
    np.testing.assert_array_equal(counted.non_mated, non_mated)
    assert (pairs.mated_count, pairs.non_mated_count) == (mated.sum(), non_mated.sum())


def test_the_order_of_the_images_does_not_matter():
    codes = codes_of(1)
    order = np.random.default_rng(0).permutation(len(codes))
    names = np.array([f"subject {subject}" for subject in SUBJECTS])
    shuffled = AllPairs(names[order]).count(SymbolComparator(3), pack(codes[order], 3))
    counted = AllPairs(SUBJECTS).count(SymbolComparator(3), pack(codes, 3))
    np.testing.assert_array_equal(shuffled.mated, counted.mated)
    np.testing.assert_array_equal(shuffled.non_mated, counted.non_mated)


def test_pairs_of_two_subjects_of_one_group_are_left_out():
    codes, groups = codes_of(1), SUBJECTS % 4
    pairs = AllPairs(SUBJECTS, groups)
    counted = pairs.count(SymbolComparator(3), pack(codes, 3))
    mated, non_mated = np.zeros(21, int), np.zeros(21, int)
    for distance, left, right in looped(codes):
        if left == right:
            mated[distance] += 1
        elif left % 4 != right % 4:
            non_mated[distance] += 1
    np.testing.assert_array_equal(counted.mated, mated)
    np.testing.assert_array_equal(counted.non_mated, non_mated)
    assert pairs.non_mated_count == non_mated.sum()


def test_across_keys_is_counted_as_a_loop_counts_it():
    first, second = codes_of(1), codes_of(2)
    counted = AllPairs(SUBJECTS).count_across_keys(SymbolComparator(3), pack(first, 3), pack(second, 3))
    mated, non_mated = np.zeros(21, int), np.zeros(21, int)
    for i, j in itertools.permutations(range(len(SUBJECTS)), 2):
        distance = int((first[i] != second[j]).sum())
        (mated if SUBJECTS[i] == SUBJECTS[j] else non_mated)[distance] += 1
    np.testing.assert_array_equal(counted.mated, mated)
    np.testing.assert_array_equal(counted.non_mated, non_mated)


@pytest.fixture
def asymmetric():
    """A comparator, and templates of the images under each of two keys, which are orders of the dimensions."""
    generator = np.random.default_rng(4)
    rows = generator.normal(size=(10, 8))[SUBJECTS] + 0.7 * generator.normal(size=(30, 8))
    kernel = generator.normal(size=(8, 12 * 3))
    comparator = AsymmetricComparator(CodeVectors.of_kernel(kernel, 3))
    keyed = [rows, rows[:, ::-1]]
    codes = [(each @ kernel).reshape(30, 12, 3).argmax(axis=2) for each in keyed]
    return comparator, [AsymmetricTemplates(*both) for both in zip(codes, map(keyed_rows, keyed), strict=True)]


def asymmetric_loop(comparator, stored, probes, pairs):
    """Counts by a loop over pairs of rows, the first of which is stored."""
    counts = np.zeros((2, 20_001), int)
    for i, j in pairs:
        sides = AsymmetricTemplates(stored.codes[i][None], None), AsymmetricTemplates(None, probes.rows[j][None])
        distance = comparator.paired(*map(comparator.prepare, sides))[0]
        counts[int(SUBJECTS[i] != SUBJECTS[j]), distance] += 1
    return counts


def test_asymmetric_distances_count_each_pair_once_the_earlier_image_stored(asymmetric):
    comparator, (templates, others) = asymmetric
    pairs, ready = AllPairs(SUBJECTS), [comparator.prepare(each) for each in (templates, others)]
    earlier = list(itertools.combinations(range(30), 2))
    counted = pairs.count(comparator, ready[0])
    np.testing.assert_array_equal(counted, asymmetric_loop(comparator, templates, templates, earlier))
    later = asymmetric_loop(comparator, templates, templates, [(j, i) for i, j in earlier])
    assert (np.array(counted) != later).any()
    across = asymmetric_loop(comparator, templates, others, earlier)
    across += asymmetric_loop(comparator, others, templates, earlier)
    np.testing.assert_array_equal(pairs.count_across_keys(comparator, *ready), across)


def test_curves_of_asymmetric_distances_are_those_of_all_pairs(asymmetric):
    comparator, keyed = asymmetric
    pairs, ready = AllPairs(SUBJECTS), [comparator.prepare(each) for each in keyed]
    both = [all_distances(comparator, each, SUBJECTS) for each in ready]
    exact = error_curve(*(np.concatenate(kind) for kind in zip(*both, strict=True)))
    curve = pairs.curve(comparator, *ready)
    for found, expected in zip(
        (curve.thresholds, curve.fmr, curve.fnmr), (exact.thresholds, exact.fmr, exact.fnmr), strict=True
    ):
        np.testing.assert_allclose(found, expected)
    (drawn,) = pairs.drawn_figures(lambda it: it.equal_error_rate(), [np.ones(10)], comparator, ready[0], fmr=0.05)
    assert drawn == pytest.approx(error_curve(*both[0]).equal_error_rate())


@given(st.integers(0, 200), st.booleans())
def test_curves_of_draws_equal_those_of_all_weighted_pairs(seed, grouped):
    codes = codes_of(seed)
    groups = SUBJECTS % 5 if grouped else SUBJECTS
    left, right = np.triu_indices(len(codes), k=1)
    same = SUBJECTS[left] == SUBJECTS[right]
    kept = same | (groups[left] != groups[right])
    left, right, same = left[kept], right[kept], same[kept]
    distances = (codes[left] != codes[right]).sum(axis=1)
    ranked = RankedScores(distances[same], distances[~same])
    pairs = AllPairs(SUBJECTS, groups)
    draws = list(group_draws(10, replicates=3, seed=seed, usable=pairs.usable))
    of_pairs = PairSubjects(SUBJECTS[left], SUBJECTS[right], same)

    def figures(curve):
        return [curve.equal_error_rate(), *(curve.fnmr_at_fmr(fmr) for fmr in (0.01, 0.05, 0.1))]

    drawn = pairs.drawn_figures(figures, draws, SymbolComparator(3), pack(codes, 3), fmr=0.1)
    for counts, values in zip(draws, drawn, strict=True):
        weights = of_pairs.weights(counts)
        assert values == pytest.approx(figures(ranked.curve(weights[same], weights[~same])), abs=1e-12)


def test_a_draw_without_mated_pairs_is_refused():
    pairs, codes = AllPairs(SUBJECTS), pack(codes_of(1), 3)
    alone = np.eye(10)[1] * 10
    assert not pairs.usable(alone)
    with pytest.raises(DataError, match="too few subjects"):
        pairs.drawn_figures(lambda curve: [0.0], [alone], SymbolComparator(3), codes, fmr=0.1)


@pytest.fixture
def embeddings():
    generator = np.random.default_rng(5)
    rows = generator.normal(size=(10, 32))[SUBJECTS] + 0.8 * generator.normal(size=(30, 32))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_cosines_give_the_curve_of_all_cosines(embeddings):
    comparator = CosineComparator(precision=np.float64)
    templates = comparator.prepare(embeddings)
    pairs = AllPairs(SUBJECTS)
    curve = pairs.curve(comparator, templates, fmr=0.4)
    left, right = np.triu_indices(30, k=1)
    distances = 1 - np.einsum("pd,pd->p", templates[left], templates[right])
    same = SUBJECTS[left] == SUBJECTS[right]
    exact = error_curve(distances[same], distances[~same])
    assert curve.equal_error_rate() == pytest.approx(exact.equal_error_rate(), abs=1e-12)
    for fmr in (0.0, 0.01, 0.1, 0.3):
        assert curve.fnmr_at_fmr(fmr) == exact.fnmr_at_fmr(fmr)
    low = exact.fmr <= 0.4
    for found, expected in zip(
        (curve.thresholds, curve.fmr, curve.fnmr), (exact.thresholds, exact.fmr, exact.fnmr), strict=True
    ):
        np.testing.assert_allclose(found[: low.sum()], expected[low], rtol=1e-12)
    with pytest.raises(DataError, match="up to an FMR of 1"):
        curve.area_under_curve()
    whole = pairs.curve(comparator, templates, fmr=1)
    assert whole.area_under_curve() == pytest.approx(exact.area_under_curve(), abs=1e-12)
    (drawn,) = pairs.drawn_figures(
        lambda curve: curve.equal_error_rate(), [np.ones(10)], comparator, templates, fmr=0.05
    )
    assert drawn == pytest.approx(exact.equal_error_rate(), abs=1e-12)


def test_the_pairs_under_several_keys_make_one_curve():
    keyed = [codes_of(seed) for seed in (1, 2)]
    mated, non_mated = [], []
    for codes in keyed:
        for distance, left, right in looped(codes):
            (mated if left == right else non_mated).append(distance)
    exact = error_curve(mated, non_mated)
    curve = AllPairs(SUBJECTS).curve(SymbolComparator(3), *(pack(codes, 3) for codes in keyed))
    np.testing.assert_allclose(curve.fmr, exact.fmr)
    np.testing.assert_allclose(curve.fnmr, exact.fnmr)


@pytest.mark.parametrize("subjects", [[0, 1, 2], [0, 0, 0], []])
def test_both_kinds_of_pairs_are_needed(subjects):
    with pytest.raises(DataError, match="two subjects or more, one of them with two images"):
        AllPairs(np.array(subjects, int))


def test_another_number_of_codes_is_refused():
    pairs = AllPairs(SUBJECTS)
    codes = pack(codes_of(1)[:5], 3)
    for call in (
        lambda: pairs.count(SymbolComparator(3), codes),
        lambda: pairs.count_across_keys(SymbolComparator(3), codes, codes),
        lambda: pairs.curve(SymbolComparator(3), codes),
    ):
        with pytest.raises(DataError, match="each of 30 images"):
            call()


def test_distances_that_are_not_finite_are_refused(embeddings):
    comparator = CosineComparator()
    rows = comparator.prepare(embeddings)
    rows[1] = np.nan
    with pytest.raises(DataError, match="finite"):
        AllPairs(SUBJECTS).curve(comparator, rows)


def test_an_fmr_that_cannot_be_seen():
    pairs = AllPairs(SUBJECTS)
    pairs.check_resolution(0.01)
    with pytest.raises(DataError, match="1e-06 cannot be seen in 393 non-mated"):
        pairs.check_resolution(1e-6)


def all_distances(comparator, templates, subjects):
    table = comparator.all_pairs(templates, templates)
    left, right = np.triu_indices(len(subjects), k=1)
    same = subjects[left] == subjects[right]
    return table[left, right][same], table[left, right][~same]


@given(st.integers(0, 50), st.sampled_from([0.0, 0.01, 0.05, 0.3, 1.0]), st.booleans())
def test_a_curve_is_exact_up_to_the_fmr_that_is_asked_for(seed, fmr, tied):
    rng = np.random.default_rng(seed)
    subjects = np.concatenate([[0, 0, 1], rng.integers(0, 8, size=rng.integers(3, 40))])
    if tied:
        comparator = SymbolComparator(3)
        templates = comparator.prepare(rng.integers(3, size=(len(subjects), 6)))
    else:
        comparator = CosineComparator()
        templates = comparator.prepare(rng.normal(size=(len(subjects), 5)))
    mated, non_mated = all_distances(comparator, templates, subjects)
    expected = 1 - error_curve(mated, non_mated).fnmr_at_fmr(fmr)
    curve = AllPairs(subjects).curve(comparator, templates, fmr=fmr)
    assert 1 - curve.fnmr_at_fmr(fmr) == pytest.approx(expected)
