import math

import keras
import numpy as np
import pytest
from keras import ops

from iom.losses.distillation import EmbeddingDistance
from iom.losses.margin import MARGIN_LOSSES, ArcFaceLoss


def arcface_by_hand(cosines, labels, margin, scale):
    """Deng et al., eq. 3, one row at a time."""
    rows = []
    for row, label in zip(cosines, labels, strict=True):
        theta = math.acos(row[label])
        logits = scale * row
        if theta + margin <= math.pi:
            logits[label] = scale * math.cos(theta + margin)
        else:
            logits[label] = scale * (row[label] - margin * math.sin(margin))
        top = logits.max()
        rows.append(math.log(np.exp(logits - top).sum()) + top - logits[label])
    return np.array(rows)


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5])
def test_arcface_follows_the_paper(margin):
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-0.999, 0.999, (40, 7))
    labels = rng.integers(0, 7, 40)
    loss = ArcFaceLoss(margin=margin, scale=16.0, reduction=None)
    expected = arcface_by_hand(cosines, labels, margin, 16.0)
    np.testing.assert_allclose(
        loss(labels, cosines.astype("float32")), expected, rtol=2e-4, atol=2e-5
    )


def test_the_target_logit_falls_with_the_angle_everywhere():
    theta = np.linspace(0.0, math.pi, 400)
    cosines = np.stack([np.cos(theta), np.zeros_like(theta)], axis=1).astype("float32")
    values = np.asarray(ArcFaceLoss(scale=8.0, reduction=None)(np.zeros(400), cosines))
    assert (np.diff(values) >= -1e-5).all()


@pytest.mark.parametrize("name", sorted(MARGIN_LOSSES))
@pytest.mark.parametrize("extreme", [-1.0, 1.0, 0.0])
def test_finite_at_the_ends(name, extreme):
    import tensorflow as tf

    cosines = tf.constant(np.full((4, 3), extreme, "float32"))
    with tf.GradientTape() as tape:
        tape.watch(cosines)
        value = MARGIN_LOSSES[name]()(np.array([0, 1, 2, 0]), cosines)
    assert np.isfinite(value)
    assert np.isfinite(tape.gradient(value, cosines)).all()


@pytest.mark.parametrize("name", sorted(MARGIN_LOSSES))
def test_round_trip_of_the_configuration(name):
    loss = MARGIN_LOSSES[name](margin=0.25, scale=7.0)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()


def test_embedding_distance_is_one_minus_cosine():
    rng = np.random.default_rng(1)
    a, b = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(2, 5, 8))
    )
    expected = [
        1 - sum(x * y for x, y in zip(u, v, strict=True)) for u, v in zip(a, b, strict=True)
    ]
    value = EmbeddingDistance(reduction=None)(ops.convert_to_tensor(a), ops.convert_to_tensor(b))
    np.testing.assert_allclose(value, expected, atol=1e-6)
