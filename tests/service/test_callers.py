"""The file of a server's callers."""

import pytest

from iom.errors import DataError
from iom.service.callers import Callers


def test_callers_are_read_again(tmp_path):
    path = tmp_path / "callers.json"
    path.write_text('{"door": "a"}')
    callers = Callers(path)
    assert callers.word("door") == "a"
    path.write_text('{"gate": "a", "x": "b"}')
    assert callers.word("door") is None
    assert callers.word("gate") == "a"
    for text in ("", "[]", '{"a": 1}', '{"a": "b/c"}', '{"": "a"}', '{"a": "' + "b" * 65 + '"}', "\xff"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(DataError):
            callers.word("gate")
        with pytest.raises(DataError):
            Callers(path)
    path.unlink()
    with pytest.raises(DataError):
        callers.word("gate")


def test_words_that_may_not_occur(tmp_path):
    path = tmp_path / "callers.json"
    path.write_text('{"door": "verifier"}')
    callers = Callers(path, ("verifier", "admin"))
    assert callers.word("door") == "verifier"
    path.write_text('{"door": "verifier", "desk": "king"}')
    for read in (lambda: callers.word("door"), lambda: Callers(path, ("verifier", "admin"))):
        with pytest.raises(DataError, match="expected one of verifier, admin for each caller, received 'king'"):
            read()
