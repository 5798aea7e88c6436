"""Runs examples with an installed `iom`: `python -I installed_examples.py EXAMPLES.json`.

The examples are texts of shell blocks (commands `iom ...` and `export NAME=VALUE`, one a line) and
of Python blocks. All run in this process, since TensorFlow takes seconds to start. The last line
on standard output is JSON: each command, its exit code and what it printed.
"""

import contextlib
import io
import json
import os
import shlex
import sys
from pathlib import Path

import iom
from iom.cli.main import main


def run_command(line):
    """Exit code and all that was printed."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        try:
            code = main(shlex.split(line, comments=True)[1:])
        except SystemExit as stop:  # --help
            code = stop.code
    return code, shown.getvalue()


def run_shell(text):
    """Each command of a block, with its exit code and what it printed."""
    done = []
    for line in text.splitlines():
        name, _, value = shlex.join(shlex.split(line, comments=True)).partition("=")
        if name.startswith("export "):
            os.environ[name.removeprefix("export ").strip("'")] = value.strip("'")
        else:
            done.append((line, *run_command(line)))
    return done


if __name__ == "__main__":
    examples_file, sys.argv[0] = sys.argv[1], "iom"
    examples = json.loads(Path(examples_file).read_text(encoding="utf-8"))
    done = [result for text in examples["shell"] for result in run_shell(text)]
    names = {}
    for text in examples["python"]:
        exec(text, names)
    more = [(line, *run_command(line)) for line in examples["commands"]]
    shape = list(names["codes"].shape)
    print(json.dumps({"place": iom.__file__, "shell": done, "commands": more, "codes": shape}))
