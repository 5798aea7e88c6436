import dataclasses

import numpy as np
import pytest

from iom.config import ScenarioConfig
from iom.errors import CodeError, DataError
from iom.evaluation.scores import OWN_KEY, STOLEN_KEY, code_scores, common_key, subject_key
from tests.scores import float_scores


def test_float_distances_are_one_minus_cosine(benchmark_and_embeddings):
    benchmark, embeddings = benchmark_and_embeddings
    scores = float_scores(benchmark, embeddings)
    assert (scores.system, scores.scenario, len(scores.by_key)) == ("float", "none", 1)
    distances = scores.by_key[0].distances
    for pair in (0, 17, len(benchmark) - 1):
        a, b = embeddings[benchmark.left[pair]], embeddings[benchmark.right[pair]]
        assert distances[pair] == pytest.approx(1 - float(a @ b), abs=1e-6)
    assert len(scores.by_key[0].mated) == benchmark.same.sum()


def test_code_distances_under_the_keys_of_each_scenario(benchmark_and_embeddings, index_of_max):
    benchmark, embeddings = benchmark_and_embeddings
    own, stolen = code_scores(index_of_max, benchmark, embeddings, ScenarioConfig(keys=2), seed=5)
    assert (own.scenario, stolen.scenario) == (OWN_KEY, STOLEN_KEY)
    for repetition in range(2):
        common = common_key(5, repetition)
        for pair in (0, 60, len(benchmark) - 1):
            sides = (benchmark.left[pair], benchmark.right[pair])
            under_common = [index_of_max.hash(embeddings[[i]], common) for i in sides]
            keys = [subject_key(5, repetition, int(benchmark.subjects[i])) for i in sides]
            under_own = [index_of_max.hash(embeddings[[i]], key) for i, key in zip(sides, keys, strict=True)]
            assert (keys[0] == keys[1]) == benchmark.same[pair]
            for scores, (a, b) in ((stolen, under_common), (own, under_own)):
                assert scores.by_key[repetition].distances[pair] == (a != b).sum()


def test_a_secret_key_drives_non_mated_codes_to_chance(benchmark_and_embeddings, index_of_max):
    benchmark, embeddings = benchmark_and_embeddings
    # Every embedding alike: only the keys can tell subjects apart.
    alike = np.repeat(embeddings[:1], len(embeddings), axis=0)
    own, stolen = code_scores(index_of_max, benchmark, alike, ScenarioConfig(keys=1), seed=1)
    assert own.by_key[0].mated.max() == 0
    assert own.by_key[0].non_mated.mean() == pytest.approx(64 * 3 / 4, rel=0.05)
    assert stolen.by_key[0].distances.max() == 0


def test_test_keys_follow_from_the_seed_alone():
    assert common_key(1, 0) == common_key(1, 0)
    keys = [common_key(1, 0), common_key(1, 1), common_key(2, 0)]
    keys += [subject_key(1, 0, 0), subject_key(1, 0, 1), subject_key(1, 1, 0)]
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])


def test_wrong_embeddings_are_refused(benchmark_and_embeddings, index_of_max):
    benchmark, embeddings = benchmark_and_embeddings
    with pytest.raises(DataError, match="expected an embedding for each of 120 images"):
        float_scores(benchmark, embeddings[:-1])
    with pytest.raises(DataError, match="unit-length"):
        next(code_scores(index_of_max, benchmark, 2 * embeddings, ScenarioConfig(keys=1), seed=1))


def test_codes_outside_the_stated_alphabet_are_refused(benchmark_and_embeddings, index_of_max):
    benchmark, embeddings = benchmark_and_embeddings
    lying = dataclasses.replace(index_of_max, alphabet_size=3)
    with pytest.raises(CodeError, match="expected symbols 0 to 2"):
        next(code_scores(lying, benchmark, embeddings, ScenarioConfig(keys=1), seed=1))
