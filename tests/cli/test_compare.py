import csv
import json

import pytest

from tests.commands import command

main = command("compare")


def made(folder, value, *, pairs=6000, more=()):
    folder.mkdir(parents=True)
    place = {"scenario": "stolen_key", "protocol": "lfw"}
    rows = [
        {"system": "grp", **place, "metric": "eer", "value": value, "low": value / 2, "high": 0.1},
        {"system": "grp", **place, "metric": "accuracy", "value": 1 - value, "low": None,
         "high": None},
        *more,
    ]  # fmt: skip
    tree = {
        "format": 1,
        "created": "2026-01-01T00:00:00+00:00",
        "benchmark": {
            "name": "lfw", "pairs": pairs, "mated": 3000, "non_mated": 3000, "subjects": 9
        },
        "embedder": {"name": "made <b>"},
        "systems": {"grp": {}},
        "config": {},
        "rows": rows,
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(tree))
    return folder


def test_two_reports_side_by_side(tmp_path, capsys):
    attack = {"system": "grp", "scenario": "full_disclosure", "protocol": "lfw, a", "low": None,
              "high": None, "metric": "prar"}  # fmt: skip
    first = made(tmp_path / "before", 0.02)
    worse = [{**attack, "value": 0.3}, {**attack, "value": 0.7}]
    second = made(tmp_path / "after", 0.01, more=worse)
    output = tmp_path / "out"
    assert main([str(first / "report.json"), str(second), "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "| before | grp | stolen_key | 98.00 | 2.00 [1.00, 10.00] | – |" in shown  # noqa: RUF001
    assert "| after | grp | stolen_key | 99.00 | 1.00 [0.50, 10.00] | 70.00 |" in shown
    page = (output / "comparison.html").read_text()
    assert "made &lt;b&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<svg") == 1
    with (output / "comparison.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6
    assert {row["report"] for row in rows} == {"before", "after"}
    assert r"\toprule" in (output / "comparison.tex").read_text()
    assert (output / "comparison.svg").read_text().startswith("<svg xmlns=")


def test_different_benchmarks_are_refused_unless_asked_for(tmp_path, capsys):
    reports = [str(made(tmp_path / "a", 0.02)), str(made(tmp_path / "b", 0.01, pairs=7000))]
    output = ["--output", str(tmp_path / "out")]
    assert main([*reports, *output]) == 2
    message = capsys.readouterr().err
    assert "different benchmarks: pairs is 6000 in a and 7000 in b" in message
    assert not (tmp_path / "out").exists()
    assert main([*reports, *output, "--different-benchmarks"]) == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot read report"),
        ("{", "damaged, or not JSON"),
        ("[]", "expected a report.json of iom evaluate"),
        ('{"benchmark": 1, "rows": 1, "systems": 1, "config": 1, "format": 9}', "expected format 1 or 2"),
        ('{"benchmark": 1, "rows": 1, "systems": 1, "config": 1, "format": 1}', "created: Field required"),
        ('{"benchmark": {"pairs": NaN}}', "NaN is not a finite number"),
    ],
)
def test_what_is_no_report_is_one_line(tmp_path, capsys, content, reason):
    good, bad = made(tmp_path / "good", 0.02), tmp_path / "bad.json"
    if content is not None:
        bad.write_text(content)
    assert main([str(good), str(bad), "--output", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert reason in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("field", ["embedder", "created", "rows"])
def test_a_report_without_a_part_is_one_line(tmp_path, capsys, field):
    good, bad = made(tmp_path / "good", 0.02), made(tmp_path / "bad", 0.03)
    file = bad / "report.json"
    tree = json.loads(file.read_text())
    tree[field] = 1
    file.write_text(json.dumps(tree))
    assert main([str(good), str(bad), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_one_report_or_the_same_twice(tmp_path, capsys):
    report = str(made(tmp_path / "a", 0.02))
    output = ["--output", str(tmp_path / "out")]
    assert main([report, *output]) == 2
    assert main([report, report + "/report.json", *output]) == 2
    assert "one of them twice" in capsys.readouterr().err
