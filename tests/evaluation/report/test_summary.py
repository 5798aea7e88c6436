"""What a report says of a promised false match rate."""

import pytest

from iom.evaluation.report.summary import best_system, summary, verdict


@pytest.mark.parametrize(
    ("low", "high", "expected", "state"),
    [
        (0.0, 0.0099, "the promise is kept", "good"),
        (0.0, 0.01, "the promise is kept", "good"),
        (0.0, 0.0522, "these data cannot tell", "plain"),
        (0.0098, 0.0355, "these data cannot tell", "plain"),
        (0.0101, 0.02, "the promise is broken", "bad"),
        (None, None, "these data cannot tell", "plain"),
    ],
)
def test_a_promise_is_kept_broken_or_open(low, high, expected, state):
    rate = {"value": 0.0183, "low": low, "high": high}
    tree = {
        "systems": {},
        "rows": [],
        "benchmark": {"name": "pairs", "pairs": 300, "subjects": 9},
        "sections": {"calibration": [{"system": "learned", "promised_fmr": 0.01, "fmr": rate, "fnmr": rate}]},
    }
    (sentence,) = [s for s in summary(tree) if "promises" in s["text"]]
    assert expected in sentence["text"]
    assert sentence["state"] == state


def test_fewer_data_never_make_a_promise_surer():
    """The wider the interval, the less is decided."""
    assert verdict({"low": 0.005, "high": 0.009}, 0.01) == "kept"
    assert verdict({"low": 0.0, "high": 0.05}, 0.01) == "open"
    assert verdict({"low": 0.02, "high": 0.05}, 0.01) == "broken"


def test_of_equal_systems_the_trained_one_is_named():
    rows = [
        {"system": name, "scenario": "stolen_key", "protocol": "pairs", "metric": "eer", "value": 0}
        for name in ("grp", "learned")
    ]
    tree = {"systems": ["grp", "learned"], "rows": rows, "benchmark": {"name": "pairs"}}
    assert best_system(tree) == "learned"
