import dataclasses
import json
import types

import numpy as np
import pytest

from iom.config import EvaluateConfig, ReportConfig, ScenarioConfig
from iom.data.benchmarks.base import PairBenchmark
from iom.data.benchmarks.folders import split_galleries
from iom.errors import ConfigError, DataError
from iom.evaluation.attacks import draw_victims
from iom.evaluation.evaluate import collect, prepare
from iom.evaluation.identification import SearchEvaluator, identification_figures, search_templates
from iom.evaluation.pairs import LinkabilityEvaluator, _bounds_of_shares, compared_pairs, hardest_pairs, names_subjects
from iom.evaluation.records import Estimate, ReportData, read_report
from iom.evaluation.report.text import report_tables, terminal_text
from iom.evaluation.report.write import report_page, write_figures, write_report
from iom.evaluation.scores import float_system
from iom.metrics.likelihood import LikelihoodRatio
from iom.metrics.protection import system_linkability
from iom.models.artifact import Calibration


def test_every_section_is_plain_data_that_is_read_back(data, tmp_path):
    tree = data.model_dump(mode="json")
    assert all(found for topic, found in data.sections if topic not in ("calibration", "reliability"))
    assert json.loads(json.dumps(tree, allow_nan=False)) == tree
    write_report(data, tmp_path)
    assert read_report(tmp_path) == data == ReportData.model_validate(tree)
    protocols = {row["protocol"].partition(", ")[2] for row in tree["rows"]}
    assert {"", "search", "two keys", "closed_form, 1 records"} <= protocols
    assert tree["environment"]["cores"] >= 1
    assert 3 <= len(tree["summary"]) <= 6


def test_curves_are_means_over_keys_within_their_bands(data, scores):
    for curve, entry in zip(data.sections.curves, scores, strict=True):
        for number in (0, 20, 47):
            at = [
                scored.ranked.curve().fnmr_at_fmr(min(1.0, curve.fmr[number] * (1 + 1e-9))) for scored in entry.by_key
            ]
            assert curve.fnmr[number] == pytest.approx(np.mean(at))
        assert np.all(np.diff(curve.fnmr) <= 1e-12)
        assert np.all(np.array(curve.low) <= np.array(curve.high))


def test_histograms_hold_every_pair(data):
    for entry in data.sections.histograms:
        assert sum(entry.mated) == pytest.approx(1)
        assert sum(entry.non_mated) == pytest.approx(1)


def test_search_figures_are_those_of_the_protocol(data, inputs):
    subjects = inputs.benchmark.subjects
    system = float_system(inputs.embeddings.shape[1])
    templates = system.templates(inputs.embeddings, None)
    galleries, probes = split_galleries(subjects)
    by_gallery = [
        search_templates(system.comparator, templates, subjects, gallery=gallery, probes=probes)
        for gallery in galleries.values()
    ]
    expected = [
        {name: value for name, value, _ in identification_figures([[searches]], subjects[probes], replicates=0)}
        for searches in by_gallery
    ]
    (section,) = (e for e in data.sections.identification if e.system == "float")
    assert "cmc_rank_1" in section.figures
    assert "dir_at_fpir_1e-1_rank_1" in section.figures
    for name, figure in section.figures.items():
        assert figure.value == pytest.approx(np.mean([e[name] for e in expected]))
        assert figure.low <= figure.high


def test_d_sys_is_that_of_a_loop(inputs, made_config):
    benchmark = inputs.benchmark
    subjects = benchmark.subjects
    system = inputs.systems["grp"]
    (left, right), other = compared_pairs(benchmark, named=True, limit=10**6, seed=1)
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == {
        (a, b) for a in range(len(subjects)) for b in range(len(subjects)) if a != b and subjects[a] == subjects[b]
    }
    assert (subjects[other[0]] != subjects[other[1]]).all()
    config = made_config.replace(report=ReportConfig(keys=2, replicates=10, pairs=10**6), seed=1)
    section = next(LinkabilityEvaluator(dataclasses.replace(inputs, config=config)).run(system))
    counts = [
        np.rint(np.array(section.mated_share) * section.mated),
        np.rint(np.array(section.non_mated_share) * section.non_mated),
    ]
    assert section.d_sys == pytest.approx(system_linkability(*counts))
    assert section.d_sys < 0.15
    assert section.low <= section.d_sys <= section.high


