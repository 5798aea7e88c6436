"""Configuration files: YAML, chains of `base:` files, and single settings from the command line."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from iom._files import write_text
from iom._registry import did_you_mean
from iom._untrusted import read_bytes
from iom.config.base import Section, explain
from iom.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=Section)

BASE = "base"
MAX_BYTES = 1 << 20
MAX_DEPTH = 30


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
            `base:` names another file, relative to itself, that it changes. Without a path the
            defaults stand.
        overrides: `section.key=value` texts, applied last; values are read as YAML. An item of a
            list is addressed by its `name`, and added where there is none: `losses.triplet.weight=1`.
        saved: The file was written by `save_config`, perhaps of an older version: settings in an
            old form are taken over. Elsewhere they are refused, and the error shows the new form.

    Raises:
        ConfigError: Unreadable file, unknown key, wrong type, value out of range, circular base.
    """
    tree: dict[str, Any] = {} if path is None else _read_chain(config_path(path), ())
    source = _Source("--set" if path is None else str(path), frozenset(_names(tree)))
    modern = schema.modern(tree)
    if modern != tree and not saved:
        name = next(name for name in modern if modern[name] != tree[name])
        shown = yaml.safe_dump({name: modern[name]}, default_flow_style=True, sort_keys=False, width=10_000)
        raise ConfigError(f"{source.name}: {name}: an old form; write {shown.strip()[1:-1]}")
    for override in overrides:
        source.overridden.add(_apply_override(modern, override, schema))
    return _build(schema, modern, source)


def config_path(name_or_path: Path | str) -> Path:
    """The file of a configuration.

    Args:
        name_or_path: A path, which wins where it exists, or a name such as `stage1/base`: a file
            of `configs`, which the package brings along.

    Raises:
        ConfigError: Neither.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    package = Path(__file__).resolve().parents[1]
    folder = next((place for place in (package / "configs", package.parent / "configs") if place.is_dir()), package)
    found = {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))}
    name = path.as_posix()
    if name in found:
        return found[name]
    bare = name.removesuffix(".yaml").rpartition("configs/")[2]
    raise ConfigError(
        f"no configuration {path}{did_you_mean(bare, found)}: expected a YAML file, or the name of "
        f"one in {folder}, such as stage1/base"
    )


def change_config(config: ConfigT, changes: Mapping[str, Any], *, source: str) -> ConfigT:
    """The configuration with some settings changed, checked as strictly as a file is.

    Args:
        config: Where to start.
        changes: Sections and settings, nested as in a file.
        source: Where the changes stand, for errors.

    Raises:
        ConfigError: Unknown key, wrong type, value out of range.
    """
    return _build(type(config), _merge(config.model_dump(), changes), _Source(source))


def save_config(config: Section, path: Path) -> None:
    """Write the resolved configuration; `load_config` reads it back equal."""
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _parse_yaml(text: str) -> Any:
    """Value of a YAML text.

    Raises:
        ValueError: Not YAML, nested too deeply, with anchors or with an integer of thousands of
            digits; the reason is on one line.
    """
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
    base = tree.pop(BASE, None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: expected a file name, received {base!r}")
    return _merge(_read_chain(path.parent / base, (*seen, resolved)), tree)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return merged


@dataclasses.dataclass
class _Source:
    """Where a setting stands, for errors: in a file, or on the command line.

    Attributes:
        name: Of the file.
        in_file: Names of the settings and sections of the file, such as `data` and `data.root`.
        overridden: Names that `--set` gives.
    """

    name: str
    in_file: frozenset[str] = frozenset()
    overridden: set[str] = dataclasses.field(default_factory=set)

    def of(self, setting: str, text: str) -> str:
        """The place of a setting: the file, `--set`, or both where an error names settings of both."""
        for given in self.overridden:
            if setting == given or setting.startswith((f"{given}.", f"{given}[")):
                return "--set"
            if given.startswith(f"{setting}.") and setting and setting not in self.in_file:
                return "--set"
        mentioned = sorted(self.overridden & {word.strip(".") for word in re.findall(r"[\w.]+", text)})
        if not mentioned or self.name == "--set":
            return self.name
        return f"{self.name}, --set {', '.join(mentioned)}"


def _names(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{key}.")


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
    place: Any = tree
    for number, section in enumerate(sections):
        if number == 0 and section not in tree:
            tree[section] = _default_list(schema, section) or {}
        place = _named_item(place, section) if isinstance(place, list) else place.setdefault(section, {})
        if not isinstance(place, dict | list):
            raise ConfigError(f"--set {name}: '{section}' is a value, not a section")
    if isinstance(place, list):
        raise ConfigError(f"--set {name}: a section of a list; expected one of its settings, as in {name}.weight=1")
    place[key] = value
    return name


def _default_list(schema: type[Section], section: str) -> list[Any] | None:
    """The default of a setting that is a list of sections, as a file would give it."""
    field = schema.model_fields.get(section)
    items = field.default if field is not None and isinstance(field.default, tuple) else ()
    return [item.model_dump() for item in items if isinstance(item, Section)]


def _named_item(items: list[Any], name: str) -> Any:
    """The item of a list that has this name; a new one where there is none."""
    for item in items:
        if isinstance(item, dict) and item.get("name") == name:
            return item
    items.append({"name": name})
    return items[-1]


def _build(schema: type[ConfigT], tree: dict[str, Any], source: _Source) -> ConfigT:
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        setting, text = explain(error)
        raise ConfigError(f"{source.of(setting, text)}: {text}") from error
    except ConfigError as error:  # of a validator that speaks of several settings
        raise ConfigError(f"{source.of('', str(error))}: {error}") from error
