"""The whole pipeline as a user runs it, on synthetic faces: every command, end to end."""

import json

import pytest

from benchmarks import resume
from tests.commands import command


def settings(**values):
    return [text for key, value in values.items() for text in ("--set", f"{key}={value}")]


def test_from_faces_to_a_report(tmp_path, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    faces, stage1, stage2 = (str(tmp_path / name) for name in ("faces", "stage1", "stage2"))
    made = ["--output", faces, "--subjects", "24", "--images", "5", "--quiet"]
    assert command("synthesize")(made) == 0
    small = {
        "data.root": faces,
        "training.epochs": 2,
        "backbone.embedding_size": 32,
        "backbone.arguments": "{stem: 16, widths: [16, 16], depths: [1, 1]}",
    }
    config = ["--config", "configs/smoke/stage1.yaml", "--output", stage1, "--quiet"]
    assert command("train-stage1")([*config, *settings(**small)]) == 0
    weights = f"{stage1}/best.keras"
    small = {"data.root": faces, "embedder.weights": weights, "embedder.cache": tmp_path / "cache"}
    config = ["--config", "configs/smoke/stage2.yaml", "--output", stage2, "--quiet"]
    assert command("train-stage2")([*config, *settings(**small)]) == 0
    small = {"embedder.weights": weights, "hasher": stage2, "scenario.bootstrap": 20}
    config = ["--config", "configs/smoke/evaluate.yaml", "--output", str(tmp_path / "report")]
    assert command("evaluate")([*config, *settings(**small)]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    seen = {(row["system"], row["scenario"]) for row in report["rows"]}
    assert {("float", "none"), ("grp", "stolen_key"), ("learned", "own_key")} <= seen
    for row in report["rows"]:
        assert {"system", "scenario", "protocol", "metric", "value", "low", "high"} <= set(row)
    assert "eer" in capsys.readouterr().out.lower()


@pytest.mark.proof
@pytest.mark.parametrize(
    "what",
    [["--kills", "0", "--stages", "1"], ["--kills", "0", "--stages", "2"], ["--kills", "3", "--stages"]],
    ids=["stage1", "stage2", "phases"],
)
def test_kill_9_and_resume_give_the_same_weights(what, capsys):
    assert resume.main([*what, "--trials", "3"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == {"trials": 3, "equal": 3}
