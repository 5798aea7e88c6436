"""Each loss, under each of its choices, against a plain loop; new ones must bring their oracle."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from iom.config import CODE_LOSSES, HasherConfig
from iom.nn.losses.code.objectives import (
    ASYMMETRIC,
    CLASS_COSINES,
    CODE_AND_ROW,
    COLLISIONS,
    COLLISIONS_ACROSS,
    HASHED_CLASS_COSINES,
    OBJECTIVES,
    RELAXED,
    SOFT,
    build_objectives,
)
from tests.nn.losses.loss_oracles import COMPARED, ORACLES, VARIANTS, Batch

LENGTH, ALPHABET, CLASSES, SIZE = 5, 3, 8, 6
HASHER = HasherConfig(code_length=LENGTH, alphabet_size=ALPHABET)


def make_batch(labels, seed, spread=2.0):
    stream = np.random.default_rng(seed)
    rows = len(labels)

    def codes():
        centres = stream.normal(size=(CLASSES, LENGTH, ALPHABET))
        values = np.exp(centres[labels] * spread + stream.normal(size=(rows, LENGTH, ALPHABET)))
        return values / values.sum(-1, keepdims=True)

    embeddings = stream.normal(size=(rows, SIZE))
    return Batch(
        labels=list(labels),
        embeddings=embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
        soft=codes(),
        second=codes(),
        cosines=stream.uniform(-0.99, 0.99, (rows, CLASSES)),
        codes=stream.normal(size=(rows, SIZE)) + 0.5,
        keyed=stream.normal(size=(rows, SIZE)) + 0.5,
    )


def parts(batch):
    collisions = [[batch.collision(i, j) for j in batch.rows] for i in batch.rows]
    across = [[batch.collision(i, j, batch.second) for j in batch.rows] for i in batch.rows]
    values = {
        COLLISIONS: collisions,
        COLLISIONS_ACROSS: across,
        SOFT: batch.soft,
        RELAXED: batch.soft,
        CLASS_COSINES: batch.cosines,
        HASHED_CLASS_COSINES: batch.cosines,
        ASYMMETRIC: [[batch.asymmetric(i, j) for j in batch.rows] for i in batch.rows],
        CODE_AND_ROW: np.stack([batch.codes, batch.keyed], axis=1),
    }
    return {name: np.asarray(value, "float32") for name, value in values.items()}


def compare(name, settings, batch, hasher=HASHER):
    config = CODE_LOSSES[name](**settings)
    loss = build_objectives([config], hasher)[name]
    truth = batch.embeddings if loss.reads_embeddings else np.array(batch.labels)
    value = float(loss(truth.astype("float32"), parts(batch)[loss.reads]))
    expected = ORACLES[name](config, hasher, batch)
    assert value == pytest.approx(expected, rel=2e-3, abs=2e-5)
    return value


LABELS = {
    "pairs": [0, 0, 1, 1, 2, 2, 3, 3],
    "uneven": [2, 0, 0, 1, 0, 1, 1, 5],
    "one subject": [0] * 8,
    "no mates": [0, 1, 2, 3, 4, 5, 6, 7],
}


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
@pytest.mark.parametrize("labels", LABELS)
def test_matches_a_loop(name, settings, labels):
    for seed, spread in ((0, 2.0), (1, 0.5)):
        compare(name, settings, make_batch(LABELS[labels], seed, spread))


@pytest.mark.parametrize(("name", "settings"), [each for each in VARIANTS if each.values[0] in COMPARED])
@pytest.mark.parametrize("labels", LABELS)
def test_matches_a_loop_under_the_asymmetric_comparison(name, settings, labels):
    hasher = HASHER.replace(comparison="asymmetric")
    value = compare(name, settings, make_batch(LABELS[labels], 0), hasher)
    if labels == "pairs" and settings.get("distance", "comparison") == "comparison":
        assert value != pytest.approx(compare(name, settings, make_batch(LABELS[labels], 0)), rel=1e-3)


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
@hypothesis.settings(max_examples=8)
@hypothesis.given(
    labels=strategies.lists(strategies.integers(0, CLASSES - 1), min_size=2, max_size=7),
    seed=strategies.integers(0, 2**16),
)
def test_matches_a_loop_on_any_batch(name, settings, labels, seed):
    compare(name, settings, make_batch(labels, seed))


def test_every_loss_of_the_configuration_is_built_and_has_an_oracle():
    assert set(CODE_LOSSES) == set(OBJECTIVES) == set(ORACLES)
