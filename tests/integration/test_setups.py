"""The set-ups of a door (docs/setups.md) and of cards (docs/cards.md), followed word by word in an empty folder."""

import os
import re
import shlex
import socket
import subprocess
import sys

import pytest

PORT = "8100"
WAIT = "for _ in $(seq 300); do (: < /dev/tcp/localhost/{port}) 2> /dev/null && break; sleep 0.1; done\n"


def section(root, title):
    text = (root / "docs" / "setups.md").read_text(encoding="utf-8")
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S)[1]


@pytest.fixture
def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def run_blocks(tmp_path, root, port):
    """Runs blocks of a shell in an empty folder, with `iom` on the path, until the first command that fails."""
    folder, programs = tmp_path / "empty", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    program = programs / "iom"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m iom "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IOM_")}
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(root)}

    def run(blocks, *more):
        script = "set -e\ntrap 'kill $(jobs -p)' EXIT\n"
        for block in blocks:
            script += block.replace(PORT, str(port))
            if re.search(r"&$", block, flags=re.M):  # the next block is for another terminal, once this one answers
                script += WAIT.format(port=port)
        script += "".join(more).replace(PORT, str(port))
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
        )
        return done, folder

    return run


def test_the_door_opens_for_who_is_enrolled(root, run_blocks):
    blocks = re.findall(r"```sh\n(.*?)```", section(root, "A door"), flags=re.S)
    assert len(blocks) == 3
    refused = "iom verify bob people/subject_0001/000.png 2>&1 || echo code $?\n"
    withdrawn = "echo '{}' > callers.json\niom verify alice people/subject_0002/002.png 2>&1 || echo code $?\n"
    done, folder = run_blocks(blocks, refused, withdrawn)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout
    assert shown.count("\nmatch:") == 2
    assert re.search(r"^alice  \d+  match$", shown, flags=re.M)
    assert "no problems" in shown
    assert "code 7" in shown
    assert shown.rstrip().endswith("code 6")  # a certificate that was taken back gets no key
    audit = (folder / "keys" / "service.keys.audit").read_text(encoding="utf-8")
    assert audit.count('"derive"') >= 6
    for name in ("keys/service.keys", "door.keys", "door.db", "bob.png", "certificates/door.key"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600, name


def test_a_card_is_made_and_verified_in_five_lines(root, run_blocks):
    (block,) = re.findall(r"```sh\n(.*?)```", (root / "docs" / "cards.md").read_text(encoding="utf-8"), flags=re.S)
    assert block.count("\n") == 5
    done, folder = run_blocks([block])
    assert "\nalice: match: " in done.stdout, done.stdout + done.stderr
    assert "\nalice: no match: " in done.stdout
    assert done.stdout.endswith("somebody else\n")
    for name in ("door.key", "alice.png"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
