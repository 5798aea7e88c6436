import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from iom.codes.asymmetric import UNIT, keyed_rows
from iom.codes.comparators import AsymmetricComparator, AsymmetricTemplates
from iom.config import CODE_LOSSES, HasherConfig, Stage2Config
from iom.errors import ConfigError
from iom.nn.hash_network import head_program
from iom.nn.hash_numpy import Head
from iom.nn.losses.code.objectives import (
    ASYMMETRIC,
    CLASS_COSINES,
    CODE_AND_ROW,
    COLLISIONS,
    COLLISIONS_ACROSS,
    HASHED_CLASS_COSINES,
    RELAXED,
    SOFT,
    build_objectives,
)
from iom.nn.losses.code.similarity import similarity_distillation
from iom.training.hasher import start_hasher, training_graph
from tests.nn.losses.loss_oracles import COMPARED, VARIANTS

SIZE, CLASSES = 16, 8
HASHER = HasherConfig(
    code_length=24,
    alphabet_size=4,
    key_kind="permutation",
    projection="orthonormal",
    refinement_steps=0,
    train_learned_layer=True,
    train_projection=True,
    inverse_temperature=8.0,
)
HASHERS = {
    "straight through": {},
    "soft": {"straight_through": False},
    "refined": {"refinement_steps": 3},
    "refined, soft": {"refinement_steps": 3, "straight_through": False},
}
PRODUCT_FRAMES = {
    "product": {"projection": "product", "code_length": 8},
    "product without a bias": {"projection": "product", "code_length": 8, "half_norm_bias": False},
}
ALL_HASHERS = HASHERS | PRODUCT_FRAMES
NEEDS_PAIRS = ("triplet", "arc_triplet", "weighted_margin", "multi_similarity", "operating_point", "linkability")
DEGENERATE = {
    "no mated pair": ([0, 1, 2, 3, 4, 5], False),
    "no non-mated pair": ([0] * 6, False),
    "all images the same": ([0, 0, 1, 1, 2, 2], True),
    "one image of one subject": ([0] * 6, True),
    "usual": ([0, 0, 1, 1, 2, 2], False),
}


def rows(count=6, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, SIZE)).astype("float32")
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@functools.cache
def graph(reads, kind="straight through"):
    """Losses that read the same part share a graph: making it is what takes the time."""
    config = HASHER.replace(**ALL_HASHERS[kind])
    keras.utils.set_random_seed(0)
    hasher = start_hasher(SIZE, config, seed=1)
    return training_graph(hasher, config, {"part": reads}, classes=CLASSES)


def make_loss(name, settings):
    return build_objectives([CODE_LOSSES[name](**settings)], HASHER)[name]


def value_and_gradients(model, loss, embeddings, labels):
    truth = embeddings if loss.reads_embeddings else np.asarray(labels, "float32")
    stream = np.random.default_rng(1)
    inputs = {"embedding": embeddings}
    for name in ("order", "second_order")[: 1 + (loss.reads == COLLISIONS_ACROSS)]:
        order = stream.permutation(SIZE).astype("int32")
        inputs[name] = np.tile(order, (len(embeddings), 1))
    with tf.GradientTape() as tape:
        value = loss(truth, model(inputs, training=True)["part"])
    variables = model.trainable_variables
    gradients = tape.gradient(value, [variable.value for variable in variables])
    return float(value), dict(zip([v.path for v in variables], gradients, strict=True))


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
@pytest.mark.parametrize("kind", HASHERS)
def test_every_weight_is_taught_by_every_loss(name, settings, kind):
    check_gradients(name, settings, kind)


@pytest.mark.parametrize("name", CODE_LOSSES)
@pytest.mark.parametrize("kind", PRODUCT_FRAMES)
def test_every_weight_of_a_product_frame_is_taught(name, kind):
    check_gradients(name, {}, kind)


@pytest.mark.parametrize(
    ("name", "settings"), [("triplet", {"distance": "asymmetric"}), ("quantization", {"form": "anisotropic"})]
)
@pytest.mark.parametrize("kind", PRODUCT_FRAMES)
def test_asymmetric_losses_teach_a_product_frame(name, settings, kind):
    check_gradients(name, settings, kind)