def test_a_float_embedding_links_fully_and_is_accepted(data):
    (entry,) = (e for e in data.sections.linkability if e.system == "float")
    assert entry.d_sys > 0.8
    (row,) = (e for e in data.sections.attacks if e.system == "float")
    assert row.prar == 1


def test_without_names_the_listed_pairs_are_compared(inputs):
    benchmark = inputs.benchmark
    mated, other = compared_pairs(benchmark, named=False, limit=10**6, seed=1)
    assert mated.shape[1] == 2 * benchmark.same.sum()
    assert other.shape[1] == 2 * (~benchmark.same).sum()


def test_whether_subjects_are_people(inputs, tmp_path):
    benchmark = inputs.benchmark
    assert names_subjects(benchmark, "synthetic")
    assert not names_subjects(benchmark, "bin")
    subjects = benchmark.subjects
    files = tuple(tmp_path / str(subject) / f"{row}.jpg" for row, subject in enumerate(subjects))
    folders = dataclasses.replace(benchmark, images=files)
    assert names_subjects(folders, "pairs")
    split = subjects.copy()
    split[0] = split.max() + 1
    assert not names_subjects(dataclasses.replace(folders, subjects=split), "pairs")


def test_hardest_pairs_are_the_extremes(scores, inputs):
    found = [pair for entry in scores[::2] for pair in hardest_pairs(entry, inputs.benchmark, count=2)]
    floats = [pair for pair in found if pair.system == "float"]
    distances = scores[0].by_key[0]
    assert [pair.distance for pair in floats[:2]] == sorted(distances.mated)[::-1][:2]
    assert [pair.distance for pair in floats[2:]] == sorted(distances.non_mated)[:2]
    assert {pair.scenario for pair in found} == {"none", "stolen_key"}


def test_tables_for_latex_and_text(data):
    made = report_tables(data)
    assert list(made) == ["verification", "identification", "linkability", "attacks", "stolen_store", "per_key"]
    for table in made.values():
        assert {len(row) for row in table.rows} == {len(table.header)}
        text = table.latex()
        for rule in ("toprule", "midrule", "bottomrule"):
            assert text.count(rf"\{rule}") == 1
        body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
        lines = [line for line in body.splitlines() if line]
        assert all(line.count(" & ") == len(table.header) - 1 for line in lines)
        assert "_" not in body.replace(r"\_", "")
        assert table.markdown().count("\n") == len(table.rows) + 1
    assert any("does not apply" in row[1] for row in made["attacks"].rows)


def test_a_stolen_store_has_the_best_attack_beside_a_guess(data):
    rows = data.sections.stolen_store
    assert {row.system for row in rows} == {"float", "grp", "urp"}
    of_grp = [row for row in rows if row.system == "grp"]
    assert {(row.attack, row.known, row.photograph) for row in of_grp if not row.obstacle} == {
        ("one_guess", 0, ""), ("store_moments", 0, ""),
        *((name, 5, photograph) for photograph in ("enrolled", "other")
          for name in ("known_faces_assignment", "known_faces_regression")),
    }  # fmt: skip
    assert any("left to be known" in row.obstacle for row in of_grp if row.known == 50)
    exact = next(
        row for row in of_grp if (row.attack, row.photograph, row.known) == ("known_faces_assignment", "enrolled", 5)
    )
    assert exact.cosine > 0.5
    assert exact.accepted_fresh > next(row for row in of_grp if row.attack == "one_guess").accepted_fresh
    lines = [line for line in report_tables(data)["stolen_store"].rows if line[0] == "grp"]
    assert [line[1] for line in lines] == ["none", "5, enrolled photograph", "5, other photograph", "none"]
    assert lines[0][2] == "one guess"
    figure = next(row for row in data.rows if row.scenario == "stolen_store" and row.system == "grp")
    assert figure.protocol.endswith("one_guess, 12 enrolled, known: none")
    assert any("stolen record store" in sentence.text for sentence in data.summary)


