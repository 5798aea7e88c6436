import argparse
import json
import subprocess
import sys

import pytest

from iom.cli import train_stage1
from iom.cli.arguments import Answer, exit_code, new_parser, run
from iom.errors import (
    AlreadyEnrolledError,
    CheckpointError,
    ConfigError,
    DataError,
    FaceError,
    KeyMaterialError,
    NotEnrolledError,
    RevokedError,
    StoreError,
    StoreNotFoundError,
    UnknownApplicationError,
)


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


def test_a_bug_shows_its_traceback_and_is_never_taken_for_no_match(capsys):
    assert run(command(ZeroDivisionError("of ours")), argparse.ArgumentParser(), []) == 70
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("ZeroDivisionError: of ours\n")
    assert answering(["--json"], command(ZeroDivisionError("of ours"))) == 70
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"]["type"] == "ZeroDivisionError"
    assert "Traceback" in shown.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (DataError("no folder"), 2),
        (CheckpointError("x"), 2),
        (UnknownApplicationError("x"), 2),
        (AlreadyEnrolledError("x"), 2),
        (PermissionError(13, "Permission denied", "/root/x"), 2),
        (NotEnrolledError("x"), 3),
        (RevokedError("x"), 4),
        (FaceError("x"), 5),
        (StoreError("x"), 6),
        (StoreNotFoundError("x"), 6),
        (KeyMaterialError("x"), 6),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(error, code, capsys):
    assert exit_code(error) == code
    assert run(command(error), argparse.ArgumentParser(), []) == code
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/root/x"), "/root/x: Permission denied"),
        (FileNotFoundError(2, "No such file or directory", "a b"), "a b: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(18, "Cross-device link", "a", None, "b"), "a -> b: Cross-device link"),
        (OSError(), "OSError"),
        (MemoryError(), "out of memory"),
    ],
    ids=repr,
)
def test_what_the_system_refuses_is_one_line(error, line, capsys):
    assert run(command(error), argparse.ArgumentParser(), []) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


def answering(argv, act):
    parser = new_parser("iom ask", "Asks.", answers=True)
    parser.add_argument("--number", type=int, default=3)
    return run(act, parser, argv)


def test_an_answer_is_text_or_one_json_object(capsys, tmp_path):
    import numpy as np

    def act(arguments):
        print("under way")
        facts = {"number": arguments.number, "path": tmp_path, "rate": np.float32(0.5)}
        return Answer(facts, "it is three", code=1)

    assert answering([], act) == 1
    assert capsys.readouterr().out == "under way\nit is three\n"
    assert answering(["--json"], act) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"number": 3, "path": str(tmp_path), "rate": 0.5}
    assert shown.out.count("\n") == 1
    assert "under way" in shown.err


def test_errors_are_json_too(capsys):
    wrong = NotEnrolledError("subject 'eve' is not\n enrolled", subject_id="eve")
    assert answering(["--json"], command(wrong)) == 3
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "error": {
            "type": "NotEnrolledError",
            "message": "subject 'eve' is not enrolled",
            "exit_code": 3,
            "subject_id": "eve",
        }
    }
    assert shown.err == ""
    assert answering(["--json", "--number", "many"], command(None)) == 2
    told = json.loads(capsys.readouterr().out)["error"]
    assert "invalid int value: 'many'" in told["message"]
    assert answering(["--json"], command(KeyboardInterrupt("stopped"))) == 130
    assert json.loads(capsys.readouterr().out)["error"]["message"] == "stopped"


def test_wrong_arguments_are_one_line(capsys):
    assert answering(["--number", "many"], command(None)) == 2
    error = capsys.readouterr().err
    assert error == ("error: argument --number: invalid int value: 'many'; see iom ask --help\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "no-such.yaml"], "no configuration no-such.yaml"),
        (["--config", "configs/smoke/stage1.yaml", "--set", "sede=1"], "did you mean 'seed'"),
        (["--config", "configs/smoke/stage1.yaml", "--set", "data.root=nowhere"], "no folder nowhere"),
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


@pytest.mark.parametrize("script", ["train_stage1.py", "train_stage2.py", "evaluate.py", "run_me.py"])
def test_help_is_complete_and_light(script, root):
    code = (
        f"import runpy, sys; sys.argv = ['{script}', '--help']\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        f"assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "examples:" in result.stdout
