import json
import subprocess
import sys

import pytest

from iom.cli.train import stored_rows
from tests.commands import command

main = command("list-backbones")


def test_table(capsys):
    assert main(["--filter", "mobilefacenet", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "name"
    assert [line.split()[0] for line in lines[1:]] == ["mobilefacenet", "mobilefacenet_y1"]
    assert [line.split()[1] for line in lines[1:]] == ["2.08", "1.22"]


def test_the_stored_table_is_that_of_the_registry(capsys):
    from iom.nn.backbones.registry import BACKBONES

    rows = stored_rows()
    assert [row["name"] for row in rows] == list(BACKBONES)
    assert main(["--filter", "iresnet_slim", "--quiet", "--json", "--measure"]) == 0
    measured = json.loads(capsys.readouterr().out)["backbones"]
    assert measured == [row for row in rows if row["name"] == "iresnet_slim"]


@pytest.mark.proof
def test_every_row_of_the_stored_table_is_measured_again(capsys):
    assert main(["--quiet", "--json", "--measure"]) == 0
    assert json.loads(capsys.readouterr().out)["backbones"] == stored_rows()


def test_the_table_needs_no_network():
    code = (
        "import sys; from iom.cli.main import main\n"
        "assert main(['list-backbones', '--json']) == 0\n"
        "assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert len(json.loads(done.stdout)["backbones"]) == len(stored_rows())


def test_json(capsys):
    assert main(["--filter", "ception", "--quiet", "--json", "--input-size", "72"]) == 0
    rows = json.loads(capsys.readouterr().out)["backbones"]
    found = {row["name"]: row for row in rows}
    assert set(found) == {"inception_v3", "inception_resnet_v2", "xception"}
    assert "input_size >= 75" in found["inception_v3"]["error"]
    assert found["xception"]["input_size"] == 72
    assert found["xception"]["parameters"] > found["xception"]["trainable_parameters"] > 2e7
    assert found["xception"]["multiply_adds"] > 1e8


def test_head_and_embedding_size(capsys):
    counts = []
    for head in ("E", "GAP"):
        options = ["--head", head, "--embedding-size", "128"]
        assert main(["--filter", "mnasnet_small", "--quiet", "--json", *options]) == 0
        counts.append(json.loads(capsys.readouterr().out)["backbones"][0]["parameters"])
    # 4 x 4 x 1280 inputs instead of 1280, and E's batch norm of the map.
    assert counts[0] - counts[1] == 15 * 1280 * 128 + 4 * 1280


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--filter", "vit"], "contains 'vit'"),
        (["--head", "X"], "unknown head"),
        (["--input-size", "0"], "'--input-size': 0 is not in the range"),
        (["--embedding-size", "-1"], "--embedding-size"),
    ],
)
def test_mistakes(capsys, options, words):
    assert main(options) == 2
    assert words in capsys.readouterr().err
