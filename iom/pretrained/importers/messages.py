"""Texts from files and other libraries, made fit for an error of one line."""

from collections.abc import Iterable

LIMIT = 300


def one_line(text: object) -> str:
    """The text on one line, at most `LIMIT` characters; an exception without text by its name.

    Example:
        >>> one_line(ValueError(chr(10).join(["first", "second"])))
        'first second'
        >>> one_line(KeyError())
        'KeyError'
    """
    return " ".join(str(text).split())[:LIMIT] or type(text).__name__


def check_names(names: Iterable[object]) -> None:
    """Names in a file appear in messages: they must be printable text.

    Raises:
        ValueError: One is not, as in a damaged file.
    """
    for name in names:
        if not isinstance(name, str) or not name.isprintable():
            raise ValueError(f"a name that is no text: {name!r}")
