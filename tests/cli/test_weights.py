"""The weights command: lists, checks, and tells mistakes in one line."""

import pytest

from iom.nn.backbones.registry import build_backbone
from tests.commands import command

main = command("weights")


def test_list_names_every_entry(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("mobilefacenet_y1.ms1m") and "128-d" in line for line in lines)
    assert any("iresnet50.w600k" in line for line in lines)


def test_check_prints_the_input(tmp_path, capsys):
    model = build_backbone("iresnet_slim", widths=(16, 16), depths=(1, 1), input_size=32, embedding_size=8)
    path = tmp_path / "best.keras"
    model.save(path)
    assert main(["check", str(path), "--no-faces"]) == 0
    output = capsys.readouterr().out
    assert "RGB 0..255, 32 px" in output
    assert "embedding size  8" in output


@pytest.mark.parametrize("name", ["nothing.here", "nothing.onnx"])
def test_a_mistake_is_one_line(name, capsys):
    assert main(["check", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
