"""Lookup of named entries in plain tables, with hints for misspelt names."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from iom.errors import ConfigError

T = TypeVar("T")


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Hint for a misspelt name: `" - did you mean 'x'?"`, or an empty string."""
    close = difflib.get_close_matches(name, list(choices), n=1)
    return f" - did you mean '{close[0]}'?" if close else ""


def did_you_mean_url(url: str, prefix: str, schemes: Iterable[str]) -> str:
    """Hint for a URL of an unknown scheme; a plain path is shown behind `prefix`, a possible password never."""
    if url and not set(url) & set("@:?"):
        return f" - did you mean '{prefix}{url}'?"
    return did_you_mean(url.partition(":")[0], schemes)


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """Entry `name` of `table`; the `ConfigError` names the `kind` ("backbone", "loss") and lists the choices."""
    if name in table:
        return table[name]
    hint = did_you_mean(name, table)
    raise ConfigError(f"unknown {kind} '{name}'{hint} (choices: {', '.join(sorted(table))})")
