import math

import numpy as np
import pytest
import tensorflow as tf

from iom.losses import codes as code_losses
from iom.losses.pairs import collision_distance, expected_collision, mated_mask, non_mated_mask
from iom.losses.triplet import batch_hard_triplet


@pytest.fixture
def soft():
    values = np.exp(np.random.default_rng(0).normal(size=(8, 5, 3)))
    return (values / values.sum(-1, keepdims=True)).astype("float32")


def triplet_by_hand(distances, labels, margin):
    losses = []
    for i in range(len(labels)):
        mated = [distances[i, j] for j in range(len(labels)) if labels[j] == labels[i] and j != i]
        others = [distances[i, j] for j in range(len(labels)) if labels[j] != labels[i]]
        if mated and others:
            losses.append(max(0.0, max(mated) - min(others) + margin))
    return np.mean(losses) if losses else 0.0


@pytest.mark.parametrize(
    "labels",
    [
        [0, 0, 1, 1, 2, 2, 3, 3],
        [0, 0, 0, 1, 1, 1, 2, 5],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 2, 3, 4, 5, 6, 7],
    ],
)
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_batch_hard_triplet_matches_a_loop(soft, labels, margin):
    distances = np.asarray(collision_distance(soft, soft))
    value = float(batch_hard_triplet(tf.constant(distances), np.array(labels), margin=margin))
    assert abs(value - triplet_by_hand(distances, labels, margin)) < 1e-6


@pytest.mark.parametrize("labels", [[0] * 6, [0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2]])
def test_degenerate_batches_stay_finite(labels):
    """No mated pair, no non-mated pair, and rows that are all the same."""
    responses = tf.Variable(np.ones((6, 5, 3), "float32"))
    with tf.GradientTape() as tape:
        relaxed = tf.nn.softmax(responses)
        value = batch_hard_triplet(
            collision_distance(relaxed, relaxed), np.array(labels), margin=0.2
        )
    assert np.isfinite(value)
    assert np.isfinite(tape.gradient(value, responses)).all()


def test_quantization_by_hand(soft):
    one_max = np.mean([1 - soft[b, m].max() for b in range(8) for m in range(5)])
    entropy = np.mean(
        [-(soft[b, m] * np.log(soft[b, m])).sum() for b in range(8) for m in range(5)]
    )
    assert abs(float(code_losses.one_max_quantization(soft)) - one_max) < 1e-6
    assert abs(float(code_losses.entropy_quantization(soft)) - entropy / math.log(3)) < 1e-5


def test_a_decided_code_has_no_quantization_loss():
    hot = np.eye(3, dtype="float32")[np.random.default_rng(0).integers(0, 3, (4, 5))]
    assert float(code_losses.one_max_quantization(hot)) == 0
    assert abs(float(code_losses.entropy_quantization(hot))) < 1e-5


def test_imbalance_is_taken_at_each_position():
    """Two constant positions with different symbols look balanced only when they are pooled."""
    constant = np.eye(2, dtype="float32")[np.tile([0, 1], (6, 1))]
    assert abs(float(code_losses.symbol_imbalance(constant)) - 1.0) < 1e-5
    even = np.eye(2, dtype="float32")[np.array([[0, 1], [1, 0]] * 3)]
    assert abs(float(code_losses.symbol_imbalance(even))) < 1e-5


def test_similarity_distillation_by_hand(soft):
    rng = np.random.default_rng(1)
    collisions = np.asarray(expected_collision(soft, soft))
    targets, weights = rng.random((2, 8, 8)).astype("float32")
    total = norm = 0.0
    for i in range(8):
        for j in range(8):
            if i != j:
                total += weights[i, j] * (collisions[i, j] - targets[i, j]) ** 2
                norm += weights[i, j]
    value = code_losses.similarity_distillation(tf.constant(collisions), targets, weights)
    assert abs(float(value) - total / norm) < 1e-6


def test_similarity_distillation_without_any_weight(soft):
    collisions = expected_collision(soft, soft)
    zeros = np.zeros((8, 8), "float32")
    assert float(code_losses.similarity_distillation(collisions, zeros, zeros)) == 0


def test_logistic_by_hand(soft):
    labels = np.array([0, 0, 1, 1, 2, 2, 2, 3])
    collisions = np.asarray(expected_collision(soft, soft))
    mated = [i != j and labels[i] == labels[j] for i in range(8) for j in range(8)]
    other = [labels[i] != labels[j] for i in range(8) for j in range(8)]
    x = 9.0 * (collisions.reshape(-1) - 0.4)
    accept = np.log1p(np.exp(-x))[mated].mean()
    reject = np.log1p(np.exp(x))[other].mean()
    value = code_losses.collision_logistic(
        collisions, mated_mask(labels), non_mated_mask(labels), threshold=0.4, slope=9.0
    )
    assert abs(float(value) - (accept + reject) / 2) < 1e-5
