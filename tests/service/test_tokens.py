"""Tokens: stored hashed, out of date, taken back."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from iom.errors import ConfigError, DataError
from iom.service.rate_limit import RateLimit
from iom.service.tokens import TokenFile, add_token, remove_token
from tests.commands import command

main = command("make-token")


def made(path, **options):
    values = {"name": "a", "application": "door", "role": "verifier", **options}
    return add_token(path, **values)


def test_only_the_hash_is_stored(tmp_path):
    path = tmp_path / "tokens.json"
    text = made(path)
    assert text not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    token = TokenFile(path).find(text)
    assert (token.name, token.application) == ("a", "door")
    assert token.allows("verify", "door")
    assert not token.allows("verify", "other")
    assert not token.allows("revoke", "door")
    assert TokenFile(path).find(text[:-1]) is None
    assert token.digest not in repr(token)


def test_out_of_date(tmp_path):
    text = made(tmp_path / "t", days=-1)
    assert TokenFile(tmp_path / "t").find(text) is None


def test_taken_back_while_the_service_runs(tmp_path):
    path = tmp_path / "t"
    first, second = made(path), made(path, name="b")
    tokens = TokenFile(path)
    assert tokens.find(first)
    remove_token(path, "a")
    assert tokens.find(first) is None
    assert tokens.find(second)
    path.write_text("{")
    with pytest.raises(DataError, match="JSON"):
        tokens.find(second)
    with pytest.raises(DataError):
        tokens.find(second)
    path.unlink()
    with pytest.raises(DataError, match="cannot read"):
        tokens.find(second)


COMMAND = "import sys; from iom.cli.main import main; sys.exit(main(['make-token', *sys.argv[1:]]))"


def test_two_commands_at_once_lose_nothing(tmp_path, root):
    path = tmp_path / "tokens.json"
    made(path, name="first")
    names = [f"t{number}" for number in range(3)]
    processes = [
        subprocess.Popen([sys.executable, "-c", COMMAND, str(path), name], cwd=root, stdout=subprocess.PIPE)
        for name in names
    ]
    texts = [process.communicate(timeout=60)[0].decode().strip() for process in processes]
    tokens = TokenFile(path)
    assert [tokens.find(text).name for text in texts] == names


def test_threads_that_add_and_remove_lose_nothing(tmp_path):
    path = tmp_path / "tokens.json"
    for number in range(8):
        made(path, name=f"old{number}")
    with ThreadPoolExecutor(16) as threads:
        added = [threads.submit(made, path, name=f"new{number}") for number in range(8)]
        removed = [threads.submit(remove_token, path, f"old{number}") for number in range(8)]
    assert all(each.exception() is None for each in [*added, *removed])
    tokens = TokenFile(path)
    assert all(tokens.find(each.result()) for each in added)
    assert len(json.loads(path.read_text())["tokens"]) == 8


def test_nobody_else_can_read_it_at_any_time(tmp_path):
    """Another process polls the mode of every file in the folder while tokens are made."""
    script = (
        "import os, sys\n"
        "print('watching', flush=True)\n"
        "seen = set()\n"
        "while not os.path.exists(sys.argv[2]):\n"
        "    for each in os.scandir(sys.argv[1]):\n"
        "        try: seen.add(each.stat().st_mode & 0o777)\n"
        "        except FileNotFoundError: pass\n"
        "print(*sorted(map(oct, seen)))"
    )
    folder, stop = tmp_path / "tokens", tmp_path / "stop"
    folder.mkdir()
    watcher = subprocess.Popen(
        [sys.executable, "-c", script, str(folder), str(stop)], stdout=subprocess.PIPE, text=True
    )
    assert watcher.stdout.readline() == "watching\n"
    for number in range(30):
        made(folder / "tokens.json", name=f"t{number}")
    stop.touch()
    assert watcher.communicate(timeout=10)[0].split() == ["0o600"]


@pytest.mark.parametrize("options", [{"role": "king"}, {"name": "a b"}, {"application": "../x"}, {"name": "taken"}])
def test_what_is_not_made(tmp_path, options):
    made(tmp_path / "t", name="taken")
    with pytest.raises(Exception, match=r"expected|taken|role"):
        made(tmp_path / "t", **options)
    assert len(json.loads((tmp_path / "t").read_text())["tokens"]) == 1


def test_damaged_files(tmp_path):
    deep = "[" * 100_000
    for text in (deep, "[]", "{}", '{"format": 2, "tokens": []}', '{"format": 1, "tokens": [{}]}'):
        (tmp_path / "t").write_text(text)
        with pytest.raises(DataError):
            TokenFile(tmp_path / "t")


def test_command(tmp_path, capsys):
    path = str(tmp_path / "t")
    assert main([path, "door", "--role", "admin"]) == 0
    assert TokenFile(tmp_path / "t").find(capsys.readouterr().out.strip()).role == "admin"
    assert main([path, "door"]) == 2
    capsys.readouterr()
    for days in ("0", "-1", "inf", "nan", "1e9"):
        assert main([path, "other", "--days", days]) == 2
        assert "leave it out for a token that does not expire" in capsys.readouterr().err
    assert main([path, "door", "--remove"]) == 0
    assert main([path, "door", "--remove"]) == 2
    with pytest.raises(ConfigError):
        remove_token(tmp_path / "t", "door")


def test_rate_limit():
    now = [0.0]
    limit = RateLimit(2.0, 3, clock=lambda: now[0])
    assert [limit.wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert limit.wait("b") == 0
    assert [limit.wait("c", 2), limit.wait("c", 2)] == [0, 0.5]
    now[0] = 0.5
    assert [limit.wait("a") for _ in range(2)] == [0, 0.5]
