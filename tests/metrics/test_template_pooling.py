import functools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.centroids import majority_of_nearest
from iom.errors import DataError
from iom.metrics.template_pooling import majority_codes, mean_by_media, mean_vectors


@given(st.integers(1, 4), st.integers(1, 20), st.integers(2, 6), st.integers(0, 99))
def test_majority_against_counting(groups, rows, alphabet, seed):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(groups), rng.integers(groups, size=rows)])
    codes = rng.integers(alphabet, size=(len(labels), 5))
    for group, code in enumerate(majority_codes(codes, labels, alphabet)):
        for position, symbol in enumerate(code):
            counts = Counter(codes[labels == group, position].tolist())
            best = max(counts.values())
            assert symbol == min(value for value, count in counts.items() if count == best)


@given(st.integers(1, 4), st.integers(1, 20), st.integers(2, 6), st.integers(0, 99))
def test_ties_to_the_nearest_image_against_a_loop(groups, rows, alphabet, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.concatenate([np.arange(groups), rng.integers(groups, size=rows)]))
    codes = rng.integers(alphabet, size=(len(labels), 5))
    for group, code in enumerate(majority_of_nearest(codes, labels)):
        own = codes[labels == group]
        agreement = [sum(int((row == other).sum()) for other in own) for row in own]
        for position, symbol in enumerate(code):
            counts = Counter(own[:, position].tolist())
            common = {value for value, count in counts.items() if count == max(counts.values())}
            images = [i for i in range(len(own)) if own[i, position] in common]
            best = max(images, key=lambda i: (agreement[i], -i))
            assert symbol == own[best, position]


@pytest.mark.parametrize("majority", [functools.partial(majority_codes, alphabet_size=4), majority_of_nearest])
@given(st.integers(1, 9), st.integers(0, 99))
def test_a_vote_does_not_depend_on_other_groups_or_their_order(majority, images, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(4, size=(2 * images, 7))
    labels = np.arange(2 * images) % 2
    both = majority(codes, labels)
    for group in (0, 1):
        own = codes[labels == group]
        alone = majority(own, np.zeros(images, int))
        np.testing.assert_array_equal(both[group], alone[0])
    same = majority(np.repeat(codes[:1], 3, axis=0), [0, 0, 0])
    np.testing.assert_array_equal(same, codes[:1])


def test_two_images_tie_wherever_they_differ():
    codes = [[3, 0, 2], [1, 0, 5]]
    assert majority_codes(codes, [0, 0], 6).tolist() == [[1, 0, 2]]
    assert majority_of_nearest(codes, [0, 0]).tolist() == [[3, 0, 2]]


def test_means_against_a_loop():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(20, 6))
    labels = np.arange(20) % 4
    media = np.arange(20) // 8
    for group, mean in enumerate(mean_vectors(rows, labels)):
        expected = rows[labels == group].mean(axis=0)
        np.testing.assert_allclose(mean, expected / np.linalg.norm(expected))
    for group, mean in enumerate(mean_by_media(rows, media, labels)):
        own = labels == group
        means = [rows[own & (media == m)].mean(axis=0) for m in np.unique(media[own])]
        expected = np.mean(means, axis=0)
        np.testing.assert_allclose(mean, expected / np.linalg.norm(expected))


def test_a_long_video_counts_once():
    video, photo = [[1.0, 0.0]] * 9, [[0.0, 1.0]]
    pooled = mean_by_media(video + photo, [5] * 9 + [6], [0] * 10)
    np.testing.assert_allclose(pooled, [[0.5**0.5, 0.5**0.5]])


def test_bad_input():
    with pytest.raises(DataError, match="without gaps"):
        mean_vectors([[1.0], [1.0]], [0, 2])
    with pytest.raises(DataError, match="one for each row"):
        mean_vectors([[1.0], [1.0]], [0])
    with pytest.raises(DataError, match="group 0 has no direction"):
        mean_vectors([[1.0], [-1.0]], [0, 0])
    with pytest.raises(DataError, match="0 to 3"):
        majority_codes([[4]], [0], 4)
