import json

import pytest

from benchmarks.foreign_data import main


@pytest.mark.proof
def test_other_programs_read_and_write_the_same(capsys):
    assert main([]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    done = [value for name, value in figures.items() if name != "all_equal" and value is not None]
    if not done:
        pytest.skip("needs Python 3.8 or 3.11 and a package index")
    assert all(done)


def test_a_missing_python_skips_with_a_message(tmp_path, capsys):
    nowhere = str(tmp_path / "python")
    arguments = ["--python38", nowhere, "--python311", nowhere, "--cache", str(tmp_path)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "skipped foreign_mxnet" in out
    assert "skipped foreign_bcolz" in out
    assert json.loads(out.splitlines()[-1])["bin"] is None
