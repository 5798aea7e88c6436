"""Protocols from their files to their figures, with embeddings made up by file name."""

import itertools

import numpy as np
import pytest

from iom.codes.comparators import CosineComparator
from iom.config import BenchmarkConfig, CodeConfig, EvaluateConfig, ScenarioConfig
from iom.data.benchmarks.base import PairBenchmark
from iom.data.benchmarks.folders import folder_identification
from iom.data.benchmarks.identification import read_blufr, read_ijb_identification, read_ijb_pairs, read_megaface
from iom.data.benchmarks.pair_lists import read_youtube_faces
from iom.errors import ConfigError, DataError
from iom.evaluation.identification import (
    BlufrEvaluator,
    DistractorEvaluator,
    IdentificationEvaluator,
    identification_figures,
)
from iom.evaluation.records import EmbedderSummary
from iom.evaluation.scores import NO_KEY, STOLEN_KEY, EvaluationInputs, common_key, figures, float_system
from iom.evaluation.systems import baseline_system
from iom.metrics.identification import search_gallery
from iom.metrics.verification import error_curve
from iom.models.embedder import embed_benchmark
from tests.data import layouts
from tests.scores import float_scores

SIZE = 32


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def faces(subjects, noise, seed=0):
    rng = np.random.default_rng(seed)
    subjects = np.asarray(subjects)
    centres = rng.normal(size=(subjects.max() + 1, SIZE))
    return unit(centres[subjects] + noise * rng.normal(size=(len(subjects), SIZE)))


def made(evaluator, benchmark, embeddings, *, keys=1, pooling="mean"):
    """An evaluator of these inputs."""
    config = EvaluateConfig(
        seed=1, benchmark=BenchmarkConfig(pooling=pooling), scenario=ScenarioConfig(systems=("float",), keys=keys)
    )
    return evaluator(EvaluationInputs(config, benchmark, embeddings, {}, EmbedderSummary(name="made")))


class FakeEmbedder:
    """An embedding for each file: near that of its subject, as the file's place tells it."""

    def __init__(self, subject_of, noise=0.3):
        self.subject_of, self.noise = subject_of, noise

    def embed_files(self, paths, *, progress=False):
        return faces([self.subject_of(path) for path in paths], self.noise)


def all_distances(comparator, templates, subjects):
    table = comparator.all_pairs(templates, templates)
    left, right = np.triu_indices(len(subjects), k=1)
    same = subjects[left] == subjects[right]
    return table[left, right][same], table[left, right][~same]


def test_identification_figures_leave_out_what_cannot_be_told():
    table = np.arange(60).reshape(20, 3)
    found = search_gallery(table, [0, 1, 2] + [9] * 17, [0, 1, 2])
    names = {name for name, *_ in identification_figures([[found]], np.arange(20), replicates=0)}
    assert "dir_at_fpir_1e-1_rank_1" in names
    assert "dir_at_fpir_1e-2_rank_1" not in names
    assert "cmc_rank_10" in names
    only = search_gallery(table[:3], [0, 1, 2], [0, 1, 2])
    assert all(name.startswith("cmc") for name, *_ in identification_figures([[only]], np.arange(3), replicates=0))


def test_youtube_faces_from_files_to_figures(tmp_path):
    benchmark = read_youtube_faces(*layouts.youtube_faces(tmp_path))
    embedder = FakeEmbedder(lambda path: layouts.SUBJECTS.index(path.parts[-3]))
    rows = embed_benchmark(embedder, benchmark)
    images = embedder.embed_files(benchmark.images)
    for template in range(benchmark.templates):
        mean = images[benchmark.pooling.template == template].mean(axis=0)
        np.testing.assert_allclose(rows[template], mean / np.linalg.norm(mean), atol=1e-6)
    found = dict(figures(float_scores(benchmark, rows).by_key[0]))
    assert (found["eer"], found["accuracy"]) == (0, 1)
    with pytest.raises(DataError, match="each of 8 templates"):
        float_scores(benchmark, images)


def ijb_subject(path):
    return int(path.name.split("_")[0]) // 10


def test_ijb_verification(tmp_path):
    benchmark = read_ijb_pairs(*layouts.ijb(tmp_path))
    rows = embed_benchmark(FakeEmbedder(ijb_subject), benchmark)
    assert dict(figures(float_scores(benchmark, rows).by_key[0]))["eer"] == 0
    assert isinstance(benchmark, PairBenchmark)


