"""Plots of a benchmark without errors, and of names that are markup."""

import re

import pytest

from iom.evaluation.records import ReportData
from iom.evaluation.report.plots import report_plots


def curves_of(**fnmr):
    fmr = [1e-3, 1e-2, 1e-1, 1.0]
    curves = [
        {"system": name, "scenario": "stolen_key", "fmr": fmr, "fnmr": [rate] * 3 + [0.0], "low": [0.0] * 4,
         "high": [rate] * 4, "by_key": [[rate] * 4]}
        for name, rate in fnmr.items()
    ]  # fmt: skip
    return ReportData.model_validate(
        {
            "created": "",
            "benchmark": {"name": "$x$ <b>", "pairs": 76, "mated": 38, "non_mated": 38, "subjects": 9},
            "embedder": {"name": "made"},
            "systems": {name: {} for name in fnmr},
            "rows": [],
            "config": {},
            "sections": {"curves": curves},
        }
    )


@pytest.mark.parametrize("rates", [{"learned": 0.0, "grp": 0.0}, {"learned": 0.0, "grp": 0.02}])
def test_a_share_has_no_ticks_beyond_100(rates):
    ticks = [float(text) for text in re.findall(r">(\d+(?:\.\d+)?)</text>", report_plots(curves_of(**rates))["roc"])]
    assert max(ticks) == 100


def test_a_system_without_errors_is_named_where_it_has_no_line():
    note = "no false non-match at any FMR shown"
    assert f"{note}: learned, stolen key" in report_plots(curves_of(learned=0.0, grp=0.02))["det"]
    assert note not in report_plots(curves_of(learned=0.01, grp=0.02))["det"]


def test_names_are_text_and_not_markup():
    assert "$\\frac$ &lt;i&gt;" in report_plots(curves_of(**{"$\\frac$ <i>": 0.1}))["det"]


def test_ticks_of_a_logarithmic_axis_are_numbers():
    svg = report_plots(curves_of(grp=0.1))["det"]
    assert "mathdefault" not in svg
    assert ">0.01</text>" in svg