def check_gradients(name, settings, kind):
    loss = make_loss(name, settings)
    model = graph(loss.reads, kind)
    _, gradients = value_and_gradients(model, loss, rows(12), np.repeat(np.arange(4), 3))
    assert len(gradients) == 2 + (name == "classification")  # learned layer, projection, head
    for gradient in gradients.values():
        assert gradient is not None
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 1e-7


@pytest.mark.parametrize("kind", ALL_HASHERS)
def test_cosines_of_codes_and_rows_are_those_of_the_hasher(kind):
    """The graph reads codes back as the integer vectors of a hasher do."""
    config = HASHER.replace(**ALL_HASHERS[kind])
    network = start_hasher(SIZE, config, seed=1)
    inputs = {"embedding": rows(), "order": np.tile(np.arange(SIZE, dtype="int32")[::-1], (6, 1))}
    head = Head(*head_program(network))
    codes, keyed = head.hash(*inputs.values()), head.keyed_rows(*inputs.values())
    comparator = AsymmetricComparator(head.vectors)
    both = comparator.prepare(AsymmetricTemplates(codes, keyed_rows(keyed)))
    found = np.asarray(training_graph(network, config, {"part": ASYMMETRIC})(inputs)["part"])
    np.testing.assert_allclose(1 - found, comparator.all_pairs(both, both) / UNIT, atol=1e-3)
    pair = np.asarray(training_graph(network, config, {"part": CODE_AND_ROW})(inputs)["part"])
    np.testing.assert_allclose(pair[:, 1], keyed, atol=1e-5)


@pytest.mark.parametrize("comparison", ["symbols", "asymmetric"])
@pytest.mark.parametrize("name", COMPARED)
def test_losses_follow_the_comparison(name, comparison):
    found = build_objectives([CODE_LOSSES[name]()], HASHER.replace(comparison=comparison))[name]
    assert found.reads == (ASYMMETRIC if comparison == "asymmetric" else COLLISIONS)


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_batches_stay_finite(name, settings, case):
    labels, same = DEGENERATE[case]
    embeddings = np.repeat(rows(1), 6, axis=0) if same else rows()
    loss = make_loss(name, settings)
    value, gradients = value_and_gradients(graph(loss.reads), loss, embeddings, labels)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    assert max(np.abs(gradient).max() for gradient in gradients.values()) < 1e4
    if name in NEEDS_PAIRS and len(set(labels)) in (1, 6):
        exempt = name == "weighted_margin" and len(set(labels)) == 1  # it also draws mates together
        assert exempt or value == 0
        assert exempt or not any(np.abs(gradient).max() for gradient in gradients.values())


def test_a_graph_of_unknown_batch_size_gives_the_same():
    """As `fit` runs them: traced once, the number of rows open."""
    losses = [make_loss(*variant.values) for variant in VARIANTS]
    labels = np.repeat(np.arange(3), 2).astype("float32")
    stream = np.random.default_rng(5)
    soft = stream.dirichlet(np.ones(4), (6, 24)).astype("float32")
    square = stream.random((6, 6)).astype("float32")
    parts = {
        COLLISIONS: square,
        COLLISIONS_ACROSS: square,
        ASYMMETRIC: square,
        CODE_AND_ROW: stream.normal(size=(6, 2, SIZE)).astype("float32"),
        SOFT: soft,
        RELAXED: soft,
        **dict.fromkeys(
            (CLASS_COSINES, HASHED_CLASS_COSINES), stream.uniform(-0.9, 0.9, (6, CLASSES)).astype("float32")
        ),
    }

    def values(labels, embeddings, parts):
        truths = [embeddings if loss.reads_embeddings else labels for loss in losses]
        pairs = zip(losses, truths, strict=True)
        return tf.stack([loss(truth, parts[loss.reads]) for loss, truth in pairs])

    def opened(array):
        return tf.TensorSpec((None, *array.shape[1:]), "float32")

    square_shape = tf.TensorSpec((None, None), "float32")
    shapes = {name: square_shape if part is square else opened(part) for name, part in parts.items()}
    arguments = (labels, rows(), parts)
    traced = tf.function(values, input_signature=(opened(labels), opened(rows()), shapes))
    tensors = tf.nest.map_structure(tf.constant, arguments)
    np.testing.assert_allclose(traced(*tensors), values(*tensors), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CODE_LOSSES)
