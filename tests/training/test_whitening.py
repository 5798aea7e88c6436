import numpy as np
import pytest

from iom.errors import DataError
from iom.nn.adapter import discriminant_whitening, independent_parts, leading_directions, within_class_whitening


@pytest.fixture
def noisy():
    """Subjects that differ within along the first axis above all."""
    stream = np.random.default_rng(0)
    centres = stream.normal(size=(200, 6))
    labels = np.repeat(np.arange(200), 5)
    noise = stream.normal(size=(1000, 6)) * np.array([3.0, 1, 1, 1, 1, 0.5])
    return (centres[labels] + noise).astype("float32"), labels


def within_covariance(rows, labels):
    parts = [rows[labels == i] - rows[labels == i].mean(0) for i in np.unique(labels)]
    rows = np.concatenate(parts)
    return rows.T @ rows / len(rows)


def test_nothing_of_it_is_the_identity(noisy):
    np.testing.assert_allclose(within_class_whitening(*noisy, 0.0), np.eye(6), atol=1e-6)


def test_almost_all_of_it_makes_the_within_class_covariance_round(noisy):
    rows, labels = noisy
    whitened = rows @ within_class_whitening(rows, labels, 1 - 1e-6)
    covariance = within_covariance(whitened, labels)
    np.testing.assert_allclose(covariance / covariance[0, 0], np.eye(6), atol=1e-3)


def test_a_share_shrinks_the_noisiest_direction_less(noisy):
    some, more = (within_class_whitening(*noisy, share) for share in (0.2, 0.8))
    np.testing.assert_allclose(some, some.T, atol=1e-6)
    for matrix in (some, more):
        assert matrix[0, 0] < matrix[1, 1] < matrix[5, 5]
    assert more[0, 0] / more[5, 5] < some[0, 0] / some[5, 5] < 1


def test_without_equalisation_it_is_the_within_class_whitening(noisy):
    np.testing.assert_allclose(discriminant_whitening(*noisy, 0.5, 0.0), within_class_whitening(*noisy, 0.5), atol=1e-5)


def test_equalisation_evens_out_the_directions(noisy):
    """All of it makes the second moment of the rows round along the axes of the discriminant analysis."""
    rows, labels = noisy
    spreads = []
    for share in (0.0, 0.5, 1.0):
        turned = rows @ discriminant_whitening(rows, labels, 0.5, share)
        values = np.linalg.eigvalsh(turned.T @ turned)
        spreads.append(values[-1] / values[0])
    assert spreads[0] > 1.3 * spreads[1] > 1.3 * spreads[2]
    assert spreads[2] < 1.2


def test_subjects_with_one_image_say_nothing(noisy):
    rows, labels = noisy
    lonely = np.concatenate([labels, np.arange(200, 230)])
    far = np.random.default_rng(1).normal(size=(30, 6)).astype("float32") * 100
    np.testing.assert_allclose(
        within_class_whitening(np.concatenate([rows, far]), lonely, 0.3),
        within_class_whitening(rows, labels, 0.3),
        rtol=1e-5,
    )


def test_without_a_second_image_there_is_no_within():
    with pytest.raises(DataError, match="two different images"):
        within_class_whitening(np.eye(4, dtype="float32"), np.arange(4), 0.2)


def test_leading_directions_hold_the_most_and_hold_it_evenly():
    stream = np.random.default_rng(1)
    basis = np.linalg.qr(stream.normal(size=(10, 10)))[0]
    scales = np.array([9, 8, 7, 6, 1, 1, 1, 1, 1, 1.0])
    rows = ((stream.normal(size=(4000, 10)) * scales) @ basis.T).astype("float32")
    found = leading_directions(rows, 4, seed=3)
    assert found.shape == (10, 4)
    np.testing.assert_allclose(found.T @ found, np.eye(4), atol=1e-5)
    # The same subspace as the four widest axes, though no single axis of them.
    np.testing.assert_allclose(found @ found.T, basis[:, :4] @ basis[:, :4].T, atol=0.02)
    spread = np.square(rows @ found).mean(axis=0)
    assert spread.max() / spread.min() < np.square(9 / 6)
    np.testing.assert_array_equal(found, leading_directions(rows, 4, seed=3))


def test_as_many_directions_as_there_are_is_a_rotation():
    rows = np.random.default_rng(2).normal(size=(50, 6)).astype("float32")
    found = rows @ leading_directions(rows, 6, seed=1)
    np.testing.assert_allclose(found @ found.T, rows @ rows.T, atol=1e-4)


@pytest.mark.parametrize("keep", [3, 4, 2])
def test_parts_predict_nothing_of_each_other(noisy, keep):
    """Neither subjects nor images: both covariances are diagonal, and the qualities even."""
    rows, labels = noisy
    stream = np.random.default_rng(3)
    rows = rows @ np.linalg.qr(stream.normal(size=(6, 6)))[0].astype("float32")
    turned = rows @ independent_parts(rows, labels, 1 - 1e-6, keep=keep)
    within = within_covariance(turned, labels)
    means = np.stack([turned[labels == i].mean(0) for i in np.unique(labels)])
    between = np.cov(means, rowvar=False)
    for covariance in (within, between):
        scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
        np.testing.assert_allclose(covariance / scale, np.eye(6), atol=2e-2)
    quality = np.diag(between) / np.diag(within)
    ranks = 5 - np.argsort(np.argsort(quality))
    assert abs(np.sum(ranks[:keep] - ranks[-keep:][::-1])) <= 1  # dealt out in turn
    if keep == 4:  # what both have stands between, of average quality
        assert set(np.argsort(quality)[2:4]) == {2, 3}
    if keep == 2:  # what neither has discriminates least
        assert set(np.argsort(quality)[:2]) == {2, 3}


def test_parts_need_subjects_with_two_images(noisy):
    rows, _ = noisy
    with pytest.raises(DataError, match="two different images"):
        independent_parts(rows, np.arange(len(rows)), 0.3, keep=3)
