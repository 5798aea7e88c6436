import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.data.batches import SubjectBatches
from iom.errors import DataError


@given(
    counts=st.lists(st.integers(1, 6), min_size=4, max_size=12),
    subjects=st.integers(2, 4),
    images=st.integers(2, 4),
    seed=st.integers(0, 99),
)
def test_p_distinct_subjects_with_k_distinct_images_each(counts, subjects, images, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    rich = {i for i, count in enumerate(counts) if count >= images}
    if len(rich) < subjects:
        with pytest.raises(DataError):
            SubjectBatches(labels, subjects, images, seed)
        return
    batches = SubjectBatches(labels, subjects, images, seed)
    assert batches.usable_subjects == len(rich)
    for step in range(3):
        rows = batches.rows(0, step).reshape(subjects, images)
        assert len(np.unique(rows)) == rows.size
        assert all(len(set(labels[row])) == 1 for row in rows)
        chosen = labels[rows[:, 0]].tolist()
        assert len(set(chosen)) == subjects
        assert set(chosen) <= rich


def test_a_batch_is_a_function_of_seed_epoch_and_step():
    labels = np.repeat(np.arange(30), 5)
    one, same = (SubjectBatches(labels, 4, 3, 7) for _ in range(2))
    other = SubjectBatches(labels, 4, 3, 8)
    same.rows(0, 0)  # what was drawn before does not matter
    np.testing.assert_array_equal(one.rows(2, 5), same.rows(2, 5))
    drawn = [one.rows(2, 5), one.rows(2, 6), one.rows(3, 5), other.rows(2, 5)]
    assert len({tuple(rows) for rows in drawn}) == 4


def test_every_usable_image_appears():
    labels = np.repeat(np.arange(6), 4)
    batches = SubjectBatches(labels, 3, 2, 0)
    seen = np.concatenate([batches.rows(0, step) for step in range(80)])
    assert set(seen) == set(range(24))


def test_too_few_subjects_says_what_there_is():
    labels = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3])
    with pytest.raises(DataError, match=r"3 subjects x 3 images: only 2 of 4 .* have 3 images \(1 have one\)"):
        SubjectBatches(labels, 3, 3, 0)
    with pytest.raises(DataError, match="only 0 of 0"):
        SubjectBatches(np.zeros(0, np.int64), 2, 2, 0)
