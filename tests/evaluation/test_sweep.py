import csv
import json

import pytest
import yaml

from iom.config import SweepConfig, load_config, save_config
from iom.errors import CheckpointError, ConfigError, DataError, SettingsChangedError
from iom.evaluation.sweep import plan_rows, run_sweep, sweep_figure, sweep_table
from iom.models.face_hasher import KerasFaceHasher
from iom.nn.backbones.registry import build_backbone
from iom.synthetic import write_folder
from tests.commands import command

main = command("sweep")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Synthetic faces, and a small backbone that was never trained."""
    folder = tmp_path_factory.mktemp("search")
    write_folder(folder / "faces", 16, 4, seed=3)
    build_backbone("iresnet_slim", embedding_size=32, stem=16, widths=(16,), depths=(1,)).save(
        folder / "backbone.keras"
    )
    return folder


@pytest.fixture
def configured(place, root, monkeypatch):
    monkeypatch.chdir(root)

    def make(**changes):
        stage2 = {
            "epochs": 1,
            "data": {"root": str(place / "faces"), "holdout": 0.4},
            "embedder.weights": str(place / "backbone.keras"),
            "embedder.cache": str(place / "cache"),
            # The triplet loss alone: the others of the smoke configuration only take time to trace.
            "losses.quantization.weight": 0,
            "losses.balance.weight": 0,
            "losses.distillation.weight": 0,
            "batches": {"subjects": 5, "images": 3, "steps_per_epoch": 3},
            "calibration": {"fmr": 0.5, "keys": 2, "bootstrap": 0},
        }
        tree = {
            "stage2": "configs/smoke/stage2.yaml",
            "set": stage2,
            "grid": {"hasher.code_length, hasher.alphabet_size": [[16, 2], [16, 4]]},
            "variants": [{"name": "learned"}, {"name": "frame", "train": False}],
            "keys": 2,
        } | changes
        path = place / "search.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return load_config(SweepConfig, path)

    return make


def test_the_plan_is_the_grid_times_the_variants(configured):
    config = configured(grid={"hasher.keep": [8, 0], "hasher.code_length": [16]})
    rows = plan_rows(config)
    assert [row.name for row in rows] == [
        "float",
        "grp 16x8 keep=8",
        "grp 16x8",
        "learned keep=8 code_length=16",
        "learned keep=0 code_length=16",
        "frame keep=8 code_length=16",
        "frame keep=0 code_length=16",
    ]
    assert [row.config.hasher.keep for row in rows[3:]] == [8, 0, 8, 0]
    assert {row.config.batches.steps_per_epoch for row in rows} == {3}


def test_without_a_grid_the_variants_are_the_rows(configured):
    variants = [{"name": "a", "set": {"losses.triplet.weight": 2}}, {"name": "b"}]
    rows = plan_rows(configured(grid={}, variants=variants, baselines=[]))
    assert [row.name for row in rows] == ["float", "a", "b"]
    assert [loss.weight for loss in rows[1].config.losses if loss.name == "triplet"] == [2.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"hasher.code_lenght": [8]}}, "did you mean 'code_length'"),
        ({"grid": {"hasher.code_length": 8}}, "expected a list of values"),
        ({"grid": {"hasher.code_length": []}}, "expected a list of values"),
        ({"grid": {"hasher.keep, hasher.code_length": [8]}}, "lists of 2 values"),
        ({"grid": {"hasher.code_length": [0]}}, "row 'learned code_length=0'"),
        ({"variants": [{"name": "a"}, {"name": "a"}]}, "distinct names"),
        ({"variants": [{"name": "a b"}, {"name": "a/b"}]}, "two rows are called"),
        ({"variants": [{"name": ""}]}, "variants\\[0\\].name: expected a name"),
        ({"baselines": ["grpp"]}, "did you mean 'grp'"),
        ({"set": {"fine_tune": True}}, "cached embeddings"),
        ({"stage2": "configs/none.yaml"}, "no configuration"),
    ],
)
def test_what_is_wrong_is_found_before_any_training(configured, changes, message):
    with pytest.raises(ConfigError, match=message):
        plan_rows(configured(**changes))


def test_a_sweep_leaves_one_table_and_one_plot_and_resumes(configured, tmp_path):
    config, output = configured(), tmp_path / "sweep"
    reported = []

    def interrupt(line):
        reported.append(line)
        if len(reported) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(config, output, progress=False, report=interrupt)
    assert len(json.loads((output / "sweep.json").read_text())["rows"]) == 4
    with pytest.raises(CheckpointError, match="--resume"):
        run_sweep(config, output, progress=False)
    lines = []
    rows = run_sweep(config, output, resume=True, progress=False, report=lines.append)
    assert len(lines) == 3
    assert [row["kind"] for row in rows] == [
        "float", "grp", "grp", "learned", "learned", "untrained", "untrained"
    ]  # fmt: skip
    for row in rows:
        assert 0 <= row["eer"] <= 1
        assert (row["kind"] == "float") == ("eer_std" not in row)
    assert [row["bits"] for row in rows] == [None, 16, 32, 16, 32, 16, 32]
    with (output / "sweep.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["name"] for row in table] == [row["name"] for row in rows]
    assert float(table[3]["eer"]) == rows[3]["eer"]
    assert (output / "sweep.md").read_text().count("\n| ") == len(rows) + 2
    assert (output / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    assert [row["run"] is not None for row in rows] == [False] * 3 + [True] * 4
    for row in rows[3:]:
        assert KerasFaceHasher.load(output / row["run"]).code_length == row["code_length"]

    assert run_sweep(config, output, resume=True, progress=False) == rows
    with pytest.raises(CheckpointError, match="another configuration"):
        run_sweep(configured(keys=3), output, resume=True, progress=False)
    path = output / "rows.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    stored = json.loads(first)
    stored["settings"]["float"]["epochs"] = 9
    path.write_text("".join([json.dumps(stored) + "\n", *rest]))
    with pytest.raises(SettingsChangedError, match="begun with other settings") as caught:
        run_sweep(config, output, resume=True, progress=False)
    assert caught.value.changed == ("float",)
    path.write_text(first + "{}\n")
    with pytest.raises(DataError, match="damaged"):
        run_sweep(config, output, resume=True, progress=False)


def test_a_test_set_is_measured_where_one_is_named(configured, place, root, tmp_path):
    from iom.config import EvaluateConfig

    evaluation = load_config(
        EvaluateConfig,
        root / "configs" / "smoke" / "evaluate.yaml",
        overrides=["benchmark.subjects=8", "scenario.keys=2"],
    )
    save_config(evaluation, place / "evaluate.yaml")
    config = configured(
        evaluate=str(place / "evaluate.yaml"), grid={}, variants=[{"name": "frame", "train": False}], keep_runs=False
    )
    rows = run_sweep(config, tmp_path / "sweep", progress=False)
    assert all(0 <= row["test_eer"] <= 1 for row in rows)
    assert "test EER %" in sweep_table(rows).header


def test_the_plot_goes_by_keep_where_only_that_varies():
    row = {"series": "a", "eer": 0.1, "bits": 32, "keep": 8}
    for rows, label in (
        ([row, row | {"keep": 16}], "dimensions kept after the key"),
        ([row, row | {"bits": 16}], "bits of a code"),
    ):
        (axes,) = sweep_figure(rows, "t").axes
        assert axes.get_xlabel() == label


def test_the_command_tells_a_mistake_in_one_line(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    command = ["--config", "configs/sweep/smoke.yaml", "--output", str(tmp_path / "x"), "--quiet"]
    assert main([*command, "--set", "set.hasher.keeep=3"]) == 2
    error = capsys.readouterr().err
    assert "did you mean 'keep'" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_every_tracked_search_can_be_planned(root, monkeypatch):
    monkeypatch.chdir(root)
    for path in (root / "configs" / "sweep").glob("*.yaml"):
        assert len(plan_rows(load_config(SweepConfig, path))) > 3, path
