"""Evaluation of codes that are compared with the keyed rows of probes, against loops over pairs."""

import dataclasses

import numpy as np
import pytest

from iom.attacks import ATTACKS
from iom.baselines import BASELINES
from iom.codes.asymmetric import UNIT, CodeVectors, asymmetric_distances, row_lengths
from iom.config import BenchmarkConfig, CodeConfig, EvaluateConfig, ReportConfig, ScenarioConfig
from iom.data.benchmarks.folders import folder_identification
from iom.data.benchmarks.identification import read_megaface
from iom.errors import ConfigError
from iom.evaluation.attacks import (
    AttackEvaluator,
    AttackKeys,
    Victims,
    attack_rows,
    attacked_system,
    make_leak,
    measuring_keys,
)
from iom.evaluation.evaluate import collect
from iom.evaluation.identification import DistractorEvaluator, IdentificationEvaluator, search_templates
from iom.evaluation.pairs import LinkabilityEvaluator, compared_pairs
from iom.evaluation.records import AttackRow, EmbedderSummary, LinkabilityResult
from iom.evaluation.score_files import write_system_scores
from iom.evaluation.scores import STOLEN_KEY, EvaluationInputs, common_key
from iom.evaluation.systems import asymmetric_system, baseline_system, comparisons_of
from iom.keys import TransformKey
from tests.data import layouts

SIZE = 32
CODE = CodeConfig(code_length=64, alphabet_size=4)


@pytest.fixture
def system():
    return asymmetric_system(baseline_system("grp", SIZE, CODE, 1))


@pytest.fixture
def inputs(system, benchmark_and_embeddings):
    config = EvaluateConfig(
        benchmark=BenchmarkConfig(source="folder"),
        code=CODE,
        scenario=ScenarioConfig(systems=("grp",), comparisons=("asymmetric",), keys=2, bootstrap=5),
        report=ReportConfig(keys=2, replicates=5, pairs=300, victims=6, old_keys=1),
    )
    embedder = EmbedderSummary(name="made", embedding_size=SIZE)
    return EvaluationInputs(config, *benchmark_and_embeddings, {system.name: system}, embedder, full=True)


def distance(protection, stored, probe, keys):
    """Of two embeddings under their keys, by look-ups of the probe's responses."""
    (code,), row = protection.hash(stored[None], keys[0]), protection.rows(probe[None], keys[1])
    vectors = CodeVectors.of_kernel(protection.public_projection.reshape(SIZE, -1), 4)
    product = sum(int(responses[symbol]) for responses, symbol in zip(vectors.responses(row)[0], code, strict=True))
    return int(asymmetric_distances(product, vectors.lengths(code[None])[0], row_lengths(row)[0]))


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_that_are_linear_behind_the_key_have_rows_near_their_own_codes(name):
    system = baseline_system(name, SIZE, CODE, 1)
    if len(comparisons_of(system)) == 1:
        with pytest.raises(ConfigError, match="by symbols"):
            asymmetric_system(system)
        return
    system, generator = asymmetric_system(system), np.random.default_rng(1)
    rows = generator.normal(size=(20, SIZE)).astype(np.float32)
    keys = [TransformKey.generate() for _ in range(2)]
    for given in (keys[0], [keys[number % 2] for number in range(20)]):
        templates = system.templates(rows, given)
        table = system.comparator.all_pairs(templates, templates)
        np.testing.assert_array_equal(table.argmin(axis=0), np.arange(20))
        assert np.diag(table).max() < 0.5 * UNIT


def test_the_left_image_of_a_pair_is_stored_and_the_right_one_the_probe(system, inputs):
    benchmark, rows = inputs.benchmark, inputs.embeddings
    stolen = next(entry for entry in inputs.scores(system) if entry.scenario == STOLEN_KEY)
    assert stolen.system == "grp, asymmetric"
    for number, scored in enumerate(stolen.by_key):
        key = common_key(inputs.config.seed, number)
        for pair in (0, 7, 300, len(benchmark) - 1):
            left, right = rows[benchmark.left[pair]], rows[benchmark.right[pair]]
            assert scored.distances[pair] == distance(system.made_of, left, right, (key, key))
        assert np.issubdtype(scored.distances.dtype, np.integer)


