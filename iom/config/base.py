"""Base of all configuration sections: strict, frozen, with errors that name the setting."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from iom._registry import did_you_mean
from iom.errors import ConfigError

MAX_SHOWN = 100
"""Characters of a received value that an error shows."""
UNKNOWN, CROSS_CHECK = "unknown_setting", "setting"
EXPECTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "string_too_short": "a text",
    "string_pattern_mismatch": "a text like {pattern}",
    "too_short": "at least {min_length} of them",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a section",
    "model_type": "a section",
    "literal_error": "{expected}",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "union_tag_not_found": "a section with a name",
    "union_tag_invalid": "one of {expected_tags}",
}
"""Kind of a pydantic error to what was expected."""


if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


class _SectionType(ModelMetaclass):
    """Makes a section that is constructed in Python report its errors as a file does."""

    def __call__(cls, **settings: Any) -> Any:  # noqa: N805 - its instances are classes
        try:
            return super().__call__(**settings)
        except ValidationError as error:
            raise ConfigError(explain(error)[1]) from None


class Section(BaseModel, metaclass=_SectionType):
    """A section of a configuration file, or the whole of one.

    Raises:
        ConfigError: Unknown setting, wrong type, value out of range.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, settings: Any) -> Any:
        """Refuse unknown settings with a hint; read YAML's `key:` as an empty text."""
        if not isinstance(settings, dict):
            return settings
        if cls.model_config["extra"] == "forbid":
            for key in settings:
                if key not in cls.model_fields:
                    known = ", ".join(cls.model_fields)
                    hint = did_you_mean(str(key), cls.model_fields)
                    raise PydanticCustomError(UNKNOWN, "unknown", {"setting": str(key), "hint": hint, "known": known})
        texts = [key for key, field in cls.model_fields.items() if field.annotation is str]
        return {**settings, **{key: "" for key in texts if key in settings and settings[key] is None}}

    @staticmethod
    def modern(settings: dict[str, Any]) -> dict[str, Any]:
        """Settings of a file of an older version in their new form."""
        return settings

    def replace(self, **changes: Any) -> Self:
        """The section with some settings changed, checked again."""
        return type(self)(**{**{name: value for name, value in self}, **changes})


def require(holds: bool, setting: str, expected: str, received: object) -> None:
    """Refuse a setting, within a validator of its section, that does not go with another one."""
    if not holds:
        details = {"setting": setting, "expected": expected, "received": received}
        raise PydanticCustomError(CROSS_CHECK, "refused", details)


def explain(error: ValidationError, *, section: str = "") -> tuple[str, str]:
    """The first error: dotted name of the setting, and one line that begins with it.

    Args:
        error: Of the validation of `section`; empty is the whole configuration.
        section: Dotted name.
    """
    first = error.errors(include_url=False)[0]
    kind, place, details, received = (
        first["type"],
        [*section.split("."), *first["loc"]],
        first.get("ctx", {}),
        first["input"],
    )
    if kind in (UNKNOWN, CROSS_CHECK):
        place.append(details["setting"])
    elif kind == "union_tag_invalid":
        place.append("name")
        received = details["tag"]
    name = dotted(place)
    if kind == UNKNOWN:
        return name, f"unknown key '{name}'{details['hint']} (known: {details['known']})"
    if kind == "missing":
        return name, f"'{name}' is missing"
    if kind == CROSS_CHECK:
        expected, received = details["expected"], details["received"]
    else:
        expected = EXPECTED.get(kind, first["msg"]).format(**details)
    shown = repr(received)
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
    hint = did_you_mean(str(received), re.findall("'([^']+)'", expected)) if isinstance(received, str) else ""
    return name, f"{name or 'the configuration'}: expected {expected}, received {shown}{hint}"


def dotted(place: Sequence[str | int]) -> str:
    """Name of a setting: `training.epochs`, `phases[0].epochs`; of a loss in a list `losses.triplet.margin`."""
    parts = [part for part in place if part != ""]
    if parts[:1] == ["losses"] and len(parts) > 2:
        del parts[1]  # behind the number stands the loss's name
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
