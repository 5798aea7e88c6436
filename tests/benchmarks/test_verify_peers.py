import json

import pytest

from benchmarks import foreign_verify, verify_peers
from benchmarks.environments import environment


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        verify_peers.main(["--help"])
    assert stopped.value.code == 0
    assert "python -m benchmarks.verify_peers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--python", "nowhere"], "error: no environment for iom in"), (["--times", "0"], "error: --starts, --times")],
)
def test_what_is_missing_is_one_line(arguments, message, tmp_path, capsys):
    assert verify_peers.main([*arguments, "--cache", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_an_environment_is_made_anew_where_its_packages_changed(tmp_path, capsys):
    folder = tmp_path / "peer"
    folder.mkdir()
    (folder / "ready").write_text("one two", encoding="utf-8")
    assert environment(folder, "nowhere", ["one", "two"]) == folder / "bin" / "python"
    assert environment(folder, "nowhere", ["one", "three"]) is None
    assert "skipped peer" in capsys.readouterr().out


def test_every_library_has_a_packages_list():
    names = {library.removesuffix("_dlib") for library in foreign_verify.LIBRARIES}
    assert names == set(verify_peers.INSTALLS)


def test_what_is_not_here_is_null_and_ratios_are_to_iom(tmp_path, monkeypatch, capsys):
    lines = {
        "iom": '{"match": true, "verify_cpu_seconds": 0.5, "rss_mb": 100.0}',
        "face_recognition": 'a warning\n{"match": true, "verify_cpu_seconds": 1.0, "rss_mb": 150.0}',
    }

    def start(command, cache):
        return lines.get(command[3], ""), 2.0, 1.0

    made = {name: tmp_path / name / "bin" / "python" for name in lines}
    monkeypatch.setattr(verify_peers, "environment", lambda folder, python, *installs: made.get(folder.name))
    monkeypatch.setattr(verify_peers, "_installed", lambda python: 1e6)
    monkeypatch.setattr(verify_peers, "_start", start)
    assert verify_peers.main(["--photographs", "a.jpg", "b.jpg", "--cache", str(tmp_path)]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["deepface"] is figures["deepface_dlib"] is None
    assert figures["iom_command"] == {"cold_seconds": 2.0, "cold_cpu_seconds": 1.0}
    ratios = {"cold_seconds": 1, "cold_cpu_seconds": 1, "verify_cpu_seconds": 2, "rss_mb": 1.5, "installed_mb": 1}
    assert figures["ratio"] == {"face_recognition": ratios}


def test_the_tasks_and_what_they_cost(tmp_path, monkeypatch, capsys):
    tasks = foreign_verify.Tasks(lambda a, b: a == b, str.upper, lambda a, folder: lambda b: a + b)
    monkeypatch.setitem(foreign_verify.LIBRARIES, "iom", lambda: tasks)
    foreign_verify._main("iom", "a", "b", str(tmp_path), "2")
    figures = json.loads(capsys.readouterr().out)
    assert figures["match"] is False
    assert figures["who"] == "ab"
    assert figures["rss_mb"] > 1
    assert {f"{task}_cpu_seconds" for task in ("verify", "faces", "who")} <= set(figures)
