"""`iom deal`: the files, and mistakes in one line."""

import json
import stat

import pytest

from iom.split.correlations import CorrelationsA, CorrelationsB, Terms
from tests.commands import command

deal = command("deal")


@pytest.fixture
def files(tmp_path):
    return tmp_path / "a.deal", tmp_path / "b.deal"


def outputs(files):
    return ["--out-a", files[0], "--out-b", files[1]]


def test_a_deal_for_an_encoding(files, capsys):
    shape = ["--encoding", "iom-planes/1:64x4", "--threshold", "9"]
    assert deal(["--json", "--quiet", "--count", "3", *shape, *outputs(files)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {
        "deal": facts["deal"], "count": 3, "encoding": "iom-planes/1:64x4", "threshold": 9,
        "out_a": str(files[0]), "out_b": str(files[1]),
    }  # fmt: skip
    with CorrelationsA(files[0], Terms(64, 4, 9)) as a, CorrelationsB(files[1], Terms(64, 4, 9)) as b:
        assert a.deal == b.deal == bytes.fromhex(facts["deal"])
        assert (a.left, b.left) == (3, 3)
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600, 0o600]


def test_a_deal_for_the_hasher_takes_its_threshold(files, capsys):
    assert deal(["--count", "1", *outputs(files)]) == 0
    out, err = capsys.readouterr()
    with CorrelationsA(files[0]) as a:
        assert a.terms == Terms(1536, 2, a.terms.threshold)
        assert 0 < a.terms.threshold < 700
    assert f"1 correlation for iom-planes/1:1536x2 at threshold {a.terms.threshold}" in out
    assert "dealing" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoding", "iom-planes/1:64x4"], "give --threshold"),
        (["--encoding", "64x4", "--threshold", "3"], "iom-planes/1:<code length>x<alphabet size>"),
        (["--encoding", "iom-planes/1:64x4", "--threshold", "65"], "expected -1 to 64 positions, received 65"),
        (["--hasher", "nothere"], "no hasher 'nothere'"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, files, capsys):
    assert deal(["--count", "2", *arguments, *outputs(files)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not any(path.exists() for path in files)


def test_a_file_that_is_there_is_kept(files, capsys):
    files[1].write_text("kept")
    shape = ["--encoding", "iom-planes/1:64x4", "--threshold", "9"]
    assert deal(["--quiet", "--count", "2", *shape, *outputs(files)]) == 2
    assert "never overwrites another" in capsys.readouterr().err
    assert files[1].read_text() == "kept"
    assert not files[0].exists()
