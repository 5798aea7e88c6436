import dataclasses

import keras
import numpy as np
import pytest

from iom.config.hashing import CodeLossConfig, HasherConfig
from iom.errors import ConfigError
from iom.losses.collision_curve import BINS, collision_curve
from iom.losses.objectives import OBJECTIVES, SimilarityDistillation, build_objectives
from iom.training.stage2_model import start_hasher, training_graph

SIZE = 16
HASHER = HasherConfig(
    code_length=24, alphabet_size=4, train_projection=True, inverse_temperature=8.0
)
OFF = dict.fromkeys(OBJECTIVES, 0.0)
DEGENERATE = {
    "no mated pair": ([0, 1, 2, 3, 4, 5], False),
    "no non-mated pair": ([0] * 6, False),
    "all images the same": ([0, 0, 1, 1, 2, 2], True),
    "usual": ([0, 0, 1, 1, 2, 2], False),
}


def only(name, **settings):
    return CodeLossConfig(**{**OFF, name: 1.0, **settings})


def rows(count=6, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, SIZE)).astype("float32")
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def graph(name, hasher_config=HASHER):
    hasher = start_hasher(SIZE, hasher_config, seed=1)
    objectives = build_objectives(only(name), hasher_config)
    return training_graph(hasher, hasher_config, {name: objectives[name].reads}), objectives[name]


def value_and_gradients(model, loss, name, embeddings, labels):
    import tensorflow as tf

    truth = embeddings if name == "distillation" else np.asarray(labels, "float32")
    order = np.tile(np.random.default_rng(1).permutation(SIZE), (len(embeddings), 1))
    with tf.GradientTape() as tape:
        output = model({"embedding": embeddings, "order": order.astype("int32")}, training=True)
        value = loss(truth, output[name])
    variables = [variable.value for variable in model.trainable_variables]
    return float(value), tape.gradient(value, variables)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("straight_through", [True, False])
def test_every_weight_is_taught_by_every_loss(name, straight_through):
    model, loss = graph(name, dataclasses.replace(HASHER, straight_through=straight_through))
    embeddings = rows(12)
    _, gradients = value_and_gradients(model, loss, name, embeddings, np.repeat(np.arange(4), 3))
    assert len(gradients) == 2  # the learned layer and the projection
    for gradient in gradients:
        assert gradient is not None
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_batches_stay_finite(name, case):
    labels, same = DEGENERATE[case]
    embeddings = np.repeat(rows(1), 6, axis=0) if same else rows()
    value, gradients = value_and_gradients(*graph(name), name, embeddings, labels)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_distillation_by_hand():
    embeddings = rows(7)
    hard = np.eye(4, dtype="float32")[np.random.default_rng(2).integers(0, 4, (7, 24))]
    collisions = np.einsum("amq,bmq->ab", hard, hard) / 24
    loss = SimilarityDistillation(24, 4, centre=0.2, width=0.1, floor=0.05)
    curve = collision_curve(4)
    total = weight = 0.0
    for i in range(7):
        for j in range(7):
            if i == j:
                continue
            cosine = float(embeddings[i] @ embeddings[j])
            target = curve[round((cosine + 1) * BINS / 2)]
            factor = 0.05 + np.exp(-((cosine - 0.2) ** 2) / (2 * 0.1**2))
            total += factor * (collisions[i, j] - target) ** 2
            weight += factor
    chance = curve[round(1.2 * BINS / 2)]
    expected = total / weight / (chance * (1 - chance) / 24)
    assert abs(float(loss(embeddings, collisions.astype("float32"))) - expected) < 2e-3 * expected


def test_distillation_is_about_one_for_a_random_projection():
    """Its unit is the scatter of independent positions, so the number says what is gained."""
    config = HasherConfig(code_length=256, alphabet_size=4, projection="gaussian")
    stream = np.random.default_rng(3)
    values = stream.normal(size=(60, 64)) + 1.2 * stream.normal(size=(1, 64))
    values = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype("float32")
    hasher = start_hasher(64, config, seed=2)
    order = np.tile(np.arange(64, dtype="int32"), (60, 1))
    responses = np.asarray(hasher({"embedding": values, "order": order}))
    hard = np.eye(4, dtype="float32")[responses.argmax(-1)]
    collisions = np.einsum("amq,bmq->ab", hard, hard).astype("float32") / 256
    centre = float(np.median(values @ values.T))
    loss = SimilarityDistillation(256, 4, centre=centre, width=0.1, floor=0.05)
    assert 0.6 < float(loss(values, collisions)) < 1.7


def test_labels_survive_the_cast_of_keras():
    """Keras hands labels over as float32: neighbouring indices must stay apart."""
    loss = build_objectives(only("triplet"), HASHER)["triplet"]
    labels = np.array([2**24 - 2, 2**24 - 2, 2**24 - 1, 2**24 - 1])
    near, far = 0.9, 0.1
    collisions = np.full((4, 4), far, "float32")
    collisions[:2, :2] = collisions[2:, 2:] = near
    assert float(loss(labels, keras.ops.convert_to_tensor(collisions))) == 0


def test_only_losses_with_a_weight_are_built():
    assert set(build_objectives(CodeLossConfig(**{**OFF, "balance": 0.1}), HASHER)) == {"balance"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (OFF, "at least one weight"),
        ({"triplet": -1.0}, "losses.triplet: expected at least 0"),
        ({"distillation_width": 0.0}, "distillation_width"),
        ({"distillation_centre": 1.0}, "distillation_centre"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        CodeLossConfig(**settings)


def test_a_graph_with_nothing_to_train_is_refused():
    config = dataclasses.replace(HASHER, train_projection=False, train_learned_layer=False)
    with pytest.raises(ConfigError, match="nothing to train"):
        training_graph(start_hasher(SIZE, config, seed=1), config, {"triplet": "collisions"})
