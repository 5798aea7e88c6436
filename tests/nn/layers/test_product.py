"""Product frames: the codebook, the layer, and what it becomes in NumPy and in attacks."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.vq import vq

from iom.attacks.base import Leak
from iom.attacks.reconstruction import closed_form, cross_entropy_descent
from iom.attacks.targets import attacked_hasher
from iom.config import HasherConfig
from iom.errors import ConfigError
from iom.keys import TransformKey
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.frames import drawn_codebook, fitted_codebook, product_kernel
from iom.nn.hash_network import build_hasher, head_program
from iom.nn.hash_numpy import Head, joint_responses
from iom.nn.layers.product import ProductProjection

SIZE, KEY = 32, TransformKey(bytes(range(32)))


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def embeddings():
    return unit(np.random.default_rng(0).normal(size=(60, SIZE)))


def made(**settings):
    plain = {"code_length": 8, "alphabet_size": 16, "projection": "product", "refinement_steps": 0}
    network = build_hasher(SIZE, HasherConfig(**plain | settings), seed=1)
    return KerasFaceHasher(network, embedder_name="made.test", embedder_fingerprint="a" * 64)


def test_each_position_chooses_the_vector_nearest_to_its_block(embeddings):
    """SciPy's vector quantisation says the same."""
    layer = ProductProjection(8, 16)
    layer.build((None, SIZE))
    codebook = drawn_codebook(SIZE, 8, 16, seed=1)
    layer.set_weights([codebook])
    codes = np.asarray(layer(embeddings)).argmax(-1)
    for position in range(8):
        expected, _ = vq(embeddings[:, 4 * position : 4 * position + 4], codebook.T)
        np.testing.assert_array_equal(codes[:, position], expected)


@pytest.mark.parametrize("bias", [True, False])
def test_responses_match_a_loop(embeddings, bias):
    layer = ProductProjection(8, 16, half_norm_bias=bias)
    layer.build((None, SIZE))
    codebook = np.random.default_rng(1).normal(size=(4, 16)).astype(np.float32)
    layer.set_weights([codebook])
    found = np.asarray(layer(embeddings[:3]))
    for row in range(3):
        for position in range(8):
            for symbol in range(16):
                vector, block = codebook[:, symbol], embeddings[row, 4 * position : 4 * position + 4]
                assert found[row, position, symbol] == pytest.approx(
                    block @ vector - bias * vector @ vector / 2, abs=1e-5
                )


