import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from iom.nn.layers.cosine import CosineLogits
from iom.nn.layers.sampled_cosine import SampledCosineLogits, put_rows, take_rows
from iom.nn.losses.margin import MARGIN_LOSSES, ArcFaceLoss, SampledLoss

CLASSES, SIZE, BATCH = 40, 8, 6


def network(share=0.25, optimizer=None, seed=3, slots=1, loss=None, classes=CLASSES, **kwargs):
    inputs, labels = keras.Input((SIZE,)), keras.Input((), dtype="int32")
    head = SampledCosineLogits(classes, share, slots=slots, seed=seed, name="cosines", **kwargs)
    dense = keras.layers.Dense(SIZE, use_bias=False, kernel_initializer="identity", name="dense")
    model = keras.Model([inputs, labels], head([dense(inputs), labels]))
    optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, SampledLoss(loss or ArcFaceLoss()), jit_compile=False)
    head.attach(model)
    return model, head


def batches(steps, seed=0, classes=CLASSES):
    stream = np.random.default_rng(seed)
    for _ in range(steps):
        x = stream.standard_normal((BATCH, SIZE)).astype(np.float32)
        yield x, stream.integers(0, classes, BATCH).astype(np.int32)


def train(model, data):
    return [float(model.train_on_batch([x, y], y)) for x, y in data]


@pytest.mark.parametrize("name", sorted(set(MARGIN_LOSSES) - {"softmax"}))
def test_with_all_classes_it_is_the_full_softmax_step_by_step(name):
    needs_classes = name in ("adaface", "magface")
    loss, other = (MARGIN_LOSSES[name](**({"classes": CLASSES} if needs_classes else {})) for _ in range(2))
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    model, head = network(1.0, optimizer, loss=loss, with_norm=loss.needs_norm)
    full_head = CosineLogits(CLASSES, with_norm=loss.needs_norm)
    inputs = keras.Input((SIZE,))
    dense = keras.layers.Dense(SIZE, use_bias=False, kernel_initializer="identity")
    full = keras.Model(inputs, full_head(dense(inputs)))
    full_head.centres.assign(head.centres().T)
    full.compile(keras.optimizers.SGD(0.01, momentum=0.9), other, jit_compile=False)
    for x, y in batches(5):
        ours, theirs = model.train_on_batch([x, y], y), full.train_on_batch(x, y)
        np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    np.testing.assert_allclose(head.centres().T, full_head.centres.numpy(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(model.get_layer("dense").kernel.numpy(), dense.kernel.numpy(), atol=1e-4)


def test_the_loss_is_that_over_the_drawn_classes_and_only_their_rows_move():
    model, head = network()
    (x, y), *_ = batches(1)
    before = head.centres()
    loss = model.train_on_batch([x, y], y)
    drawn = head.index.numpy()
    assert len(drawn) == len(set(drawn)) == 10
    assert set(y) <= set(drawn)
    unit = before / np.linalg.norm(before, axis=1, keepdims=True)
    cosines = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ unit[drawn].T
    expected = ArcFaceLoss()(np.searchsorted(drawn, y), cosines)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    moved = np.flatnonzero((head.centres() != before).any(axis=1))
    assert set(moved) == set(drawn)


def test_every_class_is_drawn_equally_often_and_positives_always():
    _, head = network(0.2)
    counts, negatives = np.zeros(CLASSES), 0
    y = np.array([0, 1, 1, 39, 0, 1], np.int32)
    for _ in range(300):
        index = ops.convert_to_numpy(head._sample(y))
        assert {0, 1, 39} <= set(index)
        assert (np.diff(index) > 0).all()
        counts[index] += 1
        negatives += len(index) - 3
    others = np.delete(counts, [0, 1, 39])
    expected = negatives / len(others)  # 5 of 37 in each of 300 draws: 40.5, spread 5.9
    assert abs(others - expected).max() < 5 * np.sqrt(expected)
    assert others.sum() == negatives


def test_the_momentum_of_a_class_waits_for_it():
    model, head = network(optimizer=keras.optimizers.SGD(0.001, momentum=0.9))
    rows, speed = head.centres(), np.zeros((CLASSES, SIZE), np.float32)
    for x, y in batches(12):
        embedding = tf.math.l2_normalize(model.get_layer("dense")(x), axis=1)
        model.train_on_batch([x, y], y)
        drawn = head.index.numpy()
        with tf.GradientTape() as tape:
            active = tf.Variable(rows[drawn])
            cosines = embedding @ tf.transpose(tf.math.l2_normalize(active, axis=1))
            loss = ArcFaceLoss()(np.searchsorted(drawn, y), cosines)
        speed[drawn] = 0.9 * speed[drawn] - 0.001 * tape.gradient(loss, active).numpy()
        rows[drawn] += speed[drawn]
        np.testing.assert_allclose(head.centres(), rows, atol=1e-4 * abs(rows).max())


@pytest.mark.parametrize(
    ("optimizer", "slots"),
    [
        (lambda: keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-3), 1),
        (lambda: keras.optimizers.AdamW(0.01, clipnorm=1.0), 2),
    ],
    ids=["sgd", "adamw"],
)
def test_a_resumed_training_equals_the_uninterrupted_one(optimizer, slots, tmp_path):
    data = list(batches(8))
    model, head = network(optimizer=optimizer(), slots=slots)
    straight = train(model, data)
    first, _ = network(optimizer=optimizer(), slots=slots)
    train(first, data[:4])
    first.save(tmp_path / "half.keras")
    resumed = keras.saving.load_model(tmp_path / "half.keras")
    resumed.get_layer("cosines").attach(resumed)
    assert train(resumed, data[4:]) == straight[4:]
    np.testing.assert_array_equal(resumed.get_layer("cosines").centres(), head.centres())
    other, _ = network(optimizer=optimizer(), slots=slots, seed=4)
    assert train(other, data) != straight


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model, head = network()
        losses = train(model, list(batches(4)) * 30)
    finally:
        keras.config.set_dtype_policy("float32")
    assert head.active.dtype == "float32"
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]


