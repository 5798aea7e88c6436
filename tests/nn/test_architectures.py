"""Every architecture that the configuration names, through the one builder."""

import json

import numpy as np
import pytest

from iom.config import BatchConfig, EmbedderConfig, EvaluateConfig, HasherConfig, Stage2Config
from iom.errors import ConfigError, KeyMaterialError
from iom.keys import KEY_KINDS, TransformKey
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.adapter import orthonormal_map
from iom.nn.hash_network import build_hasher, check_sizes, shape_of
from iom.nn.losses.code.objectives import RELAXED, SOFT
from iom.training.hasher import start_hasher, training_graph

SIZE = 24
ARCHITECTURES = {
    "plain": {},
    "no learned layer": {"learned_layer": False},
    "one hidden layer": {"hidden_layers": 1},
    "two, wider": {"hidden_layers": 2, "hidden_size": 40},
    "three, narrower, alone": {"hidden_layers": 3, "hidden_size": 5, "learned_layer": False},
    "bottleneck": {"bottleneck": 10},
    "lift": {"bottleneck": 50, "keep": 30},
    "orthogonal": {"key_kind": "orthogonal"},
    "orthogonal, keep": {"key_kind": "orthogonal", "keep": 9},
    "subset": {"key_kind": "subset", "keep": 12},
    "part": {"key_kind": "part", "keep": 9},
    "refined": {"refinement_steps": 3},
    "all": {
        "hidden_layers": 2,
        "hidden_size": 16,
        "bottleneck": 20,
        "key_kind": "orthogonal",
        "keep": 13,
        "refinement_steps": 2,
    },
}


def config(**settings):
    shape = {"code_length": 12, "alphabet_size": 4, "projection": "orthonormal", "refinement_steps": 0}
    trained = {"train_projection": True, "train_learned_layer": True, "whitening": 0.0}
    return HasherConfig(**{**shape, **trained, **settings})


def inputs(settings, count=9, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, SIZE)).astype("float32")
    key = TransformKey(bytes(range(32)))
    size = check_sizes(SIZE, settings)
    order = KEY_KINDS[settings.key_kind].order(key, size, settings.keep)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return {"embedding": rows, "order": np.tile(order, (count, 1))}


@pytest.fixture(params=ARCHITECTURES)
def settings(request):
    return config(**ARCHITECTURES[request.param])


def test_shapes(settings):
    model = build_hasher(SIZE, settings, seed=1)
    responses = np.asarray(model(inputs(settings)))
    assert responses.shape == (9, 12, 4)
    assert np.isfinite(responses).all()
    assert shape_of(model) == {
        "embedding_size": SIZE,
        "code_length": 12,
        "alphabet_size": 4,
        "keep": settings.keep,
        "key_size": settings.bottleneck or SIZE,
        "key_kind": settings.key_kind,
    }
    assert model.get_layer("projection").kernel.shape[0] == (settings.keep or settings.bottleneck or SIZE)


def test_every_trainable_weight_gets_a_gradient(settings):
    import tensorflow as tf

    model = start_hasher(SIZE, settings, seed=1)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(model(inputs(settings), training=True) ** 3)
    expected = 1 + settings.learned_layer + 4 * settings.hidden_layers + (settings.bottleneck > 0)
    assert len(model.trainable_weights) == expected
    gradients = tape.gradient(value, [weight.value for weight in model.trainable_weights])
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None, weight.path
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0, weight.path


def test_training_and_inference_respond_alike(settings):
    """One graph: nothing in it behaves differently in training, nor depends on other rows."""
    model, given = build_hasher(SIZE, settings, seed=1), inputs(settings)
    plain = np.asarray(model(given, training=False))
    np.testing.assert_array_equal(plain, model(given, training=True))
    graph = training_graph(model, settings, {"hard": RELAXED, "soft": SOFT})(given, training=True)
    np.testing.assert_array_equal(np.asarray(graph["hard"]).argmax(-1), plain.argmax(-1))
    exponentials = np.exp(settings.inverse_temperature * plain)
    soft = exponentials / exponentials.sum(-1, keepdims=True)
    np.testing.assert_allclose(graph["soft"], soft, rtol=1e-4, atol=1e-6)


def test_save_and_load(settings, tmp_path):
    made = KerasFaceHasher(build_hasher(SIZE, settings, seed=1), embedder_name="x.y", embedder_fingerprint="ab" * 32)
    made.save(tmp_path)
    again = KerasFaceHasher.load(tmp_path)
    rows, key = inputs(settings)["embedding"], TransformKey.generate()
    # The projection is stored in half precision: what is enrolled with is the loaded one.
    assert (made.hash(rows, key) == again.hash(rows, key)).mean() > 0.97
    again.save(tmp_path / "second")
    third = KerasFaceHasher.load(tmp_path / "second")
    np.testing.assert_array_equal(again.hash(rows, key), third.hash(rows, key))
    assert shape_of(again.model) == shape_of(made.model)
    stored = json.loads((tmp_path / "hasher.json").read_text())
    assert stored["key"] == {"kind": settings.key_kind, "derivation": f"iom/{settings.key_kind}/v1"}


def test_the_same_seed_gives_the_same_weights(settings):
    models = [build_hasher(SIZE, settings, seed=seed) for seed in (1, 1, 2)]
    one, two, other = ([np.asarray(w) for w in model.get_weights()] for model in models)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def cosines_behind(settings, rows):
    """Cosines of the rows just before the key."""
    import keras

    model = build_hasher(SIZE, settings, seed=1)
    keyed = model.get_layer("keyed_permutation")
    before = keras.Model(model.input, keyed.input[0])
    result = np.asarray(before({**inputs(settings, len(rows)), "embedding": rows}))
    return result @ result.T


