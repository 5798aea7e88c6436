"""Known weights: the manifest `iom/pretrained/manifest.json`, statements of the input a file wants, and file places."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iom._files import sha256_of
from iom._registry import did_you_mean, lookup
from iom._untrusted import check_name, one_line, read_json
from iom.errors import ConfigError, WeightsError
from iom.pretrained import package_folder, search_folders

FORMAT = 1
_TEXTS = ("format", "folder", "licence", "source")
RAW = "0..255"
RANGES: dict[str, tuple[float, float]] = {
    RAW: (1.0, 0.0),
    "-1..1": (1 / 127.5, -1.0),
    "-1..1 (/128)": (1 / 128, -127.5 / 128),
    "0..1": (1 / 255, 0.0),
}
"""Range to (scale, offset) of raw pixels: the network takes `pixel * scale + offset`."""

COLOUR_ORDERS = ("RGB", "BGR")


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """Kind of input: `RGB` or `BGR`, a key of `RANGES` (`0..255`: the network scales itself), side of the image."""

    colour_order: str
    range: str
    size: int

    @property
    def scaling(self) -> tuple[float, float]:
        """(scale, offset) of raw pixels."""
        return RANGES[self.range]


@dataclasses.dataclass(frozen=True)
class Statement:
    """Facts about a weights file that its content does not tell."""

    input: InputSpec
    architecture: str = ""
    """Backbone, where the file holds weights alone."""
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of that backbone's builder."""
    embedding_size: int = 0
    """0: whatever the file says."""
    sha256: str = ""
    """Of the file; empty: not stated."""
    tensors: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Frozen graphs: names of the `input` and `output` tensors, and values to `feed` others."""


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """A file of an entry; without a SHA-256 it is not pinned, and its input is checked on faces."""

    name: str
    sha256: str | None


@dataclasses.dataclass(frozen=True)
class Entry:
    """Known weights `architecture.tag`: the file to load, those it needs beside it, their terms and how to get them."""

    name: str
    format: str
    files: tuple[WeightsFile, ...]
    folder: str
    statement: Statement
    licence: str
    source: str

    @property
    def is_pinned(self) -> bool:
        """Whether the manifest knows the SHA-256 of every file."""
        return all(file.sha256 for file in self.files)


def read_manifest(path: Path | None = None) -> dict[str, Entry]:
    """Entries by name."""
    path = path or package_folder() / "manifest.json"
    try:
        tree = read_json(path)
    except OSError as error:
        raise WeightsError(f"cannot read the manifest {path}: {error.strerror}") from error
    except ValueError as error:
        raise WeightsError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(tree, dict) or tree.get("version") != FORMAT:
        raise WeightsError(f"{path}: expected a manifest of version {FORMAT}")
    entries = tree.get("entries")
    if not isinstance(entries, dict):
        raise WeightsError(f"{path}: expected 'entries', an object by name")
    return {name: _entry(name, values, path) for name, values in entries.items()}


def _entry(name: str, values: Any, path: Path) -> Entry:
    where = f"{path}: {name}"
    architecture, separator, tag = name.partition(".")
    if not (separator and architecture and tag) or not isinstance(values, dict):
        raise WeightsError(f"{where}: expected an entry named architecture.tag")
    rest = dict(values)
    texts = {}
    for field in _TEXTS:
        texts[field] = rest.pop(field, None)
        if not isinstance(texts[field], str) or not texts[field]:
            raise WeightsError(f"{where}: {field}: expected text, received {texts[field]!r}")
    files = rest.pop("files", None)
    if not isinstance(files, dict) or not files:
        raise WeightsError(f"{where}: files: expected an object of names and SHA-256")
    for place in (texts["folder"], *files):
        check_name(place, source=where, error=WeightsError)
    for file, digest in files.items():
        if digest is not None and (not isinstance(digest, str) or len(digest) != 64):
            raise WeightsError(f"{where}: {file}: expected a SHA-256 or null, received {digest!r}")
    rest.setdefault("architecture", architecture)
    statement = parse_statement(rest, where)
    return Entry(
        name=name,
        files=tuple(WeightsFile(file, digest) for file, digest in files.items()),
        statement=statement,
        **texts,
    )


def find_entry(name: str, entries: dict[str, Entry]) -> Entry | None:
    """Entry of that full name, or of that architecture if it has one tag only; several are an error."""
    if name in entries:
        return entries[name]
    tagged = [entry for full, entry in entries.items() if full.partition(".")[0] == name]
    if len(tagged) > 1:
        choices = ", ".join(sorted(entry.name for entry in tagged))
        raise WeightsError(f"'{name}' is ambiguous: choose one of {choices}")
    return tagged[0] if tagged else None


def locate(entry: Entry, *, verify: bool = True) -> list[Path]:
    """Paths of the entry's files, all in one folder; with `verify`, their SHA-256 is compared."""
    folders = [folder / entry.folder for folder in search_folders()]
    for folder in folders:
        paths = [folder / file.name for file in entry.files]
        if not paths[0].exists():
            continue
        for path, file in zip(paths, entry.files, strict=True):
            if not path.exists():
                raise WeightsError(f"{entry.name}: {path} is missing beside {paths[0].name}")
            if verify and file.sha256 and (found := sha256_of(path)) != file.sha256:
                raise WeightsError(
                    f"{entry.name}: {path} is not the file of the manifest: expected SHA-256 "
                    f"{file.sha256}, received {found}; get it anew: {entry.source}"
                )
        return paths
    names = " and ".join(file.name for file in entry.files)
    places = " or ".join(str(folder) for folder in folders)
    raise WeightsError(
        f"the weights {entry.name} are not here. Get {names} ({entry.source}; {entry.licence}) and put it into {places}"
    )