def test_a_report_has_the_row_with_its_unit_and_everything_else(inputs):
    report = collect(inputs)
    eer = report.row("grp, asymmetric", STOLEN_KEY, "eer").value
    assert (
        0
        < eer
        < collect(dataclasses.replace(inputs, systems={"grp": baseline_system("grp", SIZE, CODE, 1)}))
        .row("grp", STOLEN_KEY, "eer")
        .value
    )
    assert "ten-thousandths" in report.systems["grp, asymmetric"]["unit"]
    assert report.systems["grp, asymmetric"]["code_length"] == 64
    for topic in ("identification", "linkability", "attacks", "stolen_store", "histograms"):
        assert {entry.system for entry in getattr(report.sections, topic)} == {"grp, asymmetric"}
    assert all(np.isfinite(row.value) for row in report.rows)


def test_linking_compares_the_code_of_one_key_with_the_row_of_the_other(system, inputs, monkeypatch):
    seen = []
    comparator = system.comparator

    class Watched:
        unit = comparator.unit

        def paired(self, a, b):
            seen.append(comparator.paired(a, b))
            return seen[-1]

        def __getattr__(self, name):
            return getattr(comparator, name)

    watched = dataclasses.replace(system, own_comparator=Watched())
    evaluator = LinkabilityEvaluator(inputs)
    (result,) = (each for each in evaluator.run(watched) if isinstance(each, LinkabilityResult))
    keys = [common_key(inputs.config.seed, number) for number in range(3)]
    pairs = compared_pairs(inputs.benchmark, named=True, limit=inputs.config.report.pairs, seed=inputs.config.seed)
    left, right = np.concatenate(pairs, axis=1)
    rows = inputs.embeddings
    for number, found in enumerate(seen):
        for pair in (0, 50, len(left) - 1):
            expected = distance(system.made_of, rows[left[pair]], rows[right[pair]], keys[number : number + 2])
            assert found[pair] == expected
    assert abs(np.mean(seen) - UNIT) < 0.1 * UNIT
    assert result.d_sys < 0.3


def test_galleries_are_stored_and_probes_are_rows(system):
    generator = np.random.default_rng(4)
    subjects = np.repeat(np.arange(10), 2)
    rows = generator.normal(size=(10, SIZE))[subjects] + 1.1 * generator.normal(size=(20, SIZE))
    rows, key = rows.astype(np.float32), TransformKey(bytes(32))
    templates = system.templates(rows, key)
    gallery, probes = np.arange(0, 20, 2), np.arange(1, 20, 2)
    found = search_templates(system.comparator, templates, subjects, gallery=gallery, probes=probes)
    for probe, nearest, rank in zip(probes, found.best, found.rank, strict=True):
        distances = [distance(system.made_of, rows[one], rows[probe], (key, key)) for one in gallery]
        assert nearest == min(distances)
        assert rank == sum(each <= distances[subjects[probe]] for each in distances)


@pytest.mark.parametrize("pooling", ["mean", "vote", "nearest"])
def test_several_enrolment_images_against_a_loop(tmp_path, system, pooling):
    counts = {"Ada": 5, "Bea": 4, "Cat": 4, "Dan": 3, "Eve": 1}
    layouts.touch(tmp_path, *(f"{name}/{i}.png" for name, n in counts.items() for i in range(n)))
    benchmark = folder_identification(tmp_path, gallery_images=2)
    labels = np.array([sorted(counts).index(path.parent.name) for path in benchmark.images])
    generator = np.random.default_rng(5)
    rows = generator.normal(size=(5, SIZE))[labels] + 1.2 * generator.normal(size=(len(labels), SIZE))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    config = EvaluateConfig(scenario=ScenarioConfig(keys=1))
    config = config.replace(benchmark=config.benchmark.replace(pooling=pooling))
    evaluator = IdentificationEvaluator(EvaluationInputs(config, benchmark, rows, {}, EmbedderSummary(name="made")))
    found = dict(evaluator.figures(system, STOLEN_KEY))
    key, made, hits = common_key(1, 0), system.made_of, []
    enrolled = [name for name in sorted(counts) if counts[name] > 2]
    of = {name: rows[labels == number] for number, name in enumerate(sorted(counts))}

    def to_template(name, probe):
        own = of[name][:2]
        if pooling == "mean":
            centre = own.sum(axis=0, dtype=np.float64)
            return distance(made, (centre / np.linalg.norm(centre)).astype(np.float32), probe, (key, key))
        codes = made.hash(own, key)
        if pooling == "nearest":
            return min(distance(made, one, probe, (key, key)) for one in own)
        voted = np.array([[np.bincount(column).argmax() for column in codes.T]])
        return int(made.asymmetric_distances(voted, made.rows(probe[None], key))[0])

    for gallery in ("1", "2"):
        held = enrolled[int(gallery) - 1 :: 2]
        hits = [
            sum(to_template(one, probe) <= to_template(name, probe) for one in held) == 1
            for name in held
            for probe in of[name][2:]
        ]
        assert found[f"{gallery}/cmc_rank_1"] == pytest.approx(np.mean(hits))


