import keras
import numpy as np
import pytest

from iom.config.hashing import CodeLossConfig, HasherConfig
from iom.data.batches import SubjectBatches
from iom.data.code_batches import CodeBatches
from iom.losses.objectives import build_objectives
from iom.models.hashing import LEARNED_LAYER, PROJECTION
from iom.training.stage2_model import start_hasher, training_graph

SIZE = 32


def config(**settings):
    return HasherConfig(
        **{"code_length": 64, "alphabet_size": 4, "train_projection": True, **settings}
    )


def people(seed, subjects=60):
    """Embeddings of mated cosine about 0.5."""
    stream = np.random.default_rng(seed)
    labels = np.repeat(np.arange(subjects), 4)
    rows = stream.normal(size=(subjects, SIZE))[labels] + stream.normal(size=(len(labels), SIZE))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("float32"), labels


def batches(seed, steps):
    rows, labels = people(seed)
    return CodeBatches(
        SubjectBatches(labels, 20, 2, seed),
        rows,
        {"distillation": rows},
        embedding_size=SIZE,
        key="random",
        epoch=0,
        first_step=0,
        steps=steps,
    )


def test_distillation_lowers_the_scatter_for_new_people_and_new_keys():
    keras.utils.set_random_seed(0)
    settings = config(inverse_temperature=20.0)
    hasher = start_hasher(SIZE, settings, seed=1)
    hasher.get_layer(LEARNED_LAYER).trainable = False
    losses = CodeLossConfig(triplet=0, quantization=0, balance=0, distillation=1)
    objectives = build_objectives(losses, settings)
    model = training_graph(hasher, settings, {"distillation": "collisions"})
    model.compile(keras.optimizers.Adam(3e-3), loss=objectives, jit_compile=False)
    before = model.evaluate(batches(2, 20), verbose=0)
    model.fit(batches(1, 150), shuffle=False, verbose=0)
    assert model.evaluate(batches(2, 20), verbose=0) < 0.97 * before
    kernel = np.asarray(hasher.get_layer(PROJECTION).kernel)
    positions = kernel.reshape(SIZE, 64, 4)
    np.testing.assert_allclose(positions.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(np.square(positions).sum(0).mean(-1), 1, atol=1e-4)


@pytest.mark.parametrize("trained", [True, False])
def test_the_learned_layer_starts_where_it_is_told(trained):
    start = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype("float32")
    hasher = start_hasher(SIZE, config(train_learned_layer=trained), seed=1, learned_start=start)
    layer = hasher.get_layer(LEARNED_LAYER)
    np.testing.assert_array_equal(layer.get_weights()[0], start)
    assert layer.trainable == trained
    plain = start_hasher(SIZE, config(), seed=1).get_layer(LEARNED_LAYER)
    np.testing.assert_array_equal(plain.get_weights()[0], np.eye(SIZE))


def test_hard_codes_collide_in_the_forward_pass():
    rows, _ = people(3)
    order = np.tile(np.arange(SIZE, dtype="int32"), (8, 1))
    inputs = {"embedding": rows[:8], "order": order}
    hasher = start_hasher(SIZE, config(), seed=1)
    codes = np.asarray(hasher(inputs)).argmax(-1)
    agree = (codes[:, None] == codes[None]).mean(-1)
    hard = training_graph(hasher, config(), {"x": "collisions"})(inputs)["x"]
    np.testing.assert_allclose(hard, agree, atol=1e-5)
    soft_config = config(straight_through=False)
    soft = training_graph(hasher, soft_config, {"x": "collisions"})(inputs)["x"]
    assert np.abs(np.asarray(soft) - agree).max() > 0.05


def test_one_tensor_feeds_several_losses():
    hasher = start_hasher(SIZE, config(), seed=1)
    reads = {"triplet": "collisions", "logistic": "collisions", "balance": "relaxed"}
    model = training_graph(hasher, config(), reads)
    assert set(model.output) == set(reads)
    assert model.output["triplet"] is model.output["logistic"]
