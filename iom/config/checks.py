"""The check that every section uses."""

from iom.errors import ConfigError


def require(condition: bool, where: str, expected: str, received: object) -> None:
    """Refuse a value, naming the place, what was expected and what came."""
    if not condition:
        raise ConfigError(f"{where}: expected {expected}, received {received!r}")
