from pathlib import Path

import keras
import pytest

from benchmarks import heads
from iom.config import Stage1Config, load_config
from iom.training.backbone import check_phases


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        heads.main(["--help"])
    assert stopped.value.code == 0
    assert "python -m benchmarks.heads" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    for arguments, message in (
        (["--data", str(tmp_path / "absent")], "no folder"),
        (["--data", str(tmp_path), "--heads", "arcfac"], "did you mean 'arcface'"),
    ):
        assert heads.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("name", heads.HEADS)
def test_every_head_can_be_built(name, root):
    config = load_config(Stage1Config, root / heads.CONFIG, overrides=heads.HEADS[name])
    keras.utils.set_random_seed(1)
    check_phases(config.by_phase())


def test_a_finished_run_is_not_repeated_and_another_one_is_refused(tmp_path, root, monkeypatch):
    from iom.config import save_config
    from iom.errors import ConfigError
    from iom.training.run_dir import write_records

    monkeypatch.chdir(root)
    config = load_config(Stage1Config, Path(heads.CONFIG))
    assert not heads._finished(tmp_path, heads.CONFIG, [])
    save_config(config, tmp_path / "config.yaml")
    assert not heads._finished(tmp_path, heads.CONFIG, [])
    write_records(tmp_path / "metrics.jsonl", [{"epoch": config.training.epochs}])
    assert heads._finished(tmp_path, heads.CONFIG, [])
    with pytest.raises(ConfigError, match="other settings"):
        heads._finished(tmp_path, heads.CONFIG, ["seed=2"])
