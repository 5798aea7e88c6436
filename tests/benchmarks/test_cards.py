"""Cards of synthetic faces, printed and photographed."""

import json

import pytest

from benchmarks.cards import main

pytest.importorskip("base45", reason="needs the extra qr")
pytest.importorskip("zxingcpp", reason="needs the extra qr")


def test_cards_are_read_and_told_apart(capsys):
    assert main(["--synthetic", "--cards", "8"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["cards"] == 8
    assert figures["read"] >= 7
    assert figures["match"] > 0.2  # three of four on average; keys are random
    assert figures["false_match"] < 0.3
    assert figures["payload_bytes"] == 237


def test_what_is_missing_is_told(tmp_path, capsys):
    (tmp_path / "lfw_112x112").mkdir()
    assert main(["--data", str(tmp_path)]) == 2
    assert "expected 300 subjects with two images, found 0" in capsys.readouterr().err