def test_classes_beyond_what_float32_can_count():
    classes = 2**24 + 4
    model, head = network(1e-6, classes=classes, slots=0, optimizer=keras.optimizers.SGD(0.1))
    y = np.array([2**24, 2**24 + 1, 2**24 + 3], np.int32)
    x = np.eye(SIZE, dtype=np.float32)[:3]
    assert np.isfinite(model.train_on_batch([x, y], y))
    assert set(y) <= set(head.index.numpy())
    places = np.asarray(model([x, y]))[:, -1]
    np.testing.assert_array_equal(head.index.numpy()[places.astype(int)], y)


def test_a_class_that_is_not_active_gives_nan_and_no_wrong_loss():
    model, _ = network()
    missing = np.array([10, 39], np.int32)  # the first ten are active before any step
    out = np.asarray(model([np.ones((2, SIZE), np.float32), missing]))
    assert np.isnan(out).all()


def test_fit_and_refusals():
    model, head = network()
    data = list(batches(4))
    x, y = (np.concatenate(part) for part in zip(*data, strict=True))
    assert np.isfinite(model.fit([x, y], y, batch_size=BATCH, verbose=0).history["loss"][0])
    tight, _ = network(0.1)
    with pytest.raises(ValueError, match="room for the 6 subjects"):
        train(tight, data[:1])
    with pytest.raises(ValueError, match="slots=2"):
        network(optimizer=keras.optimizers.Adam())
    with pytest.raises(ValueError, match="gradient_accumulation_steps"):
        network(optimizer=keras.optimizers.SGD(0.1, 0.9, gradient_accumulation_steps=2))
    with pytest.raises(ValueError, match="share"):
        SampledCosineLogits(10, 0.0)
    model.compile(keras.optimizers.SGD(0.1), SampledLoss(ArcFaceLoss()), jit_compile=False)
    head._attached = None
    with pytest.raises(ValueError, match="attach"):
        train(model, data[:1])


def test_rows_are_read_and_written_in_place():
    variable = keras.Variable(np.arange(12, dtype=np.float32).reshape(4, 3))
    put_rows(variable, np.array([1, 3], np.int32), np.full((2, 3), -1, np.float32))
    np.testing.assert_array_equal(take_rows(variable, np.array([3, 0])), [[-1] * 3, [0, 1, 2]])
