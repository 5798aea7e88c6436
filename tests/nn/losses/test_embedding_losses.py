import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from iom.nn.layers import UnitLength
from iom.nn.layers.cosine import CentreDistances
from iom.nn.losses.embedding_losses import CenterLoss, EmbeddingDistance, TripletLoss


def unit(rng, *shape):
    rows = rng.normal(size=shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype("float32")


def test_embedding_distance_is_one_minus_cosine():
    a, b = unit(np.random.default_rng(1), 2, 5, 8)
    expected = [1 - sum(x * y for x, y in zip(u, v, strict=True)) for u, v in zip(a, b, strict=True)]
    value = EmbeddingDistance(reduction=None)(ops.convert_to_tensor(a), ops.convert_to_tensor(b))
    np.testing.assert_allclose(value, expected, atol=1e-6)


def test_center_loss_is_half_the_squared_distance():
    rng = np.random.default_rng(2)
    layer = CentreDistances(3)
    x = rng.normal(size=(5, 4)).astype("float32")
    layer.build((None, 4))
    centres = rng.normal(size=(3, 4)).astype("float32")
    layer.centres.assign(centres)
    labels = np.array([0, 1, 2, 1, 1])
    expected = np.mean([
        0.5 * sum((a - b) ** 2 for a, b in zip(row, centres[label], strict=True))
        for row, label in zip(x, labels, strict=True)
    ])  # fmt: skip
    assert float(CenterLoss()(labels, layer(x))) == pytest.approx(expected, rel=1e-5)


def hardest(embeddings, labels, margin):
    """Batch-hard triplets with cosine distances, in loops."""
    values = []
    for i, own in enumerate(labels):
        near = [1 - embeddings[i] @ embeddings[j] for j, o in enumerate(labels) if o != own]
        far = [1 - embeddings[i] @ embeddings[j] for j, o in enumerate(labels) if o == own and i != j]
        if near and far:
            values.append(max(0.0, max(far) - min(near) + margin))
    return np.mean(values) if values else 0.0


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5]])
def test_triplets_are_those_of_a_loop(labels):
    x = unit(np.random.default_rng(3), 6, 8)
    value = float(TripletLoss(margin=0.3)(np.array(labels), x))
    assert value == pytest.approx(hardest(x, labels, 0.3), abs=1e-5)


@pytest.mark.parametrize("mining", ["batch_hard", "batch_all", "semi_hard"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("rows", ["different", "the same"])
def test_slopes_are_finite_and_reach_every_weight(mining, distance, rows):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(8, 16)).astype("float32")
    if rows == "the same":
        x[:] = x[0]
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(16), UnitLength()])
    loss = TripletLoss(mining=mining, distance=distance)
    with tf.GradientTape() as tape:
        value = loss(np.repeat(np.arange(4), 2), model(x))
    slopes = tape.gradient(value, model.trainable_variables)
    assert np.isfinite(float(value))
    assert all(np.isfinite(slope).all() for slope in slopes)
    if rows == "different":
        assert all(np.abs(slope).max() > 0 for slope in slopes)


def test_centres_and_embeddings_both_move():
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(16), CentreDistances(4)])
    x = np.random.default_rng(5).normal(size=(8, 16)).astype("float32")
    with tf.GradientTape() as tape:
        value = CenterLoss()(np.arange(8) % 4, model(x))
    slopes = tape.gradient(value, model.trainable_variables)
    # Centres start at the origin, so that the embedding's weights are drawn there at once.
    assert all(np.abs(slope).max() > 0 for slope in slopes)


@pytest.mark.parametrize(
    "loss", [CenterLoss(name="a"), TripletLoss(margin=0.1, mining="semi_hard", distance="euclidean", name="b")]
)
def test_round_trip_of_the_configuration(loss):
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
