"""The table of export formats: light to import, one file each, and as the documents say."""

import subprocess
import sys

from iom.export.formats import FORMATS


def test_formats_do_not_share_a_file():
    suffixes = [wanted.suffix for name, wanted in FORMATS.items() if name != "embedder"]  # that takes the place of onnx
    assert len(set(suffixes)) == len(suffixes)


def test_the_table_imports_nothing_heavy():
    script = "import sys, iom.export.formats; print({'numpy', 'tensorflow', 'keras', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_document_lists_every_format(root):
    rows = {}
    for line in (root / "docs" / "deployment.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = cells[1:]
    del rows["--to"]  # the head of the table
    assert list(rows) == list(FORMATS)
    for name, (file, _, extras, precision) in rows.items():
        wanted = FORMATS[name]
        assert f"`{wanted.suffix}" in file
        assert not wanted.extras or f"[{','.join(wanted.extras)}]" in extras
        assert wanted.precision.removeprefix("dynamic ") in precision
