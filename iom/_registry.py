"""Names of choices that the command line offers, and lookup in tables with hints for misspelt names.

Importing it costs nothing: the code behind the names is elsewhere.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import TypeVar

from iom.errors import ConfigError

T = TypeVar("T")

KEY_MODES = ("subject", "application", "share", "device", "device-share")
"""A gallery's keys: one for each record, one for all, on a server of a split gallery half of one for each, or one for
each that stays in the subject's device, whose code lies here, or a share of it."""
DEVICE_MODES = frozenset({"device", "device-share"})
"""Key modes whose keys stay in devices."""
COMPARISONS = ("symbols", "asymmetric")
"""Ways to compare a stored code with a probe: with its code, or with its keyed row."""
FUSIONS = ("none", "centroid", "majority")
"""Several images of a subject, enrolled: a reference each, their mean vector, the majority of their symbols."""
_VERIFIER = frozenset({"align", "verify", "identify", "nonce", "verify-code", "verify-share", "revoke-code"})
_ENROLLER = _VERIFIER | {"enroll", "renew", "enroll-code", "renew-code"}
ROLES: dict[str, frozenset[str]] = {
    "verifier": _VERIFIER,
    "enroller": _ENROLLER,
    "admin": _ENROLLER | {"revoke", "stats"},
    "monitor": frozenset({"metrics"}),
}
"""Role of a token of the service to the actions it allows; a device signs to revoke itself (`revoke-code`)."""
SCORE_FORMATS = ("four", "five", "csv")
"""Layouts of score files."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Hint for a misspelt name: `" - did you mean 'x'?"`, or an empty string."""
    close = difflib.get_close_matches(name, list(choices), n=1)
    return f" - did you mean '{close[0]}'?" if close else ""


def with_scheme(url: str | os.PathLike[str], prefix: str) -> str:
    """A URL, or `prefix` and a path: one of `pathlib`, or a text without a colon."""
    text = os.fspath(url)
    return text if isinstance(url, str) and (":" in text or not text) else prefix + text


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """Entry `name` of `table`; the `ConfigError` names the `kind` ("backbone", "loss") and lists the choices."""
    if name in table:
        return table[name]
    hint = did_you_mean(name, table)
    raise ConfigError(f"unknown {kind} '{name}'{hint} (choices: {', '.join(sorted(table))})")
