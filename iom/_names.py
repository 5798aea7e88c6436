"""Names of choices that the command line offers, apart from the code behind them: importing them costs nothing."""

KEY_MODES = ("subject", "application")
"""A gallery's keys: one for each record, or one for all."""
FUSIONS = ("none", "centroid", "majority")
"""Several images of a subject, enrolled: a reference each, their mean vector, the majority of their symbols."""
ROLES: dict[str, frozenset[str]] = {
    "verifier": frozenset({"align", "verify", "identify"}),
    "enroller": frozenset({"align", "verify", "identify", "enroll", "renew"}),
    "admin": frozenset({"align", "verify", "identify", "enroll", "renew", "revoke", "stats"}),
    "monitor": frozenset({"metrics"}),
}
"""Role of a token of the service to the actions it allows."""
SCORE_FORMATS = ("four", "five", "csv")
"""Layouts of score files."""
