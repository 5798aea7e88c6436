"""Configurations: strict, frozen sections with errors that name the setting, and the YAML files they are read from."""

import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from iom._files import write_text
from iom._registry import did_you_mean
from iom._untrusted import read_bytes, short
from iom.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 30
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

ConfigT = TypeVar("ConfigT", bound="Section")

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
        else:  # `null` takes a setting of a base configuration back
            settings = {key: value for key, value in settings.items() if value is not None}
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
    """The first error: name of the setting, such as `phases[0].epochs`, and one line that begins with it.

    A loss in a list is named by its name: `losses.triplet.margin`. `section` is what was validated, by default the
    whole configuration.
    """
    first = error.errors(include_url=False)[0]
    kind, details, received = first["type"], first.get("ctx", {}), first["input"]
    place = [*section.split("."), *first["loc"]]
    if kind in (UNKNOWN, CROSS_CHECK):
        place.append(details["setting"])
    elif kind == "union_tag_invalid":
        place.append("name")
        received = details["tag"]
    parts = [part for part in place if part != ""]
    if parts[:1] == ["losses"] and len(parts) > 2:
        del parts[1]  # behind the number stands the loss's name
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
    if kind == UNKNOWN:
        return name, f"unknown key '{name}'{details['hint']} (known: {details['known']})"
    if kind == "missing":
        return name, f"'{name}' is missing"
    if kind == CROSS_CHECK:
        expected, received = details["expected"], details["received"]
    else:
        expected = EXPECTED.get(kind, first["msg"]).format(**details)
    hint = did_you_mean(str(received), re.findall("'([^']+)'", expected)) if isinstance(received, str) else ""
    return name, f"{name or 'the configuration'}: expected {expected}, received {short(received)}{hint}"


