"""Climbing by answers of yes or no: it gets there without a limit, and takes days with it."""

import json

import pytest

from benchmarks.climbing import main, minutes


def test_a_climb_on_random_vectors(capsys):
    assert main(["--synthetic", "--victims", "2", "--tries", "2000"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["victims_hit"] == 2
    assert figures["cosine_after_2000"] > 0.85
    assert figures["accepted_under_fresh_key"] == 1
    assert figures["minutes_for_2000_tries_before"] == pytest.approx(2000 / 20 / 60, abs=0.1)
    assert figures["minutes_for_2000_tries_after"] > 100 * figures["minutes_for_2000_tries_before"]


def test_time_is_that_of_the_limits():
    assert minutes([True] * 1240, False) == pytest.approx(1, abs=0.01)
    assert minutes([True] * 1240, True) == pytest.approx(1, abs=0.01)
    assert minutes([False] * 40, True) == pytest.approx(30, abs=0.1)


def test_what_is_missing_is_told(tmp_path, capsys):
    assert main(["--data", str(tmp_path), "--hasher", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
