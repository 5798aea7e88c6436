import json

import numpy as np
import pytest

from benchmarks import ablation, finetune, stage2_step
from iom.config import CODE_LOSSES, Stage2Config, load_config
from iom.errors import ConfigError
from iom.nn.backbones.registry import build_backbone
from iom.synthetic import write_folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Synthetic faces, and a small backbone that was never trained."""
    folder = tmp_path_factory.mktemp("benchmarks")
    write_folder(folder / "faces", 16, 4, seed=3)
    build_backbone("iresnet_slim", embedding_size=32, stem=16, widths=(16, 16), depths=(1, 1)).save(
        folder / "backbone.keras"
    )
    return folder


@pytest.fixture
def settings(place):
    found = [
        f"data.root={place / 'faces'}", "data.holdout=0.4", "data.include=", "data.same_subject=",
        "data.group_separator=",
        f"embedder.weights={place / 'backbone.keras'}", f"embedder.cache={place / 'cache'}",
        "batches.subjects=5", "batches.images=3", "hasher.code_length=32", "calibration.fmr=0.1",
        "calibration.keys=2",
    ]  # fmt: skip
    return [text for setting in found for text in ("--set", setting)]


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("module", [ablation, finetune, stage2_step])
def test_help(module, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert f"python -m {module.__name__}" in capsys.readouterr().out


@pytest.mark.proof
def test_steps_of_both_kinds(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    command = ["--subjects", "4", "--images", "2", "--code-length", "6", "--alphabet-size", "4"]
    command += ["--embedding-size", "16", "--steps", "2", "--predecessor-steps", "1", "--turns", "1"]
    assert stage2_step.main(command) == 0
    figures = last_line(capsys)
    assert {"ratio_ancestor", "peak_mb", "steps_per_s", "steps_per_s_predecessor"} <= set(figures)
    assert min(figures.values()) > 0
    assert stage2_step.main(["--turns", "0"]) == 2


def test_the_ancestors_losses_by_hand():
    rows = np.random.default_rng(0).normal(size=(6, 5))
    labels = np.array([0, 0, 1, 1, 2, 2])
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    expected = []
    for i in range(6):
        far = max(distances[i, j] for j in range(6) if labels[j] == labels[i])
        near = min(distances[i, j] for j in range(6) if labels[j] != labels[i])
        expected.append(max(far - near + 1.0, 0.0))
    found = float(stage2_step.hardest_triplet(rows, labels))
    assert found == pytest.approx(np.mean(expected))
    squares = ((np.round(rows) - rows) ** 2).sum(1).mean()
    assert float(stage2_step.rounding(rows)) == pytest.approx(squares)


def test_the_ablation_changes_one_thing_a_row(root, monkeypatch):
    monkeypatch.chdir(root)
    committed = load_config(Stage2Config, root / ablation.CONFIG)
    found = {row.name: row for row in ablation.variants(committed, ablation.CONFIG, [], None)}
    assert len(found) > 25
    assert found[ablation.AS_COMMITTED].set == {}
    assert not found["not trained"].train
    for name in CODE_LOSSES:
        assert sum(name in row.split() for row in found) >= 1, name
    for row in found.values():
        texts = [f"{name}={json.dumps(value)}" for name, value in row.set.items()]
        changed = load_config(Stage2Config, root / ablation.CONFIG, overrides=texts)
        assert (changed == committed) == (not row.set)
    with pytest.raises(ConfigError, match="did you mean 'no whitening'"):
        ablation.variants(committed, ablation.CONFIG, [], ["no whitenin"])


@pytest.mark.proof
def test_a_small_ablation(root, monkeypatch, settings, tmp_path, capsys):
    monkeypatch.chdir(root)
    command = ["--epochs", "1", "--steps", "2", "--keys", "2", "--output", str(tmp_path / "a")]
    command += ["--rows", "as committed", "not trained", "no whitening", *settings]
    assert ablation.main(command) == 0
    rows = last_line(capsys)["rows"]
    assert [row["name"] for row in rows[-3:]] == ["as committed", "not trained", "no whitening"]
    assert all(0 <= row["eer"] <= 1 for row in rows)
    assert ablation.main([*command, "--resume"]) == 0
    assert last_line(capsys)["rows"] == rows


@pytest.mark.proof
def test_frozen_against_fine_tuned(root, monkeypatch, settings, tmp_path, capsys):
    monkeypatch.chdir(root)
    command = ["--steps", "2", "--epochs", "1", "--keys", "2", "--output", str(tmp_path / "f")]
    assert finetune.main([*command, *settings]) == 0
    figures = last_line(capsys)
    assert {"eer_frozen", "eer_fine_tuned", "float_eer_frozen", "images_per_s"} <= set(figures)
    assert figures["steps"] == 2
    assert finetune.main([*command, "--config", ablation.CONFIG]) == 2
    assert "fine_tune" in capsys.readouterr().err
