import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from iom.config import EvaluateConfig, ScenarioConfig, load_config
from iom.errors import DataError
from iom.evaluation.evaluate import collect
from iom.evaluation.records import EmbedderSummary
from iom.evaluation.report.text import terminal_text
from iom.evaluation.report.write import write_figures
from iom.evaluation.scores import EvaluationInputs
from iom.metrics.verification import error_curve

EMBEDDER = EmbedderSummary(name="made", fingerprint="0" * 64, embedding_size=32)


@pytest.fixture
def config():
    return EvaluateConfig(seed=4, scenario=ScenarioConfig(systems=("float", "grp"), keys=3, bootstrap=20))


@pytest.fixture
def inputs(config, benchmark_and_embeddings, index_of_max):
    return EvaluationInputs(config, *benchmark_and_embeddings, {"grp": index_of_max}, EMBEDDER)


@pytest.fixture
def report(inputs):
    return collect(inputs)


def test_values_are_means_over_keys(report, inputs, index_of_max):
    stolen = next(s for s in inputs.scores(index_of_max) if s.scenario == "stolen_key")
    by_key = [error_curve(entry.mated, entry.non_mated).equal_error_rate() for entry in stolen.by_key]
    row = report.row("grp", "stolen_key", "eer")
    spread = report.spread("grp", "stolen_key", "eer")
    assert spread.values == by_key
    assert row.value == pytest.approx(np.mean(by_key))
    assert spread.std == pytest.approx(np.std(by_key, ddof=1))
    assert row.low <= row.value <= row.high
    assert report.spread("float", "none", "eer") is None
    with pytest.raises(DataError, match="no row grp / none / eer"):
        report.row("grp", "none", "eer")


def test_an_evaluation_repeats(report, config, inputs):
    again, fresh = (collect(dataclasses.replace(inputs, config=config.replace(seed=seed))) for seed in (4, 5))
    assert again.rows == report.rows
    assert fresh.row("grp", "stolen_key", "auc") != report.row("grp", "stolen_key", "auc")
    assert fresh.row("float", "none", "auc").value == report.row("float", "none", "auc").value


def test_own_key_is_easier_than_stolen_key(report):
    own, stolen = (report.row("grp", s, "auc").value for s in ("own_key", "stolen_key"))
    assert own > stolen


def test_report_json_holds_the_agreed_rows(report, config, tmp_path):
    write_figures(report, tmp_path / "deep" / "folder")
    tree = json.loads((tmp_path / "deep/folder/report.json").read_text())
    for row in tree["rows"]:
        assert list(row) == ["system", "scenario", "protocol", "metric", "value", "low", "high"]
        assert isinstance(row["value"], float)
    places = {(row["system"], row["scenario"]) for row in tree["rows"]}
    assert places == {("float", "none"), ("grp", "own_key"), ("grp", "stolen_key")}
    assert {row["protocol"] for row in tree["rows"]} == {"made"}
    eer = next(r for r in tree["per_key"] if (r["scenario"], r["metric"]) == ("stolen_key", "eer"))
    assert len(eer["values"]) == 3
    assert tree["seed"] == 4
    assert tree["environment"]["numpy"] == np.__version__
    assert tree["benchmark"]["subjects"] == 40
    assert tree["systems"]["grp"]["code_length"] == 64
    assert load_config(EvaluateConfig, tmp_path / "deep/folder/config.yaml") == config


def test_no_key_is_written_or_shown(report, tmp_path):
    from iom.evaluation.scores import common_key

    write_figures(report, tmp_path)
    text = (tmp_path / "report.json").read_text() + terminal_text(report)
    assert common_key(4, 0).secret.hex() not in text
    assert "TransformKey" not in text


def test_csv_and_picture(report, tmp_path):
    write_figures(report, tmp_path)
    with (tmp_path / "report.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(report.rows)
    assert float(rows[0]["value"]) == report.rows[0].value
    assert rows[0]["std"] == ""
    with Image.open(tmp_path / "report.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 1000
    # Something is drawn in every quarter of it.
    for half in np.array_split(pixels, 2, axis=0):
        assert all(len(np.unique(q.reshape(-1, 3), axis=0)) > 10 for q in np.split(half, 2, axis=1))


def test_table(report):
    lines = terminal_text(report).splitlines()
    assert lines[0].startswith("made: 1740 pairs (120 mated, 1620 non-mated), 40 subjects, 4 folds")
    body = [line.split()[:2] for line in lines if line.startswith(("float", "grp"))]
    assert body == [["float", "none"], ["grp", "own_key"], ["grp", "stolen_key"]]
    value = report.row("grp", "stolen_key", "eer")
    std = report.spread("grp", "stolen_key", "eer").std
    assert f"{100 * value.value:.2f} ± {100 * std:.2f}" in terminal_text(report)
    assert max(map(len, lines)) <= 120


def test_without_bootstrap_there_are_no_intervals(config, inputs):
    scenario = config.scenario.replace(bootstrap=0, keys=1)
    report = collect(dataclasses.replace(inputs, config=config.replace(scenario=scenario)))
    assert {row.low for row in report.rows} == {None}
    assert report.per_key == []
    assert "[" not in terminal_text(report).split("\n\n")[1]


def test_a_small_benchmark_says_what_it_cannot_tell(benchmark_and_embeddings, config):
    benchmark, embeddings = benchmark_and_embeddings
    kept = np.flatnonzero(benchmark.same | (np.arange(len(benchmark)) % 20 == 0))
    small = dataclasses.replace(
        benchmark,
        **{name: getattr(benchmark, name)[kept] for name in ("left", "right", "same")},
        fold=np.zeros(len(kept), int),
    )
    only_float = config.replace(scenario=ScenarioConfig(systems=("float",)))
    report = collect(EvaluationInputs(only_float, small, embeddings, {}, EMBEDDER))
    assert len(report.notes) == 3
    table = terminal_text(report)
    assert "one fold only" in table
    assert "too few non-mated pairs for an FMR of 1e-3" in table
    assert "accuracy %" not in table


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_a_folder_that_cannot_be_written_is_one_error(report, tmp_path, place):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" if place == "a file" else tmp_path / "file" / "below"
    with pytest.raises(DataError, match="cannot write"):
        write_figures(report, folder)
