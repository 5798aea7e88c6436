"""The set-up of docs/split.md, word by word in an empty folder."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.split.test_servers import WAIT, free_ports

DOCUMENT = Path(__file__).parents[2] / "docs" / "split.md"


def test_the_document_works_as_it_stands(tmp_path):
    text = DOCUMENT.read_text(encoding="utf-8").partition("## The protocol")[0]
    for side, port in free_ports().items():
        text = text.replace({"a": "8441", "b": "8442"}[side], str(port))
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    commands = "".join(blocks).replace("\\\n", " ")
    until = "until grep '^share server . (' served || ! kill -0 $!; do sleep 0.2; done"  # warnings may come before it
    started = rf"\1 > served 2>&1 & {until}; cat served; rm served"
    commands = re.sub(r"^(iom serve-share .*)$", started, commands, flags=re.MULTILINE)
    commands = re.sub(r"^(iom verify .*# no match.*)$", r"! \1", commands, flags=re.MULTILINE)
    script = f'iom() {{ {sys.executable} -m iom "$@"; }}\ntrap "kill 0" EXIT\nset -ex\n{commands}\necho the end\n'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    begin = time.monotonic()
    done = subprocess.run(
        ["setsid", "bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=6 * WAIT,
    )
    assert "the end" in done.stdout, (done.stdout, done.stderr, time.monotonic() - begin)
    assert "match\nopen sesame\nno match\n" in done.stdout