def test_one_step_lowers_the_loss(name):
    """The sign is right all the way from the loss to the weights."""
    loss = make_loss(name, {})
    model = graph.__wrapped__(loss.reads, "soft")
    embeddings, labels = rows(12), np.repeat(np.arange(4), 3)
    before, gradients = value_and_gradients(model, loss, embeddings, labels)
    length = np.sqrt(sum(float(tf.reduce_sum(g * g)) for g in gradients.values()))
    for variable in model.trainable_variables:
        variable.assign(variable.value - 1e-2 / length * gradients[variable.path])
    after, _ = value_and_gradients(model, loss, embeddings, labels)
    assert after < before


def test_distillation_is_about_one_for_a_random_projection():
    """Its unit is the scatter of independent positions, so the number says what is gained."""
    config = HasherConfig(
        code_length=256, alphabet_size=4, key_kind="permutation", projection="gaussian", refinement_steps=0
    )
    stream = np.random.default_rng(3)
    values = stream.normal(size=(60, 64)) + 1.2 * stream.normal(size=(1, 64))
    values = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype("float32")
    hasher = start_hasher(64, config, seed=2)
    order = np.tile(np.arange(64, dtype="int32"), (60, 1))
    responses = np.asarray(hasher({"embedding": values, "order": order}))
    hard = np.eye(4, dtype="float32")[responses.argmax(-1)]
    collisions = np.einsum("amq,bmq->ab", hard, hard).astype("float32") / 256
    centre = float(np.median(values @ values.T))
    loss = similarity_distillation(256, 4, centre=centre, width=0.1, floor=0.05)
    assert 0.6 < float(loss(values, collisions)) < 1.7


def test_labels_survive_the_cast_of_keras():
    """Keras hands labels over as float32: neighbouring indices must stay apart."""
    loss = make_loss("triplet", {})
    labels = np.array([2**24 - 2, 2**24 - 2, 2**24 - 1, 2**24 - 1])
    near, far = 0.9, 0.1
    collisions = np.full((4, 4), far, "float32")
    collisions[:2, :2] = collisions[2:, 2:] = near
    assert float(loss(labels, keras.ops.convert_to_tensor(collisions))) == 0


def test_only_losses_with_a_weight_are_built():
    losses = [CODE_LOSSES["balance"](weight=0.1), CODE_LOSSES["triplet"](weight=0.0)]
    assert set(build_objectives(losses, HASHER)) == {"balance"}


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([], "losses: expected at least one with a weight above 0"),
        ([{"name": "balance", "weight": 0}], "losses: expected at least one with a weight above 0"),
        ([{"name": "balance"}, {"name": "balance"}], "losses: expected each loss once"),
        ([{"name": "tripplet"}], "losses.name: expected one of .* did you mean 'triplet'"),
        ([{"weight": 1.0}], "expected a section with a name"),
        ([{"name": "triplet", "weight": -1.0}], "losses.triplet.weight: expected at least 0, received -1.0"),
        ([{"name": "triplet", "boundary": 1.0}], "unknown key 'losses.triplet.boundary'"),
        ([{"name": "distillation", "width": 0.0}], "losses.distillation.width"),
        ([{"name": "distillation", "centre": 1.0}], "losses.distillation.centre: expected less than 1"),
        ([{"name": "triplet", "mining": "hard"}], "triplet.mining: expected 'batch_hard', 'batch_all' or 'semi_h"),
        ([{"name": "weighted_margin", "boundary": 2.0}], "weighted_margin.boundary: expected less than 2"),
        ([{"name": "weighted_margin", "cutoff": 0.0}], "weighted_margin.cutoff"),
        ([{"name": "weighted_margin", "dimension": 2}], "weighted_margin.dimension"),
        ([{"name": "multi_similarity", "boundary": 1.0}], "multi_similarity.boundary"),
        ([{"name": "multi_similarity", "mated_slope": 0.0}], "multi_similarity.mated_slope"),
        ([{"name": "binarization", "slope": 0.0}], "binarization.slope"),
        ([{"name": "classification", "margin": 2.0}], "classification.margin: expected less than 1.5"),
    ],
)
def test_settings_out_of_range(losses, message):
    with pytest.raises(ConfigError, match=message):
        Stage2Config(losses=losses)


def test_a_graph_with_nothing_to_train_is_refused():
    config = HASHER.replace(train_projection=False, train_learned_layer=False)
    with pytest.raises(ConfigError, match="nothing to train"):
        training_graph(start_hasher(SIZE, config, seed=1), config, {"triplet": "collisions"})