def test_everything_is_written(data, tmp_path):
    page = write_report(data, tmp_path / "out")
    assert page == tmp_path / "out" / "report.html"
    files = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert {"report.html", "report.json", "report.csv", "hardest_pairs.csv", "config.yaml", "tables/verification.tex",
            "tables/attacks.tex"} <= files  # fmt: skip
    lines = (tmp_path / "out" / "report.csv").read_text().splitlines()
    assert len(lines) == len(data.rows) + 1
    assert len((tmp_path / "out" / "hardest_pairs.csv").read_text().splitlines()) > 3
    (tmp_path / "file").write_text("")
    for write in (write_report, write_figures):
        with pytest.raises(DataError, match="cannot write the report"):
            write(data, tmp_path / "file")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_or_scores_that_are_not_finite(inputs, scores, value):
    rows = inputs.embeddings.copy()
    rows[[5, 7], 0] = value
    with pytest.raises(DataError, match=r"received 2 others among 72: rows 5 .*, 7 "):
        collect(dataclasses.replace(inputs, embeddings=rows))
    entry = scores[0].by_key[0]
    distances = entry.distances.copy()
    distances[3] = value
    with pytest.raises(DataError, match="finite numbers, received 1 that are not"):
        _ = dataclasses.replace(entry, distances=distances).ranked
    with pytest.raises(ValueError, match="finite number"):
        Estimate(value=value)


def test_one_class_missing(inputs):
    benchmark = inputs.benchmark
    kept = {n: getattr(benchmark, n)[benchmark.same] for n in ("left", "right", "same", "fold")}
    with pytest.raises(DataError, match="expected mated and non-mated pairs, received 72"):
        PairBenchmark(name="one kind", images=benchmark.images, subjects=benchmark.subjects, **kept)
    alone = np.arange(9)
    with pytest.raises(DataError, match="one of them with two images"):
        compared_pairs(types.SimpleNamespace(subjects=alone), named=True, limit=10, seed=1)
    with pytest.raises(DataError, match="two subjects or more with two images"):
        SearchEvaluator(dataclasses.replace(inputs, benchmark=types.SimpleNamespace(subjects=alone)))
    with pytest.raises(DataError, match=r"four subjects .* received 0; leave them out"):
        draw_victims(inputs.embeddings, alone, wanted=3, seed=1)


@pytest.mark.parametrize("attacks", [True, False])
@pytest.mark.parametrize("full", [True, False])
def test_a_misspelt_attack_is_refused_wherever_the_configuration_is_used(full, attacks):
    report = ReportConfig(attacks=attacks, attack_names=("closed_from",))
    with pytest.raises(ConfigError, match="did you mean 'closed_form'"):
        prepare(EvaluateConfig(scenario=ScenarioConfig(systems=("float",)), report=report), full=full)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="fresh_keys: expected at least 40"):
        ReportConfig(fresh_keys=39)
    with pytest.raises(ConfigError, match="scenarios: expected stolen_key"):
        ScenarioConfig(scenarios=("own_key",))


def test_parts_can_be_switched_off(made_config, inputs):
    config = made_config.replace(
        scenario=ScenarioConfig(systems=("grp",), scenarios=("stolen_key",), keys=1, bootstrap=0),
        report=ReportConfig(identification=False, linkability=False, attacks=False),
    )
    data = collect(dataclasses.replace(inputs, config=config))
    assert {topic for topic, found in data.sections if found} == {"curves", "histograms", "hardest_pairs"}
    assert {row.scenario for row in data.rows} == {"stolen_key"}


