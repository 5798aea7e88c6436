"""Each loss, under each of its choices, against a plain loop; new ones must bring their oracle."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from iom.config.hashing import HasherConfig
from iom.config.losses import CHOICES, WEIGHTS, CodeLossConfig
from iom.nn.losses.code.code_loss import (
    CLASS_COSINES,
    COLLISIONS,
    COLLISIONS_ACROSS,
    HASHED_CLASS_COSINES,
    RELAXED,
    SOFT,
)
from iom.nn.losses.code.objectives import CLASS_HEADS, OBJECTIVES, READS_EMBEDDINGS, build_objectives
from tests.nn.losses.loss_oracles import OFF, ORACLES, VARIANTS, Batch

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
    }
    return {name: np.asarray(value, "float32") for name, value in values.items()}


def compare(name, settings, batch):
    config = CodeLossConfig(**{**OFF, name: 1.0, **settings})
    loss = build_objectives(config, HASHER)[name]
    truth = batch.embeddings if name in READS_EMBEDDINGS else np.array(batch.labels)
    value = float(loss(truth.astype("float32"), parts(batch)[loss.reads]))
    expected = ORACLES[name](config, HASHER, batch)
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


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
@hypothesis.settings(max_examples=8)
@hypothesis.given(
    labels=strategies.lists(strategies.integers(0, CLASSES - 1), min_size=2, max_size=7),
    seed=strategies.integers(0, 2**16),
)
def test_matches_a_loop_on_any_batch(name, settings, labels, seed):
    compare(name, settings, make_batch(labels, seed))


def test_each_weight_has_a_loss_and_each_loss_an_oracle():
    assert set(WEIGHTS) == set(OBJECTIVES) == set(ORACLES)


def test_the_choices_of_the_configuration_are_the_tables():
    from iom.nn.losses.code.arc_triplet import ARC_TRIPLET_MININGS
    from iom.nn.losses.code.binarization import BINARIZATIONS, WORDS
    from iom.nn.losses.code.code_distances import CODE_DISTANCES
    from iom.nn.losses.code.linkability import LINKABILITIES
    from iom.nn.losses.code.objectives import CLASSIFICATION_FORMS
    from iom.nn.losses.code.quantization import QUANTIZATIONS
    from iom.nn.losses.code.triplet import TRIPLET_MININGS

    tables = {
        "triplet_mining": TRIPLET_MININGS,
        "triplet_distance": CODE_DISTANCES,
        "arc_triplet_mining": ARC_TRIPLET_MININGS,
        "quantization_form": QUANTIZATIONS,
        "binarization_words": WORDS,
        "binarization_form": BINARIZATIONS,
        "linkability_form": LINKABILITIES,
        "classification_form": CLASSIFICATION_FORMS,
        "classification_head": CLASS_HEADS,
    }
    assert {field: set(table) for field, table in tables.items()} == {
        field: set(choices) for field, choices in CHOICES.items()
    }
