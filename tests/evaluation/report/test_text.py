"""Statements of a report on a target false match rate, and its number format."""

import pytest

from iom.evaluation.records import Estimate, ReportData
from iom.evaluation.report.text import Table, most_accurate_system, number_text, summary, verdict


def data_of(*, systems=(), rows=(), calibration=()):
    return ReportData.model_validate(
        {
            "created": "",
            "benchmark": {"name": "pairs", "pairs": 300, "mated": 150, "non_mated": 150, "subjects": 9},
            "embedder": {"name": "made"},
            "systems": {name: {} for name in systems},
            "rows": list(rows),
            "config": {},
            "sections": {"calibration": list(calibration)},
        }
    )


@pytest.mark.parametrize(
    ("low", "high", "expected", "state"),
    [
        (0.0, 0.0099, "target met", "good"),
        (0.0, 0.01, "target met", "good"),
        (0.0, 0.0522, "undecided", "plain"),
        (0.0098, 0.0355, "undecided", "plain"),
        (0.0101, 0.02, "target missed", "bad"),
        (None, None, "undecided", "plain"),
    ],
)
def test_a_target_is_met_missed_or_undecided(low, high, expected, state):
    rate = {"value": 0.0183, "low": low, "high": high}
    data = data_of(calibration=[{"system": "learned", "target_fmr": 0.01, "fmr": rate, "fnmr": rate}])
    (sentence,) = summary(data)
    assert sentence.text.startswith("learned, at the threshold calibrated for FMR 1 %: observed FMR 1.83 %")
    assert expected in sentence.text
    assert sentence.state == state


def test_fewer_data_never_decide_more():
    """The wider the interval, the less is decided."""
    assert verdict(Estimate(value=0.01, low=0.005, high=0.009), 0.01) == "met"
    assert verdict(Estimate(value=0.01, low=0.0, high=0.05), 0.01) == "open"
    assert verdict(Estimate(value=0.01, low=0.02, high=0.05), 0.01) == "missed"


def test_of_equal_systems_the_trained_one_is_named():
    rows = [
        {"system": name, "scenario": "stolen_key", "protocol": "pairs", "metric": "eer", "value": 0}
        for name in ("grp", "learned")
    ]
    assert most_accurate_system(data_of(systems=["grp", "learned"], rows=rows)) == "learned"


def test_numbers_and_their_intervals():
    assert number_text(0.00941, 0.0071, 0.012, factor=100) == "0.94 [0.71, 1.20]"
    assert number_text(0.5, std=0.25, decimals=3) == "0.500 ± 0.250"


def test_a_hostile_cell_stays_one_cell():
    table = Table(("system", "EER %"), (("a|b_%", "1"),), labels=1)
    assert table.markdown().splitlines()[-1] == r"| a\|b_% | 1 |"
    assert r"a|b\_\% & 1 \\" in table.latex()
    assert table.plain().splitlines() == ["system  EER %", "a|b_%   1"]


def test_a_report_shows_its_figures_in_a_notebook(data):
    page = data._repr_html_()
    assert "made &amp; &lt;odd&gt;" in page
    assert page.count("<tr>") == 1 + len(data.figures_by_place())
    assert f"{data.row('grp', 'stolen_key', 'eer').value:.4g}" in page
