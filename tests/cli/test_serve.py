"""`iom serve` and `iom make-token`: help, and mistakes in one line."""

import json
import re
import subprocess
import sys

import pytest

from iom.cli.main import main
from iom.service.tokens import TokenFile


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--tokens", "nowhere.json"], "nowhere.json: cannot read the tokens"),
        (["--demo", "--rate", "0"], "rate: expected a number above 0"),
        (["--demo", "--certificate", "a.pem"], "both"),
        (["--demo", "--proxy", "my-proxy"], "--proxy: expected an address or a network"),
        (["--demo", "--host", "256.0.0.1"], "cannot listen on 256.0.0.1"),
    ],
)
def test_mistakes_are_one_line(arguments, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "--port", "0", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert text in error


def test_a_token_is_made_and_taken_back(tmp_path, capsys):
    path = tmp_path / "tokens.json"
    assert main(["make-token", str(path), "door", "--role", "admin"]) == 0
    text = capsys.readouterr().out.strip()
    assert TokenFile(path).find(text).role == "admin"
    assert main(["make-token", str(path), "door"]) == 2
    assert main(["make-token", str(path), "door", "--remove"]) == 0
    assert TokenFile(path).find(text) is None


def test_certificates_are_made_and_never_overwritten(tmp_path, capsys):
    folder = tmp_path / "certificates"
    assert main(["make-certificates", str(folder), "keys", "door", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 6
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(["make-certificates", str(folder), "door"]) == 2
    assert "there is a file already; nothing was made" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert main(["make-certificates", str(folder), "gate", "--host", "10.0.0.1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["serve", "--demo", "--host", "256.0.0.1"], 2),
        (["list", "--gallery", "none.db", "--keys", "none.keys"], 6),
        (["serve-keys", *(f"--{name}=x" for name in ("callers", "certificate", "key", "authority"))], 2),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_opens_keys_has_no_core_dumps(root, arguments, code):
    script = (
        "import ctypes; from pathlib import Path; from iom.cli.main import main\n"
        f"assert main({arguments}) == {code}\n"
        "print(Path('/proc/self/limits').read_text())\n"
        "print('dumpable', ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    if sys.platform != "linux":
        pytest.skip("no /proc on this machine")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert re.search(r"Max core file size +0 +0 ", done.stdout), done.stderr
    assert done.stdout.splitlines()[-1] == "dumpable 0"
