import inspect
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from iom.nn.layers.cosine import CosineLogits
from iom.nn.losses.margin import (
    MARGIN_LOSSES,
    AdaFaceLoss,
    ArcFaceLoss,
    MagFaceLoss,
    NormalisedSoftmaxLoss,
    SoftmaxLoss,
)
from tests.nn.losses import margin_oracles as oracles

CLASSES = 7
NORM = ("magface", "adaface")
"""Losses whose outputs have the norm of the embedding as a last column."""


def build(name, classes=CLASSES, **arguments):
    own = {"classes": classes} if name in NORM else {}
    return MARGIN_LOSSES[name](**own, **arguments)


def batch(name, rows=40, classes=CLASSES, seed=0):
    """Outputs of the layer and labels."""
    rng = np.random.default_rng(seed)
    outputs = rng.uniform(-0.999, 0.999, (rows, classes))
    if name in NORM:
        outputs = np.hstack([outputs, rng.uniform(1, 150, (rows, 1))])
    return outputs.astype("float32"), rng.integers(0, classes, rows)


def check_against(oracle, loss, outputs, labels, smoothing=0.0):
    expected = [
        oracles.cross_entropy(np.asarray(oracle(row.astype(float), label)), label, smoothing)
        for row, label in zip(outputs, labels, strict=True)
    ]
    np.testing.assert_allclose(loss(labels, outputs), expected, rtol=3e-4, atol=3e-4)


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(sorted(oracles.STATELESS)),
    rows=st.integers(1, 9),
    classes=st.integers(2, 6),
    smoothing=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 1000),
)
def test_losses_without_memory_follow_their_papers(name, rows, classes, smoothing, seed):
    outputs, labels = batch(name, rows, classes, seed)
    loss = build(name, classes, reduction=None, label_smoothing=smoothing)
    check_against(oracles.STATELESS[name], loss, outputs, labels, smoothing)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("arcface", {"margin": 0.2, "scale": 16.0}),
        ("arcface", {"margin": 0.0, "scale": 16.0}),
        ("cosface", {"margin": 0.1, "scale": 16.0}),
        ("sphereface", {"margin": 1.5, "easing": 0.0, "scale": 16.0}),
        ("combined", {"multiplier": 1.3, "margin": 0.2, "cosine_margin": 0.1, "scale": 16.0}),
    ],
)
def test_arguments_follow_the_papers(name, arguments):
    outputs, labels = batch(name)
    loss = build(name, reduction=None, **arguments)
    check_against(lambda row, label: oracles.STATELESS[name](row, label, **arguments), loss, outputs, labels)


def test_curricularface_follows_the_paper_and_its_level_the_batches():
    loss = build("curricularface", reduction=None)
    level = 0.0
    for seed in range(3):
        outputs, labels = batch("curricularface", seed=seed)
        target = np.mean([row[label] for row, label in zip(outputs, labels, strict=True)])
        level = 0.01 * target + 0.99 * level
        check_against(
            lambda row, label, level=level: oracles.curricularface(row, label, level),
            loss, outputs, labels,
        )  # fmt: skip
    assert float(loss.state[0]) == pytest.approx(level, abs=1e-6)


def test_magface_follows_the_paper():
    outputs, labels = batch("magface")
    values = build("magface", reduction=None)(labels, outputs)
    for row, label, value in zip(outputs.astype(float), labels, values, strict=True):
        logits, pull = oracles.magface(row[:-1], label, row[-1])
        assert float(value) == pytest.approx(oracles.cross_entropy(logits, label) + pull, rel=3e-4)


def test_adaface_follows_the_paper_and_its_statistics_the_batches():
    loss = build("adaface", reduction=None)
    mean, deviation = 20.0, 100.0
    for seed in range(3):
        outputs, labels = batch("adaface", seed=seed)
        norms = np.clip(outputs[:, -1].astype(float), 1e-3, 100.0)
        mean = 0.01 * norms.mean() + 0.99 * mean
        deviation = 0.01 * norms.std(ddof=1) + 0.99 * deviation
        quality = np.clip((norms - mean) / (deviation + 1e-3) * 0.333, -1, 1)
        values = loss(labels, outputs)
        for i, value in enumerate(values):
            row = outputs[i, :-1].astype(float)
            logits = oracles.adaface(row, labels[i], quality[i])
            expected = oracles.cross_entropy(logits, labels[i])
            assert float(value) == pytest.approx(expected, rel=3e-4, abs=3e-4)
    assert [float(v) for v in loss.state] == pytest.approx([mean, deviation], rel=1e-5)


@pytest.mark.parametrize("loss", [ArcFaceLoss, *map(MARGIN_LOSSES.get, ["combined", "sphereface"])])
def test_the_target_logit_falls_with_the_angle_everywhere(loss):
    theta = np.linspace(0.0, math.pi, 400)
    cosines = np.stack([np.cos(theta), np.zeros_like(theta)], axis=1).astype("float32")
    values = np.asarray(loss(scale=8.0, reduction=None)(np.zeros(400, int), cosines))
    assert (np.diff(values) >= -1e-4).all()


@pytest.mark.parametrize("name", sorted(MARGIN_LOSSES))
@pytest.mark.parametrize("extreme", [-1.0, 1.0, 0.0])
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_finite_with_a_slope_at_the_ends(name, extreme, kind):
    outputs = np.full((4, 3), extreme, "float32")
    if name in NORM:
        outputs = np.hstack([outputs, np.full((4, 1), 20.0, "float32")])
    cosines = tf.cast(outputs, kind)
    with tf.GradientTape() as tape:
        tape.watch(cosines)
        value = build(name, 3)(np.array([0, 1, 2, 0]), cosines)
    slope = tf.cast(tape.gradient(value, cosines), "float32").numpy()
    assert np.isfinite(float(value))
    assert np.isfinite(slope).all()
    assert (slope[:, :3] != 0).any(axis=1).all(), "a row without a gradient never gets away"


