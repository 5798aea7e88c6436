"""What all commands share: answers, errors, exit codes, help."""

import json
import os
import subprocess
import sys

import click
import pytest

from iom.cli._command import Answer, Command, exit_code, run
from iom.cli.main import main
from iom.cli.main import root as program
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

HEAVY = {
    "tensorflow",
    "keras",
    "numpy",
    "numba",
    "matplotlib",
    "scipy",
    "sklearn",
    "tqdm",
    "fastapi",
    "pydantic",
    "PIL",
}
"""Modules that `--help` must not import."""


def asking(act, argv=()):
    """Run a command with an option and `--json`, that does `act`."""

    def ask(number):
        return act(number)

    options = [
        click.Option(["--json"], is_flag=True),
        click.Option(["--number"], type=int, default=3),
        click.Option(["--same/--other"], default=True, expose_value=False),
    ]
    return run(Command("ask", callback=ask, params=options, renamed={"--count": "--number"}), argv, program="iom ask")


def raising(error):
    def act(number):
        raise error

    return act


def test_a_users_mistake_is_one_line_and_exit_code_2(capsys):
    assert asking(raising(DataError("first line\n  second line"))) == 2
    assert capsys.readouterr().err == "error: first line second line\n"


def test_interruption(capsys):
    assert asking(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"
    options = [click.Option(["--resume"], is_flag=True), click.Option(["--output"])]

    def stopped(**options):
        raise KeyboardInterrupt("stopped")

    command = Command("train", callback=stopped, params=options)
    assert run(command, ["--output", "a b"], program="train.py") == 130
    told = capsys.readouterr().err
    assert told == "stopped; continue with: python train.py --output 'a b' --resume\n"
    group = click.Group("iom", commands=[command])
    assert run(group, ["train", "--resume", "--output", "a"]) == 130
    assert capsys.readouterr().err == "stopped; continue with: iom train --output a --resume\n"


def test_success():
    assert asking(lambda number: 0) == 0


def test_a_bug_shows_its_traceback_and_is_never_taken_for_no_match(capsys):
    assert asking(raising(ZeroDivisionError("of ours"))) == 70
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("ZeroDivisionError: of ours\n")
    assert asking(raising(ZeroDivisionError("of ours")), ["--json"]) == 70
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
        (PermissionError(13, "Permission denied", "/data/x"), 2),
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
    assert asking(raising(error)) == code
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/data/x"), "/data/x: Permission denied"),
        (FileNotFoundError(2, "No such file or directory", "a b"), "a b: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(18, "Cross-device link", "a", None, "b"), "a -> b: Cross-device link"),
        (OSError(), "OSError"),
        (MemoryError(), "out of memory"),
    ],
    ids=repr,
)
def test_what_the_system_refuses_is_one_line(error, line, capsys):
    assert asking(raising(error)) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


def test_an_answer_is_text_or_one_json_object(capsys, tmp_path):
    import numpy as np

    def act(number):
        print("under way")
        return Answer({"number": number, "path": tmp_path, "rate": np.float32(0.5)}, "it is three", ok=False)

    assert asking(act) == 1
    assert capsys.readouterr().out == "under way\nit is three\n"
    assert asking(act, ["--json"]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"number": 3, "path": str(tmp_path), "rate": 0.5}
    assert shown.out.count("\n") == 1
    assert "under way" in shown.err


def test_errors_are_json_too(capsys):
    wrong = NotEnrolledError("subject 'eve' is not\n enrolled", subject_id="eve")
    assert asking(raising(wrong), ["--json"]) == 3
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
    assert asking(raising(wrong), ["--json", "--number", "many"]) == 2
    told = json.loads(capsys.readouterr().out)["error"]
    assert (told["type"], told["exit_code"]) == ("ConfigError", 2)
    assert "'many' is not a valid integer" in told["message"]
    assert asking(raising(KeyboardInterrupt("stopped")), ["--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["message"] == "stopped"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--number", "many"], "invalid value for '--number': 'many' is not a valid integer; see iom ask --help"),
        (["--count", "3"], "no such option --count: it is called --number now; see iom ask --help"),
        (["more"], "got unexpected extra argument (more); see iom ask --help"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, line, capsys):
    assert asking(lambda number: 0, arguments) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["enrol"], "did you mean 'enroll'?"),
        (["search", "--config", "x"], "it is called 'sweep' now"),
        (["enroll", "a", "b.jpg", "--another"], "it is called --add now"),
        (["enroll", "--foldr", "x"], "--folder"),
        (["enroll", "--fuse", "centroids", "a", "b"], "did you mean 'centroid'?"),
        (["align", "a", "b", "--which", "all"], "it is called --faces now"),
        (["align", "a", "b", "--weights", "x"], "it is called --detector-weights now"),
        (["hash", "a", "--out", "b"], "it is called --output now"),
        (["calibrate", "--faces", "b"], "it is called --folder now"),
        (["deploy", "--to", "onnx", "openvino"], "repeat --to for each format"),
        (["serve", "--largest-request", "8"], "it is called --max-request now"),
    ],
)
def test_a_misspelt_or_former_name_is_refused_with_a_hint(arguments, hint, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert hint in error
    assert error.count("\n") == 1


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
    assert main(["train-stage1", *arguments, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_help_lists_every_command_and_every_exit_code(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == shown
    commands, _, codes = shown.partition("exit codes:")
    listed = [line.split()[0] for line in commands.splitlines() if line[:3].strip() and line[:2] == "  "]
    assert set(program.commands) <= set(listed)
    assert [int(line.split()[0]) for line in codes.splitlines() if line[:5].strip().isdigit()] == [
        0, 1, 2, 3, 4, 5, 6, 7, 70, 130, 141
    ]  # fmt: skip


def test_importing_and_every_help_are_light(root):
    """One process, which would remember an import of any of them."""
    code = (
        "import sys, iom; from iom.cli.main import main, root\n"
        "for name, command in root.commands.items():\n"
        "    assert main([name, '--help']) == 0\n"
        "    for part in getattr(command, 'commands', ()):\n"
        "        assert main([name, part, '--help']) == 0\n"
        f"assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


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
    assert result.stdout.startswith(f"Usage: {script} ")
    assert "examples:" in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["list-backbones"], ["list-backbones", "--json"]])
def test_a_reader_that_stops_early_gets_no_complaint(root, arguments):
    command = [sys.executable, "-m", "iom", *arguments]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, cwd=root, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_option_without_a_default_shows_none(capsys):
    assert main(["deploy", "--help"]) == 0
    assert '[default: ""]' not in " ".join(capsys.readouterr().out.split())
