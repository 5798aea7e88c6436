"""The benchmark of key stores runs over all kinds."""

import json

from benchmarks import key_stores


def test_it_measures_all_kinds(capsys):
    assert key_stores.main(["--rounds", "1", "--batch", "8"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"file", "https", "file+https"} <= found.keys()
    assert found.pop("call_ms") > 0
    assert found["file"]["verify_over_file"] == 1
    assert all(figure > 0 for figures in found.values() for figure in figures.values())
