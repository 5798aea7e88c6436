"""The benchmarks of the service can fail: their judge sees what is wrong."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import service_fuzz, service_load
from benchmarks.service_client import Service, form
from benchmarks.service_fuzz import Judge
from benchmarks.service_fuzz_cases import STRINGS, bearers, damaged, forms, raw, uploads


class Answers:
    """A service that gives one answer to everything."""

    def __init__(self, status=200, body=b"{}", headers=None):
        self.answer = (status, headers or {}, body)

    def ask(self, method, path, **_):
        if isinstance(self.answer[0], Exception):
            raise self.answer[0]
        return self.answer


def judged(service, **options):
    judge = Judge(service, ["secret-of-the-gate", "Traceback"])
    judge.ask("case", "POST", "/v1/door/verify", **options)
    return judge.cases, judge.crashes, judge.leaks, judge.got_in


def test_what_is_wrong_is_seen():
    assert judged(Answers()) == (1, 0, 0, 0)
    assert judged(Answers(500)) == (1, 1, 0, 0)
    assert judged(Answers(ConnectionResetError())) == (1, 1, 0, 0)
    assert judged(Answers(), allowed=False) == (1, 0, 0, 1)
    assert judged(Answers(401), allowed=False) == (1, 0, 0, 0)
    assert judged(Answers(404, b"Traceback (most recent call last)")) == (1, 0, 1, 0)
    assert judged(Answers(404, headers={"x": "secret-of-the-gate"})) == (1, 0, 1, 0)
    # What somebody sent himself may come back to him.
    assert judged(Answers(404, b"secret-of-the-gate"), body=b"secret-of-the-gate") == (1, 0, 0, 0)


def test_a_service_that_is_not_well_is_a_crash():
    judge = Judge(Answers(503), [])
    judge.is_well("after")
    assert judge.crashes == 1


def test_the_cases_are_what_they_are_called(tmp_path):
    files = uploads()
    assert len(files) > 60
    with Image.open(io.BytesIO(files["50 megapixels"])) as image:
        assert image.width * image.height == 50_000_000
    assert len(files["bomb in text chunk"]) < 1e6
    assert max(map(len, files.values())) < 8 * 2**20  # else only the size would be tested
    pieces = list(damaged(20, 1))
    assert pieces == list(damaged(20, 1))
    assert len(set(STRINGS)) == len(STRINGS)
    body, kind = form({"image": b"x"})
    assert body.count(b"boundary-of-the-form") == 2
    assert len(forms(b"x")) > 20
    assert all(isinstance(each, bytes) for each in raw("h", "t", body, kind).values())
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({"tokens": [{"digest": "ab" * 32}]}))
    tokens = {"door admin": "iom_Door", "gate admin": "iom_Gate", "monitor": "iom_m"}
    headers = bearers(tokens, file, "removed", "expired")
    assert "Bearer iom_Door" not in headers.values()
    assert f"Bearer {'ab' * 32}" in headers.values()


def test_without_wrk_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(service_load.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="apt-get install wrk"):
        service_load.main([])


def test_wrk_and_memory_are_read(monkeypatch, tmp_path):
    class Wrk:
        stdout, stderr = "noise\nIOM 1200 60000000 15000 42000 3\n", ""

    monkeypatch.setattr(service_load.subprocess, "run", lambda *_, **__: Wrk)
    service = Service(None, tmp_path, "h", 1)
    memory = iter([100, 110, 120])
    monkeypatch.setattr(service, "memory", lambda: next(memory) * 2**20)
    figures = service_load.load(service, ["wrk"], 0)
    assert figures == {
        "rps": 20.0, "p50_ms": 15.0, "p99_ms": 42.0, "errors": 3,
        "rss_start_mb": 100, "rss_middle_mb": 110, "rss_end_mb": 120,
    }  # fmt: skip
    assert np.isclose(figures["rps"] * 60, 1200)


@pytest.mark.parametrize("module", [service_fuzz, service_load])
def test_help(module, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert f"python -m {module.__name__}" in capsys.readouterr().out
