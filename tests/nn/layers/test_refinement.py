import keras
import numpy as np
import pytest
from keras import ops

from iom._random import numpy_stream
from iom.nn.frames import simplex_frame
from iom.nn.hash_numpy import DECAY, RATE
from iom.nn.layers.index_of_max import IoMProjection, hard_index, refine


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def rows():
    return unit(np.random.default_rng(1).normal(size=(40, 16)))


def read_back(codes, kernel, alphabet_size):
    """Loop oracle: sum of the chosen vectors, less the mean vector of each position."""
    vectors = kernel.reshape(kernel.shape[0], -1, alphabet_size)
    held = np.zeros((len(codes), kernel.shape[0]))
    for row, code in enumerate(codes):
        for position, symbol in enumerate(code):
            held[row] += vectors[:, position, symbol] - vectors[:, position].mean(axis=1)
    return held


def plain_codes(rows, kernel, alphabet_size):
    return (rows @ kernel).reshape(len(rows), -1, alphabet_size).argmax(axis=2)


@pytest.mark.parametrize(("length", "alphabet_size"), [(96, 2), (48, 4), (40, 8)])
def test_matches_a_loop(rows, length, alphabet_size):
    kernel = simplex_frame(16, length, alphabet_size, numpy_stream(0, "x"))
    target = rows.astype(np.float64)
    held = read_back(plain_codes(target, kernel, alphabet_size), kernel, alphabet_size)
    along = (held * target).sum(axis=1, keepdims=True)
    scale = along * (1 + 4 * ((held**2).sum(axis=1, keepdims=True) / along**2 - 1))
    wanted = target.copy()
    for step in range(4):
        wanted += RATE / (1 + DECAY * step) * (target - held / scale)
        held = read_back(plain_codes(wanted, kernel, alphabet_size), kernel, alphabet_size)
    found = np.asarray(refine(rows, ops.convert_to_tensor(kernel), alphabet_size, steps=4, gain=4.0))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("alphabet_size", [2, 4, 8])
def test_the_code_points_back_at_the_row(rows, alphabet_size):
    def remainder(steps):
        layer = IoMProjection(
            512 // alphabet_size, alphabet_size, "simplex", refinement_steps=steps,
            refinement_gain=2.0, trainable=False,
        )  # fmt: skip
        codes = np.asarray(hard_index(layer(rows)))
        held = unit(read_back(codes, np.asarray(layer.kernel), alphabet_size))
        return np.arccos(np.clip((held * rows).sum(axis=1), -1, 1)).mean()

    assert remainder(20) < 0.6 * remainder(0)


def test_distances_of_refined_codes_follow_the_cosine_more_closely():
    generator = np.random.default_rng(2)
    left, noise = unit(generator.normal(size=(3000, 32))), generator.normal(size=(3000, 32))
    noise = unit(noise - (noise * left).sum(axis=1, keepdims=True) * left)
    cosines = generator.uniform(0.1, 0.7, (3000, 1))
    right = (cosines * left + np.sqrt(1 - cosines**2) * noise).astype(np.float32)

    def scatter(steps):
        layer = IoMProjection(384, 2, "simplex", refinement_steps=steps, trainable=False)
        codes = [np.asarray(hard_index(layer(side))) for side in (left, right)]
        agreement = (codes[0] == codes[1]).mean(axis=1)
        fit = np.polyfit(cosines[:, 0], agreement, 3)
        slope = np.polyval(np.polyder(fit), cosines[:, 0])
        return ((agreement - np.polyval(fit, cosines[:, 0])) / slope).std()

    assert scatter(10) < 0.8 * scatter(0)


def test_a_zero_row_stays_finite():
    layer = IoMProjection(12, 4, refinement_steps=5)
    assert np.isfinite(np.asarray(layer(np.zeros((2, 16), "float32")))).all()


def test_gradients_reach_rows_and_vectors(rows):
    entry = keras.Input((16,))
    dense = keras.layers.Dense(16, use_bias=False)
    layer = IoMProjection(12, 4, "orthonormal", refinement_steps=5)
    model = keras.Model(entry, layer(dense(entry)))
    before = [np.array(weight) for weight in model.trainable_weights]
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(rows, np.ones((40, 12, 4), "float32"), verbose=0)
    for old, new in zip(before, model.trainable_weights, strict=True):
        assert not np.array_equal(old, np.asarray(new))


def test_saves_and_loads(tmp_path, rows):
    entry = keras.Input((16,))
    layer = IoMProjection(64, 4, "simplex", refinement_steps=7, refinement_gain=1.1, trainable=False)
    model = keras.Model(entry, layer(entry))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(model.predict(rows, verbose=0), again.predict(rows, verbose=0))
    assert again.layers[-1].refinement_steps == 7