def test_distractors_are_stored_and_probes_are_rows(tmp_path, system):
    benchmark = read_megaface(*layouts.megaface(tmp_path))
    labels = np.concatenate([benchmark.subjects, 3 + np.arange(12)])
    generator = np.random.default_rng(2)
    rows = generator.normal(size=(labels.max() + 1, SIZE))[labels] + 1.4 * generator.normal(size=(len(labels), SIZE))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    config, key = EvaluateConfig(scenario=ScenarioConfig(keys=1)), common_key(1, 0)
    evaluator = DistractorEvaluator(EvaluationInputs(config, benchmark, rows, {}, EmbedderSummary(name="made")))
    found, ranks = dict(evaluator.figures(system, STOLEN_KEY)), []
    for probe in range(9):
        to_row = [distance(system.made_of, rows[i], rows[probe], (key, key)) for i in range(21)]
        mates = [i for i in range(9) if i != probe and benchmark.subjects[i] == benchmark.subjects[probe]]
        ranks += [1 + sum(to_row[i] <= to_row[mate] for i in range(9, 21)) for mate in mates]
    for rank in range(1, 11):
        assert found[f"distractors_rank_{rank}"] == np.mean(np.array(ranks) <= rank)


@pytest.fixture
def victims():
    generator = np.random.default_rng(6)
    centres = generator.normal(size=(6, 1, SIZE))
    samples = centres + 0.3 * generator.normal(size=(6, 3, SIZE))
    people = generator.normal(size=(400, SIZE))
    samples, people = (each / np.linalg.norm(each, axis=-1, keepdims=True) for each in (samples, people))
    return Victims(samples.astype(np.float32), people.astype(np.float32), np.arange(400) // 2)


def test_an_attackers_codes_are_the_same_and_acceptance_is_the_matchers(system, victims):
    attacked, plain = (attacked_system(each, SIZE) for each in (system, baseline_system("grp", SIZE, CODE, 1)))
    keys = AttackKeys(measuring_keys(1, "old", 1), measuring_keys(1, "fresh", 40))
    leaks = [make_leak(each, victims, keys.old, seed=1) for each in (attacked, plain)]
    np.testing.assert_array_equal(leaks[0].codes[0], leaks[1].codes[0])
    rebuilt = [ATTACKS["closed_form"].reconstruct(leak) for leak in leaks]
    np.testing.assert_array_equal(*rebuilt)
    owners = np.arange(6)
    (key,), made = keys.old, system.made_of
    both = list(zip(victims.samples[:, 0], rebuilt[0], strict=True))
    expected = [distance(made, sample, found, (key, key)) for sample, found in both]
    assert leaks[0].oracle(rebuilt[0], owners).tolist() == expected
    assert leaks[1].oracle(rebuilt[0], owners).max() <= 64
    threshold = float(np.median(expected))
    (row,) = attack_rows(attacked, threshold, ["closed_form"], victims, keys, replicates=0)
    assert row.sar == np.mean(np.array(expected) <= threshold)
    fresh = [distance(made, sample, found, (one, one)) <= threshold for one in keys.fresh for sample, found in both]
    assert row.prar == pytest.approx(np.mean(fresh))


def test_every_attack_runs_on_it(system, inputs):
    report = inputs.config.report.replace(attack_names=("closed_form", "hill_climbing", "dictionary", "sorted_values"))
    evaluator = AttackEvaluator(dataclasses.replace(inputs, config=inputs.config.replace(report=report)))
    rows = [each for each in evaluator.run(system) if isinstance(each, AttackRow)]
    assert [row.attack for row in rows] == list(report.attack_names)
    assert all(0 < row.threshold < 2 * UNIT and row.threshold > 64 for row in rows)


def test_files_of_scores_have_names_without_commas(system, inputs, tmp_path):
    paths = write_system_scores(inputs.benchmark, inputs.scores(system), tmp_path, "csv")
    assert paths[0].name == "grp-asymmetric-own_key-0.csv"