@pytest.mark.parametrize(
    ("changes", "tolerance"), [({"hidden_layers": 3}, 0.05), ({"bottleneck": 50}, 1e-5), ({"bottleneck": 24}, 1e-5)]
)
def test_training_starts_from_the_embedding(changes, tolerance):
    rows = inputs(config(), 30)["embedding"]
    found = cosines_behind(config(**changes), rows)
    np.testing.assert_allclose(found, rows @ rows.T, atol=tolerance)


@pytest.mark.parametrize(("size", "new"), [(8, 3), (3, 8), (5, 5)])
def test_orthonormal_maps(size, new):
    matrix = orthonormal_map(size, new, seed=1)
    assert matrix.shape == (size, new)
    product = matrix.T @ matrix if new <= size else matrix @ matrix.T
    np.testing.assert_allclose(product, np.eye(min(size, new)), atol=1e-6)


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_the_identity_key_hashes_without_a_key(kind):
    settings = config(key_kind=kind, keep=12, learned_layer=False)
    hasher = KerasFaceHasher(build_hasher(SIZE, settings, seed=1), embedder_name="", embedder_fingerprint="")
    rows = inputs(settings)["embedding"]
    kept = rows[:, :12] / np.linalg.norm(rows[:, :12], axis=1, keepdims=True)
    kernel = np.asarray(hasher.model.get_layer("projection").kernel)
    expected = (kept @ kernel).reshape(len(rows), 12, 4).argmax(-1)
    found = hasher.hash_in_order(rows, hasher.identity_order)
    assert (found == expected).mean() > 0.98  # a tie within rounding may fall either way


def test_a_subset_holds_what_keep_holds():
    """subset = permutation + keep, but for the order of what is kept."""
    from iom.nn.layers.keyed import KeyedPermutation

    key, rows = TransformKey.generate(), inputs(config())["embedding"]
    kept = [
        np.asarray(KeyedPermutation(keep=7)([rows, np.tile(KEY_KINDS[kind].order(key, SIZE, 7), (9, 1))]))
        for kind in ("permutation", "subset")
    ]
    np.testing.assert_array_equal(np.sort(kept[0], axis=1), np.sort(kept[1], axis=1))


def test_one_order_serves_all_rows():
    settings = config()
    hasher = KerasFaceHasher(build_hasher(SIZE, settings), embedder_name="", embedder_fingerprint="")
    rows, key = inputs(settings)["embedding"], TransformKey.generate()
    order = KEY_KINDS["orthogonal"].order(key, SIZE, 0)
    for orders in (order, order[None], np.tile(order, (9, 1))):
        np.testing.assert_array_equal(hasher.hash_in_order(rows, orders), hasher.hash(rows, key))


@pytest.mark.parametrize("shape", [(SIZE,), (9, SIZE), (3 * SIZE + 1,), (8, 3 * SIZE)])
def test_orders_of_another_kind(shape):
    settings = config(key_kind="orthogonal")
    hasher = KerasFaceHasher(build_hasher(SIZE, settings), embedder_name="", embedder_fingerprint="")
    with pytest.raises(KeyMaterialError, match=r"expected orders \(9, 72\)"):
        hasher.hash_in_order(inputs(settings)["embedding"], np.zeros(shape, "int32"))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("code_length", 0),
        ("code_length", 65537),
        ("alphabet_size", 1),
        ("alphabet_size", 257),
        ("keep", -1),
        ("inverse_temperature", 0.0),
        ("inverse_temperature", -1.0),
        ("inverse_temperature", float("nan")),
        ("inverse_temperature", 1e5),
        ("inverse_temperature_end", -1.0),
        ("inverse_temperature_end", float("inf")),
        ("annealing", "cosine"),
        ("hidden_layers", -1),
        ("hidden_layers", 4),
        ("hidden_size", -1),
        ("hidden_size", 20000),
        ("bottleneck", -1),
        ("bottleneck", 1),
        ("bottleneck", 20000),
        ("key_kind", "xor"),
    ],
)
def test_values_out_of_range_name_the_field(setting, value):
    with pytest.raises(ConfigError, match=rf"{setting}: expected .* received"):
        HasherConfig(**{setting: value})


def test_combinations_out_of_range():
    with pytest.raises(ConfigError, match=r"keep: expected at least 1 with key_kind"):
        HasherConfig(key_kind="subset")
    with pytest.raises(ConfigError, match=r"keep: expected at least 1 with key_kind 'part"):
        HasherConfig(key_kind="part")
    with pytest.raises(ConfigError, match="'part' keeps fewer than the 16"):
        build_hasher(16, HasherConfig(key_kind="part", keep=16))
    with pytest.raises(ConfigError, match=r"keep: expected at most hasher\.bottleneck"):
        HasherConfig(bottleneck=8, keep=9)
    with pytest.raises(ConfigError, match=r"hasher\.keep: expected at most the 24"):
        build_hasher(SIZE, config(keep=25))
    with pytest.raises(ConfigError, match="keys: expected at least 1"):
        BatchConfig(keys=0)
    with pytest.raises(ConfigError, match=r"batches\.keys: expected 1 with key: identity"):
        Stage2Config(batches=BatchConfig(keys=2), key="identity")
    with pytest.raises(ConfigError, match=r"unknown key 'code\.key_kind'"):
        EvaluateConfig(code={"key_kind": "permutation"})
    for weight in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="fusion_weight"):
            EmbedderConfig(fusion_weight=weight)
