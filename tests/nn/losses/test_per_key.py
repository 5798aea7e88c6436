import keras
import numpy as np
import pytest

from iom.config import CODE_LOSSES, HasherConfig
from iom.keys import TransformKey
from iom.nn.losses.code.objectives import COLLISIONS, RELAXED, SOFT, build_objectives, per_key
from iom.training.hasher import start_hasher, training_graph

SIZE, ROWS = 16, 6
LABELS = np.array([0, 0, 1, 1, 2, 2], "float32")
CONFIG = HasherConfig(
    code_length=24,
    alphabet_size=4,
    key_kind="permutation",
    refinement_steps=0,
    train_learned_layer=True,
    train_projection=True,
)
READS = {"c": COLLISIONS, "s": SOFT, "r": RELAXED}


def rows():
    values = np.random.default_rng(0).normal(size=(ROWS, SIZE)).astype("float32")
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def orders(keys):
    made = [TransformKey(bytes([n] * 32)).permutation(SIZE) for n in range(keys)]
    return np.stack(made).astype("int32")


def make(name):
    return build_objectives([CODE_LOSSES[name](**{"margin": 0.5} if name == "triplet" else {})], CONFIG)[name]


@pytest.mark.parametrize("name", ["triplet", "balance"])
def test_the_mean_over_the_keys(name):
    """Outputs and loss of one graph under three keys: those of three runs under one key each."""
    hasher, loss = start_hasher(SIZE, CONFIG, seed=1), make(name)
    one, many = (training_graph(hasher, CONFIG, READS, keys=keys) for keys in (1, 3))
    name = {COLLISIONS: "c", RELAXED: "r"}[loss.reads]
    together = many({"embedding": rows(), "order": np.tile(orders(3), (ROWS, 1, 1))})
    singles = [one({"embedding": rows(), "order": np.tile(o, (ROWS, 1))}) for o in orders(3)]
    for number, single in enumerate(singles):
        for output in READS:
            np.testing.assert_allclose(together[output][:, number], single[output], atol=1e-6)
    expected = np.mean([float(loss(LABELS, single[name])) for single in singles])
    wrapped = per_key(loss, 3)
    assert abs(float(wrapped(LABELS, together[name])) - expected) < 1e-6
    assert (wrapped.reads, wrapped.name) == (loss.reads, loss.name)


def test_collisions_never_cross_keys():
    """Equal rows collide at every position under each key; across keys they would not."""
    hasher = start_hasher(SIZE, CONFIG, seed=1)
    graph = training_graph(hasher, CONFIG, READS, keys=2)
    same = np.repeat(rows()[:1], ROWS, axis=0)
    outputs = graph({"embedding": same, "order": np.tile(orders(2), (ROWS, 1, 1))})
    np.testing.assert_allclose(outputs["c"], np.ones((ROWS, 2, ROWS)), atol=1e-6)
    codes = np.asarray(outputs["r"]).argmax(-1)
    assert (codes[:, 0] == codes[:, 1]).mean() < 0.7


def test_it_trains_under_fit():
    keras.utils.set_random_seed(0)
    hasher = start_hasher(SIZE, CONFIG, seed=1)
    graph = training_graph(hasher, CONFIG, {"triplet": COLLISIONS}, keys=2)
    before = [np.array(weight) for weight in graph.get_weights()]
    loss = {"triplet": per_key(make("triplet"), 2)}
    graph.compile(keras.optimizers.Adam(1e-3), loss=loss, jit_compile=False)
    inputs = {"embedding": rows(), "order": np.tile(orders(2), (ROWS, 1, 1))}
    graph.fit(inputs, {"triplet": LABELS}, batch_size=ROWS, epochs=2, verbose=0)
    for old, new in zip(before, graph.get_weights(), strict=True):
        assert np.abs(new - old).max() > 0


@pytest.mark.parametrize("annealed", [False, True])
def test_every_loss_under_several_keys(annealed):
    """All in one graph; each is finite and teaches the layer before the key."""
    import tensorflow as tf

    hasher = start_hasher(SIZE, CONFIG, seed=1)
    losses = build_objectives([loss() for loss in CODE_LOSSES.values()], CONFIG)
    assert set(losses) == set(CODE_LOSSES)
    wrapped = {name: per_key(loss, 2) for name, loss in losses.items()}
    reads = {name: loss.reads for name, loss in wrapped.items()}
    graph = training_graph(hasher, CONFIG, reads, keys=2, temperature_input=annealed, classes=3)
    inputs = {
        "embedding": rows(),
        "order": np.tile(orders(2), (ROWS, 1, 1)),
        "second_order": np.tile(orders(3)[2], (ROWS, 1)),
    }
    if annealed:
        inputs["inverse_temperature"] = np.full((ROWS, 1), 9.0, "float32")
    learned = hasher.get_layer("learned_layer").kernel.value
    with tf.GradientTape(persistent=True) as tape:
        outputs = graph(inputs, training=True)
        values = {
            name: loss(rows() if loss.reads_embeddings else LABELS, outputs[name]) for name, loss in wrapped.items()
        }
    for name, value in values.items():
        gradient = tape.gradient(value, learned)
        assert np.isfinite(float(value)), name
        assert np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() > 0, name
