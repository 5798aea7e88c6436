"""What each loss promises, beyond its formula."""

import math

import numpy as np
import pytest
from keras import ops

from iom.nn.losses.code.objectives import CODE_DISTANCES, RELAXED
from iom.nn.losses.code.pairs import (
    ARC_TRIPLET_MININGS,
    LINKABILITIES,
    TRIPLET_MININGS,
    code_cosine,
    distance_weights,
    expected_collision,
    linkability_loss,
    pair_masks,
)
from iom.nn.losses.code.symbols import (
    BINARIZATIONS,
    QUANTIZATIONS,
    WORDS,
    position_correlation,
    softened_words,
    symbol_imbalance,
)

LABELS = np.repeat(np.arange(4), 3)


def hard_codes(rows, length=200, alphabet_size=4, seed=0):
    symbols = np.random.default_rng(seed).integers(0, alphabet_size, (rows, length))
    return np.eye(alphabet_size, dtype="float32")[symbols]


@pytest.mark.parametrize("mining", ARC_TRIPLET_MININGS)
def test_the_arc_margin_raises_the_loss_at_every_angle(mining):
    """The predecessor's sits on the wrong side and lowers it."""
    measure = ARC_TRIPLET_MININGS[mining]
    labels = np.array([0, 0, 1])
    for mated in np.linspace(0.05, 1.55, 7):
        for non_mated in np.linspace(0.05, 1.55, 7):
            angles = np.full((3, 3), non_mated, "float32")
            angles[0, 1] = angles[1, 0] = mated
            values = [float(measure(angles, labels, margin=m)) for m in (0.0, 0.2, 0.5)]
            assert values[0] <= values[1] + 1e-6
            assert values[1] <= values[2] + 1e-6


@pytest.mark.parametrize("margin", [0.0, 0.3])
@pytest.mark.parametrize("mining", ARC_TRIPLET_MININGS)
def test_the_arc_triplet_pulls_mated_angles_down_and_others_up(mining, margin):
    import tensorflow as tf

    stream = np.random.default_rng(0)
    angles = tf.Variable(stream.uniform(0.1, 1.2, (12, 12)).astype("float32"))
    with tf.GradientTape() as tape:
        value = ARC_TRIPLET_MININGS[mining](angles, LABELS, margin=margin)
    gradient = np.asarray(tape.gradient(value, angles))
    mated, non_mated = map(np.asarray, pair_masks(LABELS))
    assert gradient[mated].min() >= 0
    assert gradient[non_mated].max() <= 0
    assert (gradient != 0).sum() >= 24


@pytest.mark.parametrize("mining", TRIPLET_MININGS)
def test_a_batch_told_apart_by_more_than_the_margin_has_no_triplet_loss(mining):
    distances = np.where(LABELS[:, None] == LABELS[None], 0.2, 0.7).astype("float32")
    assert float(TRIPLET_MININGS[mining](distances, LABELS, margin=0.4)) == 0
    assert float(TRIPLET_MININGS[mining](distances, LABELS, margin=0.6)) > 0


def test_distances_of_hard_codes_are_those_of_their_positions():
    codes = hard_codes(6)
    share = (codes.argmax(-1)[:, None] != codes.argmax(-1)[None]).mean(-1)
    for name, expected in (("euclidean", np.sqrt(share)), ("cosine", share)):
        reads, distance = CODE_DISTANCES[name]
        assert reads == RELAXED
        np.testing.assert_allclose(distance(ops.convert_to_tensor(codes)), expected, atol=2e-3)


@pytest.mark.parametrize("alphabet_size", [2, 8])
def test_unrelated_codes_scatter_as_points_of_a_sphere_do(alphabet_size):
    codes = hard_codes(150, 64, alphabet_size)
    cosines = np.asarray(code_cosine(expected_collision(codes, codes), alphabet_size))
    rest = cosines[np.triu_indices(150, 1)]
    assert abs(rest.mean()) < 0.005
    assert rest.std() == pytest.approx(1 / math.sqrt(64 * (alphabet_size - 1)), rel=0.05)
    np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-6)


