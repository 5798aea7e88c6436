"""`python -m benchmarks.split_comparison` on a few comparisons."""

import json

from benchmarks import split_comparison


def test_all_three_decide_alike(capsys):
    assert split_comparison.main(["--comparisons", "20"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["codes"] for row in rows] == ["iom-planes/1:1536x2", "iom-planes/1:512x8", "iom-planes/1:192x4"]
    assert all((row["comparisons"], row["different"]) == (20, 0) for row in rows)
    assert rows[0]["bytes_between_servers"] == 676