@pytest.mark.parametrize("name", sorted(MARGIN_LOSSES))
@pytest.mark.parametrize("classes", [2, 10_000])
def test_few_and_many_classes(name, classes):
    outputs, labels = batch(name, 3, classes)
    value = build(name, classes)(labels, outputs)
    assert np.isfinite(float(value))


@pytest.mark.parametrize("name", sorted(MARGIN_LOSSES))
def test_every_weight_gets_a_gradient(name):
    loss = build(name)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(32, 16)).astype("float32"), np.arange(32) % CLASSES
    head = (
        CosineLogits(CLASSES, sub_centers=2, with_norm=name in NORM)
        if loss.needs_cosines
        else keras.layers.Dense(CLASSES)
    )
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(16), head])
    with tf.GradientTape() as tape:
        value = loss(y, model(x))
    for variable, slope in zip(model.trainable_variables, tape.gradient(value, model.trainable_variables), strict=True):
        assert np.abs(slope).max() > 0, variable.path


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        *((name, "mixed_bfloat16") for name in sorted(MARGIN_LOSSES)),
        *((name, policy) for name in ("softmax", "arcface", "adaface") for policy in ("float32", "mixed_float16")),
    ],
)
def test_trains_in_fit_saves_and_reloads(name, policy, tmp_path):
    loss = build(name)
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(16)])
        if loss.needs_cosines:
            model.add(CosineLogits(CLASSES, with_norm=name in NORM))
        else:
            model.add(keras.layers.Dense(CLASSES, dtype="float32"))
        model.compile("adam", loss, jit_compile=False)
        rng = np.random.default_rng(2)
        x, y = rng.normal(size=(64, 16)).astype("float32"), rng.integers(0, CLASSES, 64)
        before = [float(v) for v in loss.state]
        losses = model.fit(x, y, epochs=2, verbose=0).history["loss"]
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(losses).all()
    assert all(float(v) != old for v, old in zip(loss.state, before, strict=True))
    assert len({v.name for v in loss.state}) == len(loss.state)
    if policy == "mixed_float16":
        return  # Keras 3.15 writes an optimizer with loss scaling twice, and cannot read that
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


@pytest.mark.parametrize("name", sorted(MARGIN_LOSSES))
def test_every_argument_is_in_the_configuration(name):
    arguments = set(inspect.signature(MARGIN_LOSSES[name]).parameters)
    changed = {"label_smoothing": 0.2, "name": "mine", "reduction": "sum"}
    changed |= {
        key: value
        for key, value in {
            "margin": 0.25, "scale": 7.0, "easing": 2.0, "multiplier": 1.1, "cosine_margin": 0.3,
            "rate": 0.5, "lowest_norm": 2.0, "highest_norm": 50.0, "lowest_margin": 0.1,
            "highest_margin": 0.6, "norm_weight": 3.0, "concentration": 0.4,
        }.items()
        if key in arguments
    }  # fmt: skip
    loss = MARGIN_LOSSES[name](**changed, **({"classes": 9} if name in NORM else {}))
    own = loss.get_config()
    assert {key: own[key] for key in changed} == changed
    assert arguments - {"classes"} <= set(changed)
    assert arguments <= set(own)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == own


def test_neighbouring_labels_beyond_float32_stay_apart():
    class Recorder(SoftmaxLoss):
        def row_losses(self, labels, outputs):
            self.seen = labels
            return outputs[:, 0]

    labels = np.array([2**24, 2**24 + 1, 2**31 - 1, 0])
    for kind in ("float32", "float16"):
        loss = Recorder()
        loss(labels, tf.zeros((4, 3), kind))
        np.testing.assert_array_equal(loss.seen, labels)


@pytest.mark.parametrize("reduction", [None, "sum", "sum_over_batch_size"])
@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.0, 0.5]])
def test_weights_and_reductions_are_those_of_keras(reduction, weights):
    outputs, labels = batch("softmax", 4)
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    ours = SoftmaxLoss(reduction=reduction)
    np.testing.assert_allclose(
        ours(labels, outputs, sample_weight=weights), theirs(labels, outputs, sample_weight=weights), rtol=1e-5
    )
    column = ours(labels[:, None], outputs, sample_weight=weights)
    np.testing.assert_allclose(column, ours(labels, outputs, sample_weight=weights))


def test_label_smoothing_is_that_of_keras():
    outputs, labels = batch("softmax")
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    truth = np.eye(CLASSES, dtype="float32")[labels]
    ours = SoftmaxLoss(label_smoothing=0.1)(labels, outputs)
    assert float(ours) == pytest.approx(float(theirs(truth, outputs)), rel=1e-5)


def test_normalised_softmax_is_arcface_without_a_margin():
    outputs, labels = batch("arcface")
    np.testing.assert_allclose(
        ArcFaceLoss(margin=0.0)(labels, outputs), NormalisedSoftmaxLoss()(labels, outputs), rtol=1e-5
    )


@pytest.mark.parametrize("kind", [MagFaceLoss, AdaFaceLoss])
def test_a_missing_norm_is_an_error(kind):
    with pytest.raises(ValueError, match=r"7 cosines and the norm .*received 7 columns"):
        kind(classes=CLASSES)(np.array([0]), np.zeros((1, CLASSES), "float32"))


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_label_smoothing_out_of_range(share):
    with pytest.raises(ValueError, match="label_smoothing: expected 0 <= share < 1"):
        ArcFaceLoss(label_smoothing=share)
