"""The weights command: lists, checks, and tells mistakes in one line."""

import pytest

from iom.nn.backbones.registry import build_backbone
from iom.pretrained import hashers
from iom.pretrained.manifest import read_manifest
from tests.commands import command

main = command("weights")


def test_list_names_every_entry(capsys):
    assert main(["list"]) == 0
    output = capsys.readouterr().out
    assert "mobilefacenet_y1.ms1m  128-d, 4.2 MB\n" in output
    for name, entry in read_manifest().items():
        _, _, block = output.partition(f"{name}  {entry.embedding_size}-d")
        for text in (entry.licence, entry.training_data, entry.source, entry.figures[0].by):
            assert text in block


def test_the_tables_of_the_model_zoo_are_those_of_the_manifest(root, capsys):
    assert main(["list", "--markdown"]) == 0
    tables = capsys.readouterr().out
    assert tables in (root / "docs" / "models.md").read_text(), "put there what iom weights list --markdown prints"
    assert all(tables.count(f"| `{name}` |") > 1 for name in read_manifest())


def test_check_prints_the_input(tmp_path, capsys):
    model = build_backbone("iresnet_slim", widths=(16, 16), depths=(1, 1), input_size=32, embedding_size=8)
    path = tmp_path / "best.keras"
    model.save(path)
    assert main(["check", str(path), "--no-faces"]) == 0
    output = capsys.readouterr().out
    assert "RGB 0..255, 32 px" in output
    assert "embedding size  8" in output


def test_the_model_zoo_names_every_hasher(root):
    page = (root / "docs" / "models.md").read_text()
    assert [name for name in hashers() if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", ["nothing.here", "nothing.onnx"])
def test_a_mistake_is_one_line(name, capsys):
    assert main(["check", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