def test_reliability_of_a_likelihood_ratio_from_other_data(inputs, made_config):
    ratio = LikelihoodRatio(slope=-0.2, offset=6.0, low=-1.3, high=2.0)
    calibration = Calibration(threshold=25, fmr=0.01, fnmr=0.1, subjects=9, keys=2, likelihood=ratio)
    grp = dataclasses.replace(inputs.systems["grp"], calibration=calibration)
    config = made_config.replace(
        scenario=ScenarioConfig(systems=("float", "grp"), keys=2, bootstrap=20),
        report=ReportConfig(identification=False, linkability=False, attacks=False),
    )
    changed = dataclasses.replace(inputs, config=config, systems={"grp": grp})
    data = collect(changed)
    (entry,) = data.sections.reliability
    assert (entry.system, entry.scenario, entry.prior) == ("grp", "stolen_key", 0.5)
    assert sum(entry.share) == pytest.approx(1)
    scores = changed.scores(grp)[-1].by_key
    # The bin of the strongest ratios by a loop: from -1.3 in steps of 0.5, so from 1.7 on.
    mated, others = (
        np.mean([ratio.log10(distance) >= 1.7 for scored in scores for distance in getattr(scored, kind)])
        for kind in ("mated", "non_mated")
    )
    assert entry.observed[-1] == pytest.approx(mated / (mated + others))
    assert entry.share[-1] == pytest.approx((mated + others) / 2)
    for low, value, high in zip(entry.low, entry.observed, entry.high, strict=True):
        assert low <= value <= high
        assert low < high
    table = report_tables(data)["verification"]
    assert table.header[table.header.index("AUC") + 1 :][:2] == ("Cllr", "minCllr")
    page = report_page(data)
    assert 'aria-label="Reliability"' in page
    assert "on the diagonal as many comparisons are mated here as it predicts" in " ".join(page.split())
    assert "minCllr: of the best ones" in terminal_text(data)
    for row in (row for row in data.rows if row.metric == "min_cllr"):
        assert row.low is None if row.value == 0 else row.low < row.high
    assert ReportData.model_validate(json.loads(data.model_dump_json())).sections.reliability == [entry]


def test_a_bin_without_one_kind_has_the_exact_bound():
    found = np.array([[0.5, 0.0, 0.5], [0.0, 0.9, 0.1]])
    draws = np.stack([found, np.where([True, False, True], found, 0)])  # one draw leaves the second bin empty
    first, second, third = _bounds_of_shares(found, draws, {"mated": 10, "non-mated": 30}, 0.95)
    assert first == (pytest.approx(0.5 / (0.5 + 1 - 0.025 ** (1 / 30))), 1)
    missed = 1 - 0.025 ** (1 / 10)
    assert second == (0, pytest.approx(missed / (missed + 0.9)))
    assert third == pytest.approx((5 / 6, 5 / 6))


def test_a_report_of_format_1_is_read(data, tmp_path):
    tree = data.model_dump(mode="json")
    sections = tree["sections"]
    sections["worst_pairs"] = sections.pop("hardest_pairs")
    rate = {"value": 0.02, "low": 0.016, "high": 0.025}
    sections["calibration"] = [
        {"system": "grp", "scenario": "stolen_key", "threshold": 9.0, "promised_fmr": 0.01, "promised_fnmr": 0.1,
         "fmr": rate, "fnmr": rate}
    ]  # fmt: skip
    tree |= {"format": 1, "versions": tree["environment"]}
    (tmp_path / "report.json").write_text(json.dumps(tree))
    again = read_report(tmp_path)
    assert again.rows == data.rows
    assert again.sections.hardest_pairs == data.sections.hardest_pairs
    (entry,) = again.sections.calibration
    assert (entry.target_fmr, entry.calibrated_fnmr) == (0.01, 0.1)
    del tree["sections"], tree["environment"]
    (tmp_path / "report.json").write_text(json.dumps(tree))
    assert read_report(tmp_path).environment == data.environment