class _PlainLoader(yaml.SafeLoader):
    """YAML of a bounded depth without anchors, which could name one part a billion times."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if event.anchor is not None:
            raise ValueError(f"line {event.start_mark.line + 1}: anchors and aliases are not read")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"expected at most {MAX_DEPTH} levels, received more")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _construct_int(loader: _PlainLoader, node: Any) -> int:
    value = int(loader.construct_yaml_int(node))
    if value.bit_length() > 64:
        raise ValueError(f"line {node.start_mark.line + 1}: an integer of more than 64 bits")
    return value


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
# YAML 1.1 reads 1e-3, which has no dot, as a text.
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_config(
    schema: type[ConfigT], path: Path | None = None, *, overrides: Sequence[str] = (), saved: bool = False
) -> ConfigT:
    """Read a configuration.

    Args:
        schema: What to fill, such as `Stage1Config`.
        path: YAML file, or the name of one that the package brings along (`config_path`); its
            `base:` names another that it changes, a file relative to itself or a name. Without a path
            the defaults stand.
        overrides: `section.key=value` texts, applied last; values are read as YAML. An item of a
            list is addressed by its `name`, and added where there is none: `losses.triplet.weight=1`.
        saved: The file was written by `save_config`, perhaps of an older version: settings in an
            old form are taken over. Elsewhere they are refused, and the error shows the new form.

    Raises:
        ConfigError: Unreadable file, unknown key, wrong type, value out of range, circular base.
    """
    tree: dict[str, Any] = {} if path is None else _read_chain(config_path(path), ())
    name, in_file = "--set" if path is None else str(path), frozenset(dotted(tree))
    modern = schema.modern(tree)
    if modern != tree and not saved:
        old = next(key for key in modern if modern[key] != tree[key])
        shown = yaml.safe_dump({old: modern[old]}, default_flow_style=True, sort_keys=False, width=10_000)
        raise ConfigError(f"{name}: {old}: an old form; write {shown.strip()[1:-1]}")
    given = {_apply_override(modern, override, schema) for override in overrides}
    return _build(schema, modern, name, in_file, given)


def config_path(name_or_path: Path | str, *, within: Path = Path()) -> Path:
    """The file of a configuration: a path, which wins where it exists, or a name such as `stage1/base`.

    Paths are relative to `within`. Names are those of the files in `configs`, which the package brings along.
    """
    path = within / name_or_path
    if path.exists():
        return path
    package = Path(__file__).resolve().parents[1]
    folder = next((place for place in (package / "configs", package.parent / "configs") if place.is_dir()), package)
    found = {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))}
    name = Path(name_or_path).as_posix()
    if name in found:
        return found[name]
    bare = name.removesuffix(".yaml").rpartition("configs/")[2]
    raise ConfigError(
        f"no configuration {path}{did_you_mean(bare, found)}: expected a YAML file, or the name of "
        f"one in {folder}, such as stage1/base"
    )


def change_config(config: ConfigT, changes: Mapping[str, Any], *, source: str) -> ConfigT:
    """The configuration with `changes`, nested as in a file, and checked as strictly; errors name their `source`."""
    return _build(type(config), _merge(config.model_dump(), changes), source)


def save_config(config: Section, path: Path) -> None:
    """Write the resolved configuration; `load_config` reads it back equal."""
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _parse_yaml(text: str) -> Any:
    """Value of a YAML text; for any reason that it cannot be read there is a `ValueError` in one line."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES} characters")
    try:
        return yaml.load(text, _PlainLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _read_chain(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in seen:
        raise ConfigError(f"{path}: the chain of 'base:' files comes back to this file")
    try:
        tree = _parse_yaml(read_bytes(path, MAX_BYTES).decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, received other bytes") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if tree is None:
        raise ConfigError(
            f"{path}: expected sections and settings, found none (an empty file, or comments "
            "alone); write {} where the defaults are meant"
        )
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, received {type(tree).__name__}")
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: expected a file or the name of a configuration, received {base!r}")
    try:
        below = config_path(base, within=path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: base: {error}") from error
    return _merge(_read_chain(below, (*seen, resolved)), tree)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return merged


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name, of sections that are nested as in a file."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _apply_override(tree: dict[str, Any], override: str, schema: type[Section]) -> str:
    """Set one setting in the tree; return its name."""
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise ConfigError(f"--set: expected section.key=value, received '{override}'")
    try:
        value = _parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"--set {name}: the value {text[:80]!r} is not valid YAML: {error}") from error
    *sections, key = name.split(".")
    if sections and sections[0] not in tree:
        field = schema.model_fields.get(sections[0])
        items = field.default if field is not None and isinstance(field.default, tuple) else ()
        tree[sections[0]] = [item.model_dump() for item in items if isinstance(item, Section)] or {}
    place: Any = tree
    for section in sections:
        if isinstance(place, list):  # of sections with a name
            known = next((item for item in place if isinstance(item, dict) and item.get("name") == section), None)
            if known is None:
                place.append(known := {"name": section})
            place = known
        else:
            place = place.setdefault(section, {})
        if not isinstance(place, dict | list):
            raise ConfigError(f"--set {name}: '{section}' is a value, not a section")
    if isinstance(place, list):
        raise ConfigError(f"--set {name}: a section of a list; expected one of its settings, as in {name}.weight=1")
    place[key] = value
    return name


def _build(
    schema: type[ConfigT],
    tree: dict[str, Any],
    file: str,
    in_file: Set[str] = frozenset(),
    given: Set[str] = frozenset(),
) -> ConfigT:
    """Validate; errors tell the place: the file, whose settings are `in_file`, or `--set`, which gives `given`."""
    try:
        return schema.model_validate(tree)
    except (ValidationError, ConfigError) as error:  # a validator that speaks of several settings names none
        setting, text = explain(error) if isinstance(error, ValidationError) else ("", str(error))
        raise ConfigError(f"{_place(setting, text, file, in_file, given)}: {text}") from error


def _place(setting: str, text: str, file: str, in_file: Set[str], given: Set[str]) -> str:
    """The file, `--set`, or both where an error names settings of both."""
    for name in given:
        if setting == name or setting.startswith((f"{name}.", f"{name}[")):
            return "--set"
        inside = f"{setting}."
        if setting and name.startswith(inside) and not any(f"{each}.".startswith(inside) for each in in_file):
            return "--set"
    mentioned = sorted(given & {word.strip(".") for word in re.findall(r"[\w.]+", text)})
    return file if not mentioned or file == "--set" else f"{file}, --set {', '.join(mentioned)}"