def unknown_name(name: str, entries: dict[str, Entry]) -> WeightsError:
    """The error for a text that is neither an entry nor a file."""
    return WeightsError(
        f"'{name}' is neither a file nor an entry of the manifest{did_you_mean(name, entries)} "
        f"(entries: {', '.join(sorted(entries))})"
    )


def statement_path(path: Path) -> Path:
    """Where the statement about a weights file stands."""
    return path.with_name(f"{path.name}.input.json")


def missing_statement(path: Path, kind: str) -> WeightsError:
    """The error for a missing statement, with the text to write."""
    ranges = " | ".join(f'"{name}"' for name in RANGES)
    return WeightsError(
        f"{path}: this {kind} file is not in the manifest, and what input it wants cannot be "
        f"seen from it: write {statement_path(path)} with "
        '{"colour_order": "RGB" | "BGR", "range": ' + ranges + ', "size": 112} '
        "as its source states them"
    )


def read_statement(path: Path) -> Statement | None:
    """The statement beside a weights file, `<file>.input.json`, if there is one."""
    place = statement_path(path)
    try:
        values = read_json(place)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise WeightsError(f"cannot read the statement {place}: {reason}") from error
    return parse_statement(values, str(place))


def parse_statement(values: Any, source: str) -> Statement:
    """A statement from JSON."""
    if not isinstance(values, dict):
        raise WeightsError(f"{source}: expected an object, received {type(values).__name__}")
    values = dict(values)
    spec = InputSpec(
        _field(values, "colour_order", str, source),
        _field(values, "range", str, source),
        _field(values, "size", int, source),
    )
    if spec.colour_order not in COLOUR_ORDERS:
        raise WeightsError(f"{source}: colour_order: expected 'RGB' or 'BGR', received '{spec.colour_order}'")
    try:
        lookup(RANGES, spec.range, "range")
    except ConfigError as error:
        raise WeightsError(f"{source}: {error}") from error
    statement = Statement(
        spec,
        architecture=_field(values, "architecture", str, source, default=""),
        arguments=_field(values, "arguments", dict, source, default={}),
        embedding_size=_field(values, "embedding_size", int, source, default=0),
        sha256=_field(values, "sha256", str, source, default=""),
        tensors=_field(values, "tensors", dict, source, default={}),
    )
    for unknown in values:
        known = [f.name for f in dataclasses.fields(InputSpec) + dataclasses.fields(Statement)]
        raise WeightsError(f"{source}: unknown field '{unknown}'{did_you_mean(unknown, known)}")
    return statement


def _field(values: dict[str, Any], name: str, kind: type, source: str, default: Any = None) -> Any:
    value = values.pop(name, default)
    if value is None:
        raise WeightsError(f"{source}: the field '{name}' is missing")
    if not isinstance(value, kind) or isinstance(value, bool):
        raise WeightsError(f"{source}: {name}: expected {kind.__name__}, received {value!r}")
    return value