@pytest.mark.parametrize("pooling", ["mean", "vote"])
def test_ijb_identification_in_both_galleries(tmp_path, pooling):
    benchmark = read_ijb_identification(*layouts.ijb(tmp_path))
    embeddings = FakeEmbedder(ijb_subject, noise=0.2).embed_files(benchmark.images)
    systems = [baseline_system("grp", SIZE, CodeConfig(code_length=256, alphabet_size=4))]
    if pooling == "mean":
        systems = [float_system(SIZE), *systems]
    evaluator = made(IdentificationEvaluator, benchmark, embeddings, keys=2, pooling=pooling)
    found = {(f.system, f.scenario, f.metric): f.value for system in systems for f in evaluator.run(system)}
    places = {key[:2] for key in found}
    assert ("grp", "own_key") in places
    assert ("grp", "stolen_key") in places
    for system, scenario in places:
        # Of six probes two are in each gallery, and four are not.
        for name in ("G1/cmc_rank_1", "G2/cmc_rank_1", "cmc_rank_1"):
            assert found[system, scenario, name] == 1
    if pooling == "mean":
        assert ("float", "none") in places


def test_galleries_apart_then_averaged(tmp_path):
    """Against a loop over probes, with noise that leaves errors."""
    benchmark = read_ijb_identification(*layouts.ijb(tmp_path))
    embeddings = faces([ijb_subject(path) for path in benchmark.images], 4.0, seed=3)
    found = dict(made(IdentificationEvaluator, benchmark, embeddings).figures(float_system(SIZE), NO_KEY))
    rows = benchmark.pooling.pooled(embeddings).astype(float)
    rates = []
    for name, gallery in benchmark.galleries.items():
        hits = []
        for probe in benchmark.probes:
            subjects = benchmark.subjects[gallery]
            if benchmark.subjects[probe] not in subjects:
                continue
            cosines = rows[gallery] @ rows[probe]
            own = cosines[subjects == benchmark.subjects[probe]][0]
            hits.append(np.sum(cosines >= own) == 1)
        rates.append(np.mean(hits))
        assert found[f"{name}/cmc_rank_1"] == rates[-1]
    assert found["cmc_rank_1"] == np.mean(rates)
    for name in ("cmc_rank_1", "G1/cmc_rank_1", "G2/cmc_rank_1"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("pooling", ["mean", "vote", "nearest"])
def test_several_enrolment_images_against_a_loop(tmp_path, images, pooling):
    counts = {"Ada": 5, "Bea": 4, "Cat": 4, "Dan": 3, "Eve": 1}
    layouts.touch(tmp_path, *(f"{name}/{i}.png" for name, n in counts.items() for i in range(n)))
    benchmark = folder_identification(tmp_path, gallery_images=images)
    labels = [sorted(counts).index(path.parent.name) for path in benchmark.images]
    embeddings = faces(labels, 2.0, seed=5)
    system = baseline_system("grp", SIZE, CodeConfig(code_length=64, alphabet_size=4))
    found = dict(made(IdentificationEvaluator, benchmark, embeddings, pooling=pooling).figures(system, STOLEN_KEY))
    key = common_key(1, 0)
    rows = {name: embeddings[[p.parent.name == name for p in benchmark.images]] for name in counts}
    enrolled = [name for name in sorted(counts) if counts[name] > images]
    distance = {}
    for name in enrolled:
        own = rows[name][:images]
        if pooling == "mean":
            centre = own.sum(axis=0) / np.linalg.norm(own.sum(axis=0))
            templates = system.hash(centre[None].astype(np.float32), key)
        else:
            templates = system.hash(own, key)
            if pooling == "vote":
                templates = np.array([[np.bincount(column).argmax() for column in templates.T]])
        for other in counts:
            first = images if other in enrolled else 0
            for i, code in enumerate(system.hash(rows[other], key)[first:]):
                distance[other, i, name] = min(int((code != row).sum()) for row in templates)
    for gallery in ("1", "2"):
        held = enrolled[int(gallery) - 1 :: 2]
        hits = []
        for other, i, name in distance:
            if other == name and name in held:
                beaten = [distance[other, i, one] <= distance[other, i, name] for one in held]
                hits.append(sum(beaten) == 1)
        assert found[f"{gallery}/cmc_rank_1"] == pytest.approx(np.mean(hits))


def test_the_nearest_is_for_probes_of_one_image(tmp_path):
    benchmark = read_ijb_identification(*layouts.ijb(tmp_path))
    rows = FakeEmbedder(ijb_subject).embed_files(benchmark.images)
    with pytest.raises(ConfigError, match="'nearest' is for probes of one image"):
        list(made(IdentificationEvaluator, benchmark, rows, pooling="nearest").figures(float_system(SIZE), NO_KEY))


def test_too_few_images_to_enrol(tmp_path):
    layouts.touch(tmp_path, "Ada/1.png", "Ada/2.png", "Ada/3.png", "Bea/1.png", "Bea/2.png")
    with pytest.raises(DataError, match="two subjects or more with 3 images, received 1"):
        folder_identification(tmp_path, gallery_images=2)
    with pytest.raises(DataError, match="gallery_images: expected 1 or more"):
        folder_identification(tmp_path, gallery_images=0)


def test_a_vote_needs_symbols(tmp_path):
    benchmark = read_ijb_identification(*layouts.ijb(tmp_path))
    rows = FakeEmbedder(ijb_subject).embed_files(benchmark.images)
    with pytest.raises(ConfigError, match="float has no symbols"):
        list(made(IdentificationEvaluator, benchmark, rows, pooling="vote").figures(float_system(SIZE), NO_KEY))
    with pytest.raises(ConfigError, match="expected 'mean', 'vote' or 'nearest', received 'median'"):
        made(IdentificationEvaluator, benchmark, rows, pooling="median")
    with pytest.raises(DataError, match="each of 48 images"):
        made(IdentificationEvaluator, benchmark, rows[1:])


def test_distractors_against_a_loop(tmp_path):
    benchmark = read_megaface(*layouts.megaface(tmp_path))
    labels = np.concatenate([benchmark.subjects, 3 + np.arange(12)])
    rows = faces(labels, 1.5, seed=2)
    ranks = []
    for probe, mate in itertools.permutations(range(9), 2):
        if benchmark.subjects[probe] == benchmark.subjects[mate]:
            own = 1 - rows[probe] @ rows[mate]
            ranks.append(1 + sum(1 - rows[probe] @ rows[i] <= own for i in range(9, 21)))
    found = dict(made(DistractorEvaluator, benchmark, rows).figures(float_system(SIZE), NO_KEY))
    for rank in range(1, 11):
        assert found[f"distractors_rank_{rank}"] == np.mean(np.array(ranks) <= rank)
    system = baseline_system("grp", SIZE, CodeConfig(code_length=64))
    of_keys = dict(made(DistractorEvaluator, benchmark, rows, keys=2).figures(system, STOLEN_KEY))
    assert len(of_keys) == 30
    for rank in range(1, 11):
        name = f"distractors_rank_{rank}"
        assert of_keys[f"{name}_low"] <= of_keys[name] <= of_keys[f"{name}_high"]
    with pytest.raises(DataError, match="each of 21 images"):
        made(DistractorEvaluator, benchmark, rows[1:])


def test_blufr_against_the_whole_tables(tmp_path):
    protocol = read_blufr(*layouts.blufr(tmp_path))
    rows = faces(protocol.subjects, 0.9)
    comparator = CosineComparator()
    found = dict(made(BlufrEvaluator, protocol, rows).figures(float_system(SIZE), NO_KEY))
    rates, dirs = [], []
    for trial in protocol.trials:
        labels = protocol.subjects[trial.test]
        templates = comparator.prepare(rows[trial.test])
        rates.append(1 - error_curve(*all_distances(comparator, templates, labels)).fnmr_at_fmr(1e-3))
        table = 1 - rows[trial.probes] @ rows[trial.gallery].T
        searches = search_gallery(table, protocol.subjects[trial.probes], protocol.subjects[trial.gallery])
        dirs.append(searches.identification_rates_at_fpirs([1e-2])[0])
    assert found["vr_at_fmr_1e-3_mean"] == pytest.approx(np.mean(rates))
    assert found["dir_at_fpir_1e-2"] == pytest.approx(np.mean(dirs) - np.std(dirs, ddof=1))
    with pytest.raises(DataError, match="each of 18 images"):
        made(BlufrEvaluator, protocol, rows[1:])
