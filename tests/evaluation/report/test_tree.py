import dataclasses
import json

import numpy as np
import pytest

from iom.config.schema import EvaluateConfig, ReportConfig, ScenarioConfig
from iom.data.benchmarks.base import PairBenchmark
from iom.data.benchmarks.folders import split_galleries
from iom.errors import ConfigError, DataError
from iom.evaluation.evaluate import pair_report
from iom.evaluation.protocols import float_system, identification_figures, search_templates
from iom.evaluation.report.attacks import check_attacks, drawn_victims
from iom.evaluation.report.collect import full_tree, names_subjects, plain
from iom.evaluation.report.hardest_pairs import worst_pairs
from iom.evaluation.report.identification import identification_sections
from iom.evaluation.report.linkability import compared_pairs, linkability_sections, pairs_of_subjects
from iom.evaluation.report.tables import latex, markdown, tables
from iom.evaluation.report.write import write_full_report
from iom.metrics.protection import system_linkability

KINDS = {"curves", "histograms", "calibration", "worst_pairs", "identification", "linkability",
         "attacks"}  # fmt: skip


def test_every_part_is_in_the_tree_and_is_plain_data(tree):
    assert set(tree["sections"]) == KINDS
    assert json.loads(json.dumps(tree, allow_nan=False)) == tree
    protocols = {row["protocol"].partition(", ")[2] for row in tree["rows"]}
    assert {"", "search", "two keys", "closed_form, 1 records"} <= protocols
    assert tree["environment"]["cores"] >= 1
    assert 3 <= len(tree["summary"]) <= 6


def test_curves_are_means_over_keys_within_their_bands(tree, made_report):
    for curve, scores in zip(tree["sections"]["curves"], made_report.scores, strict=True):
        for number in (0, 20, 47):
            at = [
                entry.ranked.curve().fnmr_at_fmr(min(1.0, curve["fmr"][number] * (1 + 1e-9))) for entry in scores.by_key
            ]
            assert curve["fnmr"][number] == pytest.approx(np.mean(at))
        assert np.all(np.diff(curve["fnmr"]) <= 1e-12)
        assert np.all(np.array(curve["low"]) <= np.array(curve["high"]))


def test_histograms_hold_every_pair(tree):
    for entry in tree["sections"]["histograms"]:
        assert sum(entry["mated"]) == pytest.approx(1)
        assert sum(entry["non_mated"]) == pytest.approx(1)


def test_search_figures_are_those_of_the_protocol(tree, prepared):
    subjects = prepared.benchmark.subjects
    system = float_system(prepared.embeddings.shape[1])
    templates = system.templates(prepared.embeddings, None)
    galleries, probes = split_galleries(subjects)
    expected = [
        dict(
            identification_figures(
                search_templates(system.comparator, templates, subjects, gallery=gallery, probes=probes)
            )
        )
        for gallery in galleries.values()
    ]
    (section,) = (e for e in tree["sections"]["identification"] if e["system"] == "float")
    assert "cmc_rank_1" in section["figures"]
    assert "dir_at_fpir_1e-1_rank_1" in section["figures"]
    for name, figure in section["figures"].items():
        assert figure["value"] == pytest.approx(np.mean([e[name] for e in expected]))
        assert figure["low"] <= figure["high"]


def test_d_sys_is_that_of_a_loop(prepared):
    benchmark = prepared.benchmark
    subjects = benchmark.subjects
    system = prepared.systems["grp"]
    pairs = pairs_of_subjects(subjects, most=10**6, seed=1)
    left, right = pairs.left[: pairs.mated], pairs.right[: pairs.mated]
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == {
        (a, b) for a in range(len(subjects)) for b in range(len(subjects)) if a != b and subjects[a] == subjects[b]
    }
    assert (subjects[pairs.left[pairs.mated :]] != subjects[pairs.right[pairs.mated :]]).all()
    (section,) = linkability_sections(
        [system], prepared.embeddings, subjects, pairs, keys=2, replicates=10, seed=1,
        advance=lambda: None,
    )  # fmt: skip
    shares = [np.array(section[f"{kind}_share"]) for kind in ("mated", "non_mated")]
    counts = [
        np.rint(share * section[kind])
        for share, kind in zip(shares, ("mated", "non_mated"))  # noqa: B905
    ]
    assert section["d_sys"] == pytest.approx(system_linkability(*counts))
    assert section["d_sys"] < 0.15
    assert section["low"] <= section["d_sys"] <= section["high"]


def test_a_float_embedding_links_fully_and_is_accepted(tree):
    (entry,) = (e for e in tree["sections"]["linkability"] if e["system"] == "float")
    assert entry["d_sys"] > 0.8
    (row,) = (e for e in tree["sections"]["attacks"] if e["system"] == "float")
    assert row["prar"] == 1


def test_without_names_the_listed_pairs_are_compared(prepared):
    benchmark = prepared.benchmark
    pairs = compared_pairs(benchmark, named=False, most=10**6, seed=1)
    assert len(pairs.left) == 2 * len(benchmark)
    assert pairs.mated == 2 * benchmark.same.sum()