def test_a_code_read_back_is_its_vectors_side_by_side(embeddings):
    layer = ProductProjection(8, 16)
    layer.build((None, SIZE))
    codebook = np.asarray(layer.codebook)
    codes = np.random.default_rng(2).integers(16, size=(5, 8))
    found = np.asarray(layer.read_back(np.eye(16, dtype=np.float32)[codes]))
    np.testing.assert_allclose(found, codebook.T[codes].reshape(5, SIZE), atol=1e-6)
    hot = np.eye(16, dtype=np.float32)[codes].reshape(5, -1)
    np.testing.assert_allclose(hot @ product_kernel(codebook, 8).T, found, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_layers_are_saved_exactly(tmp_path, embeddings, bias):
    entry = keras.Input((SIZE,))
    model = keras.Model(entry, ProductProjection(8, 16, half_norm_bias=bias)(entry))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(model.predict_on_batch(embeddings), again.predict_on_batch(embeddings))
    assert again.layers[-1].get_config() == model.layers[-1].get_config()


def test_a_drawn_codebook_follows_the_seed_and_fits_rotated_rows():
    """Read-back cosines of random directions: 0.81 at one bit a dimension, where single signs reach 0.80."""
    codebooks = [drawn_codebook(128, 32, 16, seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(codebooks[0], codebooks[1])
    assert not np.array_equal(codebooks[0], codebooks[2])
    blocks = unit(np.random.default_rng(5).normal(size=(400, 128))).reshape(-1, 4)
    nearest, _ = vq(blocks, codebooks[0].T)
    held, rows = codebooks[0].T[nearest].reshape(400, 128), blocks.reshape(400, 128)
    cosine = (held * rows).sum(1) / np.linalg.norm(held, axis=1)
    assert 0.803 < cosine.mean() < 0.82


def test_a_codebook_of_few_rows_is_refused():
    with pytest.raises(ConfigError, match="16 vectors need as many different rows"):
        fitted_codebook(np.zeros((40, 3)), 16, seed=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 2, "half_norm_bias": False}, "window: expected 1 but with"),
        ({"projection": "simplex", "window": 2}, "window: expected 1 but with"),
        ({"refinement_steps": 3}, "refinement_steps: expected 0 with projection 'product'"),
        ({"projection": "simplex", "half_norm_bias": False}, "half_norm_bias: expected true"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ConfigError, match=message):
        made(**settings)


def test_blocks_are_equal():
    with pytest.raises(ConfigError, match="expected one of 1, 2, 4, 8, 16, 32, received 12"):
        made(code_length=12)


def trained_like(hasher, seed=3):
    """The hasher with a codebook whose second blocks are not zero."""
    layer = hasher.model.get_layer("projection")
    codebook = np.asarray(layer.codebook)
    noise = np.random.default_rng(seed).normal(size=codebook.shape).astype(np.float32)
    layer.set_weights([codebook + 0.3 * codebook.std() * noise])
    return hasher


@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_positions_of_a_window_choose_the_best_whole_code(length):
    """Of all codes, tried one by one."""
    random = np.random.default_rng(length)
    responses, pairs = random.normal(size=(4, length, 3)), random.normal(size=(3, 3))
    found = joint_responses(np, responses, pairs)
    codes = np.array(list(itertools.product(range(3), repeat=length)))
    for row in range(4):
        worth = sum(
            responses[row, i, codes[:, i]] + pairs[codes[:, i], codes[:, (i + 1) % length]] for i in range(length)
        )
        if length > 2:  # shorter rings meet themselves within the reach
            np.testing.assert_array_equal(found[row].argmax(1), codes[worth.argmax()])


@settings(max_examples=30, deadline=None)
@given(length=st.integers(3, 40), symbols=st.integers(2, 8), seed=st.integers(0, 2**32 - 1))
def test_no_single_symbol_improves_a_code_of_a_window(length, symbols, seed):
    random = np.random.default_rng(seed)
    responses, pairs = random.normal(size=(1, length, symbols)), 0.2 * random.normal(size=(symbols, symbols))
    code = joint_responses(np, responses, pairs)[0].argmax(1)

    def worth(code):
        return sum(responses[0, i, code[i]] + pairs[code[i], code[(i + 1) % length]] for i in range(length))

    best = worth(code)
    for position in range(length):
        for symbol in range(symbols):
            other = code.copy()
            other[position] = symbol
            assert worth(other) <= best + 1e-6


def test_a_window_whose_next_block_is_zero_is_the_plain_product_frame(embeddings):
    plain, wide = made(), made(window=2)
    np.testing.assert_array_equal(plain.hash(embeddings, KEY), wide.hash(embeddings, KEY))
    assert plain.fingerprint != wide.fingerprint


def test_a_code_of_a_window_reads_back_into_both_blocks(embeddings):
    layer = trained_like(made(window=2)).model.get_layer("projection")
    codebook = np.asarray(layer.codebook)
    codes = np.random.default_rng(2).integers(16, size=(5, 8))
    expected = np.zeros((5, 8, 4), np.float32)
    for position in range(8):
        expected[:, position] += codebook[:4].T[codes[:, position]]
        expected[:, (position + 1) % 8] += codebook[4:].T[codes[:, position]]
    hot = np.eye(16, dtype=np.float32)[codes]
    np.testing.assert_allclose(np.asarray(layer.read_back(hot)), expected.reshape(5, SIZE), atol=1e-6)
    np.testing.assert_allclose(
        hot.reshape(5, -1) @ product_kernel(codebook, 8, 2).T, expected.reshape(5, SIZE), atol=1e-6
    )


def test_codes_of_a_window_are_nearest_to_their_rows(embeddings):
    """No other symbol at any position brings the code, read back, nearer."""
    hasher = trained_like(made(window=2))
    vectors = product_kernel(np.asarray(hasher.model.get_layer("projection").codebook), 8, 2).reshape(SIZE, 8, 16)
    orders = np.broadcast_to(hasher._orders(KEY, 60), (60, hasher.order_width)).astype(np.int32)
    rows, codes = hasher.head.keyed_rows(embeddings, orders), hasher.hash(embeddings, KEY)
    for row, code in zip(rows, codes, strict=True):
        held = vectors[:, np.arange(8), code].sum(1)
        others = held[:, None, None] - vectors[:, np.arange(8), code][:, :, None] + vectors
        remainder = np.square(row[:, None, None] - others).sum(0)
        assert remainder.min() >= np.square(row - held).sum() - 1e-5


@pytest.mark.parametrize(
    "settings", [{}, {"half_norm_bias": False}, {"bottleneck": 16}, {"key_kind": "permutation"}, {"window": 2}]
)
def test_the_hash_in_numpy_is_that_of_keras(embeddings, settings, tmp_path):
    hasher = trained_like(made(**settings))
    head = Head(*head_program(hasher.model))
    orders = np.broadcast_to(hasher._orders(KEY, 60), (60, hasher.order_width)).astype(np.int32)
    np.testing.assert_array_equal(head.hash(embeddings, orders), hasher.hash(embeddings, KEY))
    hasher.save(tmp_path)
    again = KerasFaceHasher.load(tmp_path)
    np.testing.assert_array_equal(again.hash(embeddings, KEY), hasher.hash(embeddings, KEY))
    assert again.fingerprint != made(alphabet_size=8).fingerprint


@pytest.mark.parametrize("settings", [{}, {"half_norm_bias": False}])
def test_asymmetric_distances_take_the_vectors_as_the_argmax_does(embeddings, settings):
    """A code is nearer to its own row than any code with one other symbol, on average over positions."""
    hasher = made(**settings)
    comparator = hasher.comparator_of("asymmetric")
    templates = hasher.templates(embeddings, KEY, "asymmetric")
    kernel = product_kernel(np.asarray(hasher.model.get_layer("projection").codebook), 8)
    vectors = kernel.reshape(SIZE, 8, 16)
    if settings:
        vectors = vectors - vectors.mean(2, keepdims=True)
    held = np.stack([sum(vectors[:, m, code[m]] for m in range(8)) for code in templates.codes])
    rows = templates.rows.astype(float)
    cosines = unit(held) @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T
    prepared = comparator.prepare(templates)
    np.testing.assert_allclose(comparator.all_pairs(prepared, prepared) / 10_000, 1 - cosines, atol=1e-3)


@pytest.mark.parametrize("attack", [closed_form, cross_entropy_descent])
def test_a_disclosed_code_gives_the_embedding_back(embeddings, attack):
    """Two bits a dimension: the code itself is at a cosine of 0.94, and knows no more."""
    system = attacked_hasher("product", made(code_length=16, learned_layer=False, whitening=0.0))
    leak = Leak(system, len(embeddings), codes=(system.hash(embeddings, KEY),), vectors=(system.vectors(KEY),))
    found = attack(leak)
    assert (found * embeddings).sum(1).mean() > 0.9


def test_reading_back_takes_no_mean_off_vectors_with_a_bias():
    hasher = made()
    layer = hasher.model.get_layer("projection")
    layer.set_weights([np.asarray(layer.codebook) + 0.2])
    system = attacked_hasher("product", hasher)
    np.testing.assert_array_equal(system.centred(system.public_vectors), system.public_vectors)
    half_norms = np.tile(np.square(np.asarray(layer.codebook)).sum(0) / 2, (8, 1))
    np.testing.assert_allclose(system.half_norms, half_norms, rtol=1e-5)
