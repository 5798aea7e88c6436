import json
import subprocess
import sys

import pytest

from benchmarks import bundled, lfw_pairs, startup


@pytest.mark.parametrize("module", [bundled, lfw_pairs, startup])
def test_help(module, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert f"python -m {module.__name__}" in capsys.readouterr().out


@pytest.mark.parametrize("module", [bundled, lfw_pairs])
def test_without_data_the_error_is_one_line(module, tmp_path, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    monkeypatch.setattr("iom.evaluation.evaluate.check_systems", lambda config: None)
    assert module.main(["--data", str(tmp_path / "absent")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no folder")
    assert error.count("\n") == 1


def test_starting_imports_nothing_heavy(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    for command in startup.COMMANDS.values():
        assert startup.heavy_imports(command) == set()
    assert startup.heavy_imports(["-c", "import scipy"]) == {"numpy", "scipy"}
    assert startup.main(["--repeats", "1"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(figures) == {*startup.COMMANDS, "imports_tensorflow"}
    assert figures["imports_tensorflow"] is False


def test_startup_outside_the_project_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert startup.main(["--repeats", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert startup.main(["--repeats", "0"]) == 2
    assert "--repeats" in capsys.readouterr().err


def test_a_table_of_pairs_becomes_a_plain_list(tmp_path):
    table = tmp_path / "FF.tsv"
    table.write_text("fold\timage_a\timage_b\tmated\n1\ta/1.jpg\ta/2.jpg\t1\n1\ta/1.jpg\tb/1.jpg\t0\n")
    path = bundled.plain_list(table, tmp_path)
    assert path.read_text() == "a/1.jpg\ta/2.jpg\t1\na/1.jpg\tb/1.jpg\t0\n"


@pytest.mark.proof
def test_lfw_pairs_reaches_its_figures(prepared_data, root):
    """Half an hour of patience at most: embeds 7,701 images unless they are cached."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.lfw_pairs"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=1800,
        check=True,
    )
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["float_accuracy"] >= 0.991
    assert figures["float_eer"] <= 0.009
    assert figures["learned_eer_mean"] <= figures["grp_eer_mean"]
    assert figures["learned_fnmr_1e3_mean"] <= figures["grp_fnmr_1e3_mean"]