def test_distance_weights_are_chances_and_flatten_the_density():
    stream = np.random.default_rng(1)
    rows = stream.normal(size=(400, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distances = np.sqrt(np.maximum(2 - 2 * rows @ rows.T, 0)).astype("float32")
    weights = np.asarray(distance_weights(distances, pair_masks(np.arange(400))[1], reach=1.4, cutoff=0.5, dimension=8))
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    assert weights[distances >= 1.4].max() == 0
    # On the sphere itself all distances are then drawn alike.
    drawn, _ = np.histogram(distances, bins=[0.7, 0.9, 1.1, 1.3], weights=weights)
    crowd, _ = np.histogram(distances, bins=[0.7, 0.9, 1.1, 1.3])
    assert crowd.max() / crowd.min() > 5
    assert drawn.max() / drawn.min() < 1.3


def test_a_split_position_fools_the_rounding_alone():
    """Half symbol 0 and half symbol 2 round to symbol 1, which is neither."""
    split = np.array([[[0.5, 0.0, 0.5]]], "float32")
    assert float(QUANTIZATIONS["rounding"](split)) == 0
    assert float(QUANTIZATIONS["one_max"](split)) == 0.5
    assert float(QUANTIZATIONS["entropy"](split)) == pytest.approx(math.log(2) / math.log(3))


@pytest.mark.parametrize("form", QUANTIZATIONS)
def test_a_decided_code_has_no_quantization_loss(form):
    assert abs(float(QUANTIZATIONS[form](hard_codes(4)))) < 1e-5


def test_imbalance_is_taken_at_each_position():
    """Two constant positions with different symbols look balanced only when they are pooled."""
    constant = np.eye(2, dtype="float32")[np.tile([0, 1], (6, 1))]
    assert abs(float(symbol_imbalance(constant)) - 1.0) < 1e-5
    even = np.eye(2, dtype="float32")[np.array([[0, 1], [1, 0]] * 3)]
    assert abs(float(symbol_imbalance(even))) < 1e-5


def test_correlation_of_copied_and_of_independent_positions():
    codes = hard_codes(400, 6, 2)
    copied = np.repeat(codes[:, :1], 6, axis=1)
    assert float(position_correlation(ops.convert_to_tensor(copied))) == pytest.approx(1, abs=1e-4)
    assert float(position_correlation(ops.convert_to_tensor(codes))) < 0.01
    assert float(position_correlation(ops.convert_to_tensor(codes[:, :1]))) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("alphabet_size", [2, 3, 5, 8, 32])
@pytest.mark.parametrize("name", WORDS)
def test_words_differ_as_they_should(name, alphabet_size):
    words = WORDS[name](alphabet_size)
    assert words.shape[0] == len({tuple(word) for word in words}) == alphabet_size
    assert set(words.reshape(-1)) <= {0.0, 1.0}
    distances = np.abs(words[:, None] - words[None]).sum(-1)[np.triu_indices(alphabet_size, 1)]
    if name == "binary":
        assert distances.min() == 1
    else:
        assert len(set(distances)) == 1


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("form", BINARIZATIONS)
def test_words_of_decided_codes_have_the_least_loss(name, form):
    words = WORDS[name](4)
    decided = softened_words(hard_codes(3), words)
    undecided = softened_words(np.full((3, 200, 4), 0.25, "float32"), words)
    least, most = (BINARIZATIONS[form](bits, slope=8.0) for bits in (decided, undecided))
    assert float(least) < 1e-3
    assert float(most) > float(least)


@pytest.mark.parametrize("form", LINKABILITIES)
def test_codes_that_tell_nothing_of_each_other_are_unlinkable(form):
    stream = np.random.default_rng(2)
    labels = np.repeat(np.arange(40), 4)
    distances = stream.normal(0.8, 0.02, (160, 160)).astype("float32")
    linked = distances - 0.05 * np.asarray(pair_masks(labels)[0])
    assert float(linkability_loss(distances, labels, form=form, resolution=1 / 512)) < 0.15
    assert float(linkability_loss(linked, labels, form=form, resolution=1 / 512)) > 1
