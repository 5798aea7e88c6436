"""TensorFlow's log lines do not stand before an answer."""

import subprocess
import sys

IMPORT = """
import os, sys
import iom
from iom._tensorflow_log import silence
silence()
import tensorflow
print(tensorflow.__version__, tensorflow.__spec__.loader.exec_module.__self__ is not None)
os.write(2, b"W0000 00:00:00 after\\n")
"""
FAILING = """
import os, sys
from pathlib import Path
folder = Path(sys.argv[1]) / "tensorflow"
folder.mkdir()
(folder / "__init__.py").write_text(
    "import os; os.write(2, b'I0000 00:00:00 of the start\\\\nplain\\\\n'); " + sys.argv[2]
)
sys.path.insert(0, sys.argv[1])
import iom
import tensorflow
print(tensorflow.fine)
"""


def run(code, root, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_import_is_silent_and_what_follows_is_not(root):
    done = run(IMPORT, root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("True\n")
    assert done.stderr == "W0000 00:00:00 after\n"


def test_only_log_lines_are_left_out(root, tmp_path):
    done = run(FAILING, root, tmp_path, "fine = 'yes'")
    assert (done.stdout, done.stderr) == ("yes\n", "plain\n")


def test_an_import_that_fails_tells_everything(root, tmp_path):
    done = run(FAILING, root, tmp_path, "raise ImportError('no library')")
    assert done.returncode == 1
    assert done.stderr.startswith("I0000 00:00:00 of the start\nplain\nTraceback")
    assert "no library" in done.stderr
