import argparse
import subprocess
import sys

import pytest

from iom.cli import train_stage1
from iom.cli.arguments import run
from iom.errors import DataError


def command(error):
    def act(arguments):
        if error:
            raise error
        return 0

    return act


def test_a_users_mistake_is_one_line_and_exit_code_2(capsys):
    error = DataError("first line\n  second line")
    assert run(command(error), argparse.ArgumentParser(), []) == 2
    assert capsys.readouterr().err == "error: first line second line\n"


def test_interruption(capsys):
    assert run(command(KeyboardInterrupt()), argparse.ArgumentParser(), []) == 130
    assert capsys.readouterr().err == "interrupted\n"
    parser = argparse.ArgumentParser(prog="train.py")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--output")
    assert run(command(KeyboardInterrupt("stopped")), parser, ["--output", "a b"]) == 130
    told = capsys.readouterr().err
    assert told == "stopped; continue with: python train.py --output 'a b' --resume\n"


def test_success():
    assert run(command(None), argparse.ArgumentParser(), []) == 0


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run(command(ZeroDivisionError()), argparse.ArgumentParser(), [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "no-such.yaml"], "cannot read configuration no-such.yaml"),
        (["--config", "configs/smoke/stage1.yaml", "--set", "sede=1"], "did you mean 'seed'"),
        (
            ["--config", "configs/smoke/stage1.yaml", "--set", "data.root=nowhere"],
            "no folder nowhere",
        ),
    ],
)
def test_stage1_tells_mistakes_in_one_line(arguments, message, tmp_path, capsys, root, monkeypatch):
    monkeypatch.chdir(root)
    assert train_stage1.main([*arguments, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


HEAVY = {"tensorflow", "keras", "numba", "matplotlib", "scipy", "sklearn"}


@pytest.mark.parametrize("statement", ["import iom", "import iom.cli.train_stage1"])
def test_importing_is_light(statement, root):
    code = f"{statement}; import sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize(
    "script", ["train_stage1.py", "train_stage2.py", "evaluate.py", "run_me.py"]
)
def test_help_is_complete_and_light(script, root):
    code = (
        f"import runpy, sys; sys.argv = ['{script}', '--help']\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        f"assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "examples:" in result.stdout
