"""What docs/security.md claims: each claim names a benchmark or a test that is there."""

import re

import pytest


@pytest.fixture
def rows(root):
    text = (root / "docs" / "security.md").read_text(encoding="utf-8")
    table = re.search(r"^## Who steals what\n.*?\n(\|.*?)\n\n", text, flags=re.M | re.S)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_each_theft_names_what_shows_it(rows, root):
    assert rows[0][-1] == "seen by"
    assert len(rows) > 12
    for row in rows[2:]:
        assert len(row) == len(rows[0])
        sources = re.findall(r"`(?:python -m benchmarks\.(\w+)|(tests/[\w/.]+)(?:::(\w+))?)`", row[-1])
        assert sources, row[0]
        for benchmark, test, function in sources:
            path = root / (f"benchmarks/{benchmark}.py" if benchmark else test)
            assert path.exists(), path
            assert not function or f"def {function}(" in path.read_text(encoding="utf-8"), row[-1]


def test_cells_are_short(rows):
    assert max(len(cell) for row in rows for cell in row) < 120
