"""Mistakes that need no network are told at once, in one line: nothing of the extra `train` is imported for them."""

import json
import subprocess
import sys

import pytest

from iom.errors import TRAIN_MODULES

PROGRAM = """
import contextlib, io, json, sys
lines, hidden = json.loads(sys.argv[1])
sys.modules |= dict.fromkeys(hidden)
from iom.cli.main import main
told = {}
for line in lines:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        code = main(line.split())
    told[line] = code, shown.getvalue()
print(json.dumps(told))
"""
MISTAKES = {
    "align PHOTOS taken/faces": "taken is a file",
    "bulk-enroll nothere": "no folder nothere",
    "check-data nothere": "nothere",
    "compare one other --output taken/x": "taken is a file",
    "convert nothere shards --kind folder:tfrecord": "nothere",
    "curves taken --output taken/x.png": "taken is a file",
    "deal --count 1 --out-a taken/a --out-b b": "taken is a file",
    "demo --images nothere.png nothere.png nothere.png": "cannot read the image",
    "demo --output taken/x": "taken is a file",
    "deploy --hasher nothere": "no hasher 'nothere'",
    "deploy --output taken/x": "taken is a file",
    "enroll alice nothere.png": "cannot read the image",
    "enroll alice taken": "received something else",
    "evaluate --config nothere --output x": "no configuration nothere",
    "evaluate --config smoke/evaluate --report taken/x": "taken is a file",
    "hash PHOTOS --output codes.parquet --key-file taken": "no folder PHOTOS",
    "identify taken": "received something else",
    "init --hasher nothere": "no hasher 'nothere'",
    "make-key taken/x": "cannot be written",
    "make-token taken/x.json desk": "taken",
    "serve --tokens nothere": "iom make-token",
    "stats": "no key store at gallery.keys",
    "synthesize --output taken/x": "taken is a file",
    "train-stage1 --config smoke/stage1 --output taken/x": "taken is a file",
    "train-stage2 --config smoke/stage2 --output taken/x": "taken is a file",
    "verify alice nothere.png": "cannot read the image",
    "verify nothere.png taken": "received something else",
    "weights check nothere": "neither a file nor an entry",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "taken").write_text("a file")
    arguments = json.dumps([list(MISTAKES), sorted(TRAIN_MODULES)])
    done = subprocess.run([sys.executable, "-c", PROGRAM, arguments], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_before_anything_heavy_is_imported(told, line):
    code, shown = told[line]
    assert 2 <= code <= 6, shown
    assert shown.startswith("error: ")
    assert len(shown.splitlines()) == 1
    assert MISTAKES[line] in shown
    assert "extra" not in shown
