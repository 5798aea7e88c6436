import keras
import numpy as np
import pytest

from iom.nn.losses.code import pairs


def soft(rows, rng):
    values = np.exp(rng.normal(size=(rows, 5, 3)))
    return (values / values.sum(-1, keepdims=True)).astype("float32")


def test_expected_collision_matches_a_double_loop():
    rng = np.random.default_rng(0)
    a, b = soft(4, rng), soft(6, rng)
    result = np.asarray(pairs.expected_collision(a, b))
    for i in range(4):
        for j in range(6):
            expected = np.mean([a[i, m] @ b[j, m] for m in range(5)])
            assert abs(result[i, j] - expected) < 1e-6


def test_hard_codes_collide_where_they_agree():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (6, 5))
    hot = np.eye(3, dtype="float32")[codes]
    agree = (codes[:, None] == codes[None]).mean(-1)
    np.testing.assert_allclose(pairs.expected_collision(hot, hot), agree, atol=1e-6)


def test_cosine_and_euclidean_match_scipy():
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 8)).astype("float32"), rng.normal(size=(6, 8)).astype("float32")
    np.testing.assert_allclose(pairs.cosine_distance(a, b), cdist(a, b, "cosine"), atol=1e-5)
    np.testing.assert_allclose(pairs.euclidean_distance(a, b), cdist(a, b), rtol=1e-4)


@pytest.mark.parametrize("distance", [pairs.cosine_distance, pairs.euclidean_distance])
def test_duplicates_and_zero_rows_have_finite_gradients(distance):
    import tensorflow as tf

    rows = tf.Variable(np.array([[1, 2], [1, 2], [0, 0]], "float32"))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(distance(rows, rows))
    assert np.isfinite(tape.gradient(value, rows)).all()


def test_masks_match_a_double_loop():
    labels = np.array([3, 1, 3, 2, 1])
    mated, non_mated = map(np.asarray, pairs.pair_masks(labels))
    for i in range(5):
        for j in range(5):
            assert mated[i, j] == (labels[i] == labels[j] and i != j)
            assert non_mated[i, j] == (labels[i] != labels[j])


def test_masked_mean():
    values = keras.ops.convert_to_tensor(np.array([1.0, 5.0, 9.0], "float32"))
    assert float(pairs.masked_mean(values, np.array([True, False, True]))) == 5.0
    assert float(pairs.masked_mean(values, np.array([False] * 3))) == 0.0
