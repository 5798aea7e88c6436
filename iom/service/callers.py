"""Callers of a server for other programs, by a file that is read again when it changes."""

import json
import re
import threading
from collections.abc import Collection
from pathlib import Path

from iom._untrusted import one_line, read_json
from iom.errors import DataError
from iom.service.tokens import file_mark

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Callers:
    """A word for each caller, such as its name space or its role: a JSON object in a file.

    Args:
        path: The file; it is read again when it changes.
        words: The words that may occur; any name where it is empty.

    Raises:
        DataError: The file cannot be read, or is something else.
    """

    def __init__(self, path: Path, words: Collection[str] = ()) -> None:
        self._path, self._words = path, words
        self._lock = threading.Lock()
        self._mark = file_mark(path)
        self._known = self._read()

    def word(self, caller: str) -> str | None:
        """The word of a caller; `None` for one that is not in the file, a `DataError` where the file is damaged."""
        with self._lock:
            mark = file_mark(self._path)
            if mark != self._mark:
                # A damaged file must not keep a caller that was to be taken out.
                self._known = {}
                self._known = self._read()
                self._mark = mark
            return self._known.get(caller)

    def _read(self) -> dict[str, str]:
        try:
            content = read_json(self._path)
        except OSError as error:
            raise DataError(f"{self._path}: cannot read the callers: {error.strerror}") from error
        except ValueError as error:
            raise DataError(f"{self._path}: expected JSON of callers: {one_line(error)}") from error
        if not isinstance(content, dict) or not all(
            isinstance(name, str) and _NAME.fullmatch(name) for pair in content.items() for name in pair
        ):
            raise DataError(
                f"{self._path}: expected a JSON object of callers, such as "
                f"{json.dumps({'door': next(iter(self._words), 'door')})}, each of 1 to 64 letters, digits and '_.-'"
            )
        if self._words and (other := set(content.values()) - set(self._words)):
            raise DataError(
                f"{self._path}: expected one of {', '.join(self._words)} for each caller, received {min(other)!r}"
            )
        return dict(content)
