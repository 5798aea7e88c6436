import keras
import numpy as np
import pytest

from iom.config import CODE_LOSSES, HasherConfig
from iom.data.batches import CodeBatches, SubjectBatches, TrainingKeys
from iom.nn.hash_network import LEARNED_LAYER, PROJECTION, head_program
from iom.nn.hash_numpy import Head
from iom.nn.losses.code.objectives import build_objectives
from iom.training.hasher import start_hasher, training_graph

SIZE = 32


def config(**settings):
    shape = {"code_length": 64, "alphabet_size": 4, "key_kind": "permutation"}
    trained = {"train_projection": True, "train_learned_layer": True}
    return HasherConfig(**{**shape, "projection": "orthonormal", "refinement_steps": 0, **trained, **settings})


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
        TrainingKeys(SIZE, seed, kind="permutation"),
        epoch=0,
        steps=steps,
    )


def test_distillation_lowers_the_scatter_for_new_people_and_new_keys():
    keras.utils.set_random_seed(0)
    settings = config(inverse_temperature=20.0)
    hasher = start_hasher(SIZE, settings, seed=1)
    hasher.get_layer(LEARNED_LAYER).trainable = False
    objectives = build_objectives([CODE_LOSSES["distillation"]()], settings)
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


def test_the_second_key_is_another_one():
    """Agreement of hard codes under one key with hard codes under another, by hand."""
    rows, _ = people(3)
    stream = np.random.default_rng(4)
    first, second = (np.tile(stream.permutation(SIZE).astype("int32"), (8, 1)) for _ in range(2))
    hasher = start_hasher(SIZE, config(), seed=1)
    codes = [np.asarray(hasher({"embedding": rows[:8], "order": order})).argmax(-1) for order in (first, second)]
    agree = (codes[0][:, None] == codes[1][None]).mean(-1)
    model = training_graph(hasher, config(), {"linkability": "collisions_across"})
    inputs = {"embedding": rows[:8], "order": first, "second_order": second}
    np.testing.assert_allclose(model(inputs)["linkability"], agree, atol=1e-5)
    several = training_graph(hasher, config(), {"linkability": "collisions_across"}, keys=2)
    inputs["order"] = np.stack([first, second], axis=1)
    found = np.asarray(several(inputs)["linkability"])
    np.testing.assert_allclose(found[:, 0], agree, atol=1e-5)
    np.testing.assert_allclose(found[:, 1], (codes[1][:, None] == codes[1][None]).mean(-1), atol=1e-5)


def test_only_hashed_centres_learn_under_fresh_keys():
    """Subjects have a centre in code space under one key alone; chance is log 60 = 4.1."""
    rows, labels = people(1)
    found = {}
    for head in ("hashed", "weights"):
        keras.utils.set_random_seed(0)
        settings = config(inverse_temperature=20.0)
        classification = CODE_LOSSES["classification"](head=head, margin=0.0, scale=16.0)
        loss = build_objectives([classification], settings)["classification"]
        hasher = start_hasher(SIZE, settings, seed=1)
        model = training_graph(hasher, settings, {"classification": loss.reads}, classes=60)
        model.compile(keras.optimizers.Adam(1e-2), loss={"classification": loss}, jit_compile=False)
        for epoch in range(2):
            keys = TrainingKeys(SIZE, 1, kind="permutation")
            sampler = SubjectBatches(labels, 20, 2, 1)
            data = CodeBatches(sampler, rows, {"classification": labels}, keys, epoch=epoch, steps=50)
            found[head] = model.fit(data, shuffle=False, verbose=0).history["loss"][0]
    assert found["hashed"] < 1
    assert found["weights"] > 3.5


