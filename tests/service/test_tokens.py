"""Tokens: stored hashed, out of date, taken back."""

import json

import pytest

from iom.cli.make_token import ROLES as OFFERED
from iom.cli.make_token import main
from iom.errors import ConfigError, DataError
from iom.service.rate import RateLimit
from iom.service.tokens import ROLES, TokenFile, add_token, remove_token


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


@pytest.mark.parametrize(
    "options", [{"role": "king"}, {"name": "a b"}, {"application": "../x"}, {"name": "taken"}]
)
def test_what_is_not_made(tmp_path, options):
    made(tmp_path / "t", name="taken")
    with pytest.raises(Exception, match=r"expected|taken|role"):
        made(tmp_path / "t", **options)
    assert len(json.loads((tmp_path / "t").read_text())["tokens"]) == 1


def test_damaged_files(tmp_path):
    for text in ("[]", "{}", '{"format": 2, "tokens": []}', '{"format": 1, "tokens": [{}]}'):
        (tmp_path / "t").write_text(text)
        with pytest.raises(DataError):
            TokenFile(tmp_path / "t")


def test_command(tmp_path, capsys):
    path = str(tmp_path / "t")
    assert tuple(ROLES) == OFFERED
    assert main([path, "door", "--role", "admin"]) == 0
    assert TokenFile(tmp_path / "t").find(capsys.readouterr().out.strip()).role == "admin"
    assert main([path, "door"]) == 2
    for days in ("-1", "inf", "nan", "1e9"):
        assert main([path, "other", "--days", days]) == 2
    assert main([path, "door", "--remove"]) == 0
    assert main([path, "door", "--remove"]) == 2
    with pytest.raises(ConfigError):
        remove_token(tmp_path / "t", "door")


def test_rate_limit():
    now = [0.0]
    limit = RateLimit(2.0, 3, clock=lambda: now[0])
    assert [limit.wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert limit.wait("b") == 0
    now[0] = 0.5
    assert limit.wait("a", take=0) == 0
    assert [limit.wait("a") for _ in range(2)] == [0, 0.5]