def test_whether_subjects_are_people(prepared, tmp_path):
    benchmark = prepared.benchmark
    assert names_subjects(benchmark, "synthetic")
    assert not names_subjects(benchmark, "bin")
    subjects = benchmark.subjects
    files = tuple(tmp_path / str(subject) / f"{row}.jpg" for row, subject in enumerate(subjects))
    folders = dataclasses.replace(benchmark, images=files)
    assert names_subjects(folders, "pairs")
    split = subjects.copy()
    split[0] = split.max() + 1
    assert not names_subjects(dataclasses.replace(folders, subjects=split), "pairs")


def test_worst_pairs_are_the_extremes(made_report, prepared):
    found = list(worst_pairs(made_report.scores, prepared.benchmark, most=2))
    floats = [pair for pair in found if pair["system"] == "float"]
    distances = made_report.scores[0].by_key[0]
    assert [pair["distance"] for pair in floats[:2]] == sorted(distances.mated)[::-1][:2]
    assert [pair["distance"] for pair in floats[2:]] == sorted(distances.non_mated)[:2]
    assert {pair["scenario"] for pair in found} == {"none", "stolen_key"}


def test_tables_for_latex_and_text(tree):
    made = {table.name: table for table in tables(tree)}
    assert list(made) == ["verification", "identification", "linkability", "attacks", "per_key"]
    for table in made.values():
        assert {len(row) for row in table.rows} == {len(table.header)}
        text = latex(table)
        for rule in ("toprule", "midrule", "bottomrule"):
            assert text.count(rf"\{rule}") == 1
        body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
        lines = [line for line in body.splitlines() if line]
        assert all(line.count(" & ") == len(table.header) - 1 for line in lines)
        assert "_" not in body.replace(r"\_", "")
        assert markdown(table).count("\n") == len(table.rows) + 1
    assert any("does not apply" in row[1] for row in made["attacks"].rows)


def test_everything_is_written(tree, made_config, tmp_path):
    write_full_report(tree, made_config, tmp_path / "out")
    files = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert {"report.html", "report.json", "report.csv", "worst_pairs.csv", "config.yaml",
            "tables/verification.tex", "tables/attacks.tex"} <= files  # fmt: skip
    lines = (tmp_path / "out" / "report.csv").read_text().splitlines()
    assert len(lines) == len(tree["rows"]) + 1
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == tree
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the report"):
        write_full_report(tree, made_config, tmp_path / "file")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_or_scores_that_are_not_finite(made_config, prepared, made_report, value):
    rows = prepared.embeddings.copy()
    rows[[5, 7], 0] = value
    with pytest.raises(DataError, match=r"received 2 others among 72: rows 5 .*, 7 "):
        pair_report(made_config, dataclasses.replace(prepared, embeddings=rows))
    entry = made_report.scores[0].by_key[0]
    distances = entry.distances.copy()
    distances[3] = value
    with pytest.raises(DataError, match="finite numbers, received 1 that are not"):
        _ = dataclasses.replace(entry, distances=distances).ranked
    with pytest.raises(DataError, match="not a finite number"):
        plain({"figure": value})


def test_one_class_missing(prepared):
    benchmark = prepared.benchmark
    kept = {n: getattr(benchmark, n)[benchmark.same] for n in ("left", "right", "same", "fold")}
    with pytest.raises(DataError, match="expected mated and non-mated pairs, received 72"):
        PairBenchmark(name="one kind", images=benchmark.images, subjects=benchmark.subjects, **kept)
    alone = np.arange(9)
    with pytest.raises(DataError, match="one of them with two images"):
        pairs_of_subjects(alone, most=10, seed=1)
    with pytest.raises(DataError, match="two subjects or more with two images"):
        next(
            identification_sections(
                [], prepared.embeddings, alone, keys=1, replicates=0, confidence=0.9, seed=1, advance=lambda: None
            )
        )
    with pytest.raises(DataError, match=r"four subjects .* received 0; leave them out"):
        drawn_victims(prepared.embeddings, alone, wanted=3, seed=1)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="did you mean 'closed_form'"):
        check_attacks(EvaluateConfig(report=ReportConfig(attack_names=("closed_from",))))
    with pytest.raises(ConfigError, match=r"report\.fresh_keys: expected at least 40"):
        ReportConfig(fresh_keys=39)
    with pytest.raises(ConfigError, match=r"scenario\.scenarios: expected stolen_key"):
        ScenarioConfig(scenarios=("own_key",))


def test_parts_can_be_switched_off(made_config, prepared):
    config: EvaluateConfig = dataclasses.replace(
        made_config,
        scenario=ScenarioConfig(systems=("grp",), scenarios=("stolen_key",), keys=1, bootstrap=0),
        report=ReportConfig(identification=False, linkability=False, attacks=False),
    )
    tree = full_tree(config, prepared, pair_report(config, prepared))
    assert set(tree["sections"]) == {"curves", "histograms", "calibration", "worst_pairs"}
    assert {row["scenario"] for row in tree["rows"]} == {"stolen_key"}