@pytest.mark.parametrize("annealed", [False, True])
def test_hashed_centres_are_codes_under_the_key_of_the_batch(annealed):
    rows, _ = people(3)
    hasher = start_hasher(SIZE, config(), seed=1)
    orders = np.stack([np.random.default_rng(n).permutation(SIZE) for n in (5, 6)])
    orders = orders.astype("int32")
    model = training_graph(
        hasher, config(), {"x": "hashed_class_cosines"}, classes=5, keys=2, temperature_input=annealed
    )
    inputs = {"embedding": rows[:8], "order": np.tile(orders, (8, 1, 1))}
    if annealed:
        inputs["inverse_temperature"] = np.full((8, 1), 7.0, "float32")
    found = np.asarray(model(inputs)["x"])
    centres = np.asarray(model.get_layer("class_centres").centres)
    assert centres.shape == (5, SIZE)
    for number, order in enumerate(orders):
        codes, centre_codes = (
            np.asarray(hasher({"embedding": x, "order": np.tile(order, (len(x), 1))})).argmax(-1)
            for x in (rows[:8], centres)
        )
        agree = (codes[:, None] == centre_codes[None]).mean(-1)
        np.testing.assert_allclose(found[:, number], (agree - 0.25) / 0.75, atol=1e-5)
    assert len(model.trainable_variables) == len(hasher.trainable_variables) + 1


def test_the_classification_head_is_not_part_of_the_hasher():
    rows, _ = people(3)
    hasher = start_hasher(SIZE, config(), seed=1)
    order = np.tile(np.arange(SIZE, dtype="int32"), (8, 1))
    model = training_graph(hasher, config(), {"classification": "class_cosines"}, classes=5)
    inputs = {"embedding": rows[:8], "order": order}
    cosines = np.asarray(model(inputs)["classification"])
    codes = np.asarray(hasher(inputs)).argmax(-1)
    centres = np.asarray(model.get_layer("class_head").centres)
    centres = centres / np.linalg.norm(centres, axis=0)
    hot = np.eye(4)[codes].reshape(8, -1) / np.sqrt(64)
    np.testing.assert_allclose(cosines, hot @ centres, atol=1e-5)
    assert len(model.trainable_variables) == len(hasher.trainable_variables) + 1


def test_reconstruction_finds_a_codebook_for_all_blocks_and_keys():
    """From random vectors, at 0.75 bits a dimension."""
    keras.utils.set_random_seed(0)
    frame = {"projection": "product", "code_length": 8, "alphabet_size": 8, "key_kind": "orthogonal"}
    settings = config(**frame, learned_layer=False, whitening=0.0, train_learned_layer=False)
    hasher = start_hasher(SIZE, settings, seed=1)
    layer = hasher.get_layer(PROJECTION)
    layer.set_weights([np.random.default_rng(0).normal(size=(4, 8)).astype("float32") * 0.2])
    before = held_cosine(hasher)
    loss = build_objectives([CODE_LOSSES["quantization"](form="reconstruction")], settings)["quantization"]
    model = training_graph(hasher, settings, {"quantization": loss.reads})
    model.compile(keras.optimizers.Adam(3e-3), loss={"quantization": loss}, jit_compile=False)
    rows, labels = people(1)
    keys = TrainingKeys(SIZE, 1, kind="orthogonal")
    for seed in range(2):
        data = CodeBatches(
            SubjectBatches(labels, 20, 2, seed), rows, {"quantization": labels}, keys, epoch=seed, steps=150
        )
        model.fit(data, shuffle=False, verbose=0)
    assert before < 0.6
    assert held_cosine(hasher) > 0.7


def held_cosine(hasher):
    """Mean cosine of codes, read back, to their keyed rows, of new people under a new key."""
    rows, _ = people(9)
    head = Head(*head_program(hasher))
    orders = np.tile(TrainingKeys(SIZE, 7, kind="orthogonal").order(0, 0), (len(rows), 1))
    held = head.vectors.read_back(head.hash(rows, orders))
    return ((held * head.keyed_rows(rows, orders)).sum(1) / np.linalg.norm(held, axis=1)).mean()
