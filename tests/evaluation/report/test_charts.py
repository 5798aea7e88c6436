"""Charts of a benchmark without errors."""

import re

import pytest

from iom.evaluation.report.charts import det_chart, roc_chart


def curves_of(**fnmr):
    fmr = [1e-3, 1e-2, 1e-1, 1.0]
    return {
        "systems": {name: {} for name in fnmr},
        "benchmark": {"mated": 38},
        "sections": {
            "curves": [
                {"system": name, "scenario": "stolen_key", "fmr": fmr, "fnmr": [rate] * 3 + [0.0],
                 "low": [0.0] * 4, "high": [rate] * 4}
                for name, rate in fnmr.items()
            ]
        },
    }  # fmt: skip


@pytest.mark.parametrize("rates", [{"learned": 0.0, "grp": 0.0}, {"learned": 0.0, "grp": 0.02}])
def test_a_share_has_no_ticks_beyond_100(rates):
    ticks = [float(text) for text in re.findall(r">(\d+(?:\.\d+)?)</text>", roc_chart(curves_of(**rates)))]
    assert max(ticks) == 100


def test_a_system_without_errors_is_named_where_it_has_no_line():
    note = "no false non-match at any FMR shown"
    assert f"{note}: learned, stolen key" in det_chart(curves_of(learned=0.0, grp=0.02))
    assert note not in det_chart(curves_of(learned=0.01, grp=0.02))
