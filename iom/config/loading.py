"""Strict YAML: unknown keys, wrong types and missing files are errors that name the place."""

import dataclasses
import importlib.resources
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from iom._files import write_text
from iom._registry import did_you_mean
from iom._untrusted import read_bytes
from iom.errors import ConfigError
from iom.pretrained import checkout

ConfigT = TypeVar("ConfigT")

BASE = "base"
CONFIG_BYTES = 1 << 20
YAML_DEPTH = 30


class _PlainLoader(yaml.SafeLoader):
    """YAML of a bounded depth without anchors, which could name one part a billion times."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if event.anchor is not None:
            raise ValueError(f"line {event.start_mark.line + 1}: anchors and aliases are not read")
        self.depth += 1
        if self.depth > YAML_DEPTH:
            raise ValueError(f"expected at most {YAML_DEPTH} levels, received more")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _construct_int(loader: _PlainLoader, node: Any) -> int:
    value = int(loader.construct_yaml_int(node))
    if value.bit_length() > 64:
        raise ValueError(f"line {node.start_mark.line + 1}: an integer of more than 64 bits")
    return value


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def _parse_yaml(text: str) -> Any:
    """Value of a YAML text.

    Raises:
        ValueError: Not YAML, nested too deeply, with anchors or with an integer of thousands of
            digits; the reason is on one line.
    """
    if len(text) > CONFIG_BYTES:
        raise ValueError(f"expected at most {CONFIG_BYTES} characters")
    try:
        return yaml.load(text, _PlainLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def load_config(schema: type[ConfigT], path: Path | None = None, *, overrides: Sequence[str] = ()) -> ConfigT:
    """Read a configuration.

    Args:
        schema: The dataclass to fill, such as `Stage1Config`.
        path: YAML file, or the name of one that the package brings along (`config_path`); its
            `base:` names another file, relative to itself, that it changes. Without a path the
            defaults stand.
        overrides: `section.key=value` texts, applied last; values are read as YAML.

    Raises:
        ConfigError: Unreadable file, unknown key, wrong type, value out of range, circular base.
    """
    tree: dict[str, Any] = {} if path is None else _read_chain(config_path(path), ())
    source = _Source("--set" if path is None else str(path), frozenset(_names(tree)))
    for override in overrides:
        source.overridden.add(_apply_override(tree, override))
    config: ConfigT = _build(schema, tree, "", source)
    return config


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
    root = checkout()
    folder = root if root is not None else Path(str(importlib.resources.files("iom")))
    found = {
        file.relative_to(folder / "configs").with_suffix("").as_posix(): file
        for file in sorted((folder / "configs").rglob("*.yaml"))
    }
    name = path.as_posix()
    if name in found:
        return found[name]
    bare = name.removesuffix(".yaml").rpartition("configs/")[2]
    raise ConfigError(
        f"no configuration {path}{did_you_mean(bare, found)}: expected a YAML file, or the name of "
        f"one in {folder / 'configs'}, such as stage1/base"
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
    tree = _merge(_plain(dataclasses.asdict(config)), _plain(dict(changes)))  # type: ignore[call-overload]
    changed: ConfigT = _build(type(config), tree, "", _Source(source))
    return changed


def save_config(config: Any, path: Path) -> None:
    """Write the resolved configuration; `load_config` reads it back equal."""
    write_text(path, yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _read_chain(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in seen:
        raise ConfigError(f"{path}: the chain of 'base:' files comes back to this file")
    try:
        text = read_bytes(path, CONFIG_BYTES).decode("utf-8")
        tree = _parse_yaml(text)
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


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
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

    def of(self, setting: str) -> str:
        """The place of a setting, or of a section."""
        name = setting.split("[")[0].rstrip(".")
        for given in self.overridden:
            if name == given or name.startswith(f"{given}."):
                return "--set"
            if given.startswith(f"{name}.") and name not in self.in_file:
                return "--set"
        return self.name

    def of_text(self, text: str) -> str:
        """The place of the settings that an error names: the file, `--set`, or both."""
        words = {word.strip(".") for word in re.findall(r"[\w.]+", text)}
        given = sorted(self.overridden & words)
        if not given or self.name == "--set":
            return self.name
        return "--set" if text.startswith(given[0]) else f"{self.name}, --set {', '.join(given)}"


def _names(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{key}.")


def _apply_override(tree: dict[str, Any], override: str) -> str:
    """Set one setting in the tree; return its name."""
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise ConfigError(f"--set: expected section.key=value, received '{override}'")
    try:
        value = _parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"--set {name}: the value {text[:80]!r} is not valid YAML: {error}") from error
    *sections, key = name.split(".")
    place = tree
    for section in sections:
        below = place.setdefault(section, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {name}: '{section}' is a value, not a section")
        place = below
    place[key] = value
    return name


def _build(schema: Any, tree: Any, prefix: str, source: _Source) -> Any:
    if not isinstance(tree, dict):
        place = prefix.rstrip(".") or "the file"
        raise ConfigError(f"{source.of(prefix)}: {place}: expected a section, received {tree!r}")
    hints = typing.get_type_hints(schema)
    names = [field.name for field in dataclasses.fields(schema)]
    values = {}
    for key, value in tree.items():
        if key not in names:
            name = f"{prefix}{key}"
            hint = did_you_mean(str(key), names)
            raise ConfigError(f"{source.of(name)}: unknown key '{name}'{hint} (known: {', '.join(names)})")
        values[key] = _convert(hints[key], value, f"{prefix}{key}", source)
    try:
        return schema(**values)
    except ConfigError as error:
        raise ConfigError(f"{source.of_text(str(error))}: {error}") from error


def _convert(expected: Any, value: Any, name: str, source: _Source) -> Any:
    if dataclasses.is_dataclass(expected):
        return _build(expected, value, f"{name}.", source)
    origin = typing.get_origin(expected) or expected
    if origin is types.UnionType:  # `float | None`: nothing is a value of its own
        (inner,) = (kind for kind in typing.get_args(expected) if kind is not type(None))
        return None if value is None else _convert(inner, value, name, source)
    if origin is str and value is None:
        return ""  # YAML's `key:` and the command line's `--set key=` both mean an empty text
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{source.of(name)}: {name}: expected a list, received {value!r}")
        item_type = typing.get_args(expected)[0]
        return tuple(_convert(item_type, item, f"{name}[{i}]", source) for i, item in enumerate(value))
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is float and isinstance(value, str):
        return _float_from_text(value, name, source)
    if not isinstance(value, origin) or (origin is int and isinstance(value, bool)):
        raise ConfigError(
            f"{source.of(name)}: {name}: expected {origin.__name__}, received {value!r} ({type(value).__name__})"
        )
    return value


def _float_from_text(value: str, name: str, source: _Source) -> float:
    """YAML 1.1 reads `1e-3` as text, since it lacks the dot: take it as the number it is."""
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(f"{source.of(name)}: {name}: expected a number, received {value!r}") from error
