"""What a foreign network wants to be fed: colour order, range and size."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iom._registry import did_you_mean, lookup
from iom._untrusted import read_json
from iom.errors import ConfigError, WeightsError
from iom.pretrained.importers.messages import one_line

RANGES: dict[str, tuple[float, float]] = {
    "0..255": (1.0, 0.0),
    "-1..1": (1 / 127.5, -1.0),
    "-1..1 (/128)": (1 / 128, -127.5 / 128),
    "0..1": (1 / 255, 0.0),
}
"""Range to (scale, offset) of raw pixels: the network takes `pixel * scale + offset`."""

COLOUR_ORDERS = ("RGB", "BGR")


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """Kind of input, as the manifest or a statement beside the file says.

    Attributes:
        colour_order: `RGB` or `BGR`.
        range: A key of `RANGES`. A network that scales pixels itself takes `0..255`.
        size: Side of the square image.
    """

    colour_order: str
    range: str
    size: int

    @property
    def scaling(self) -> tuple[float, float]:
        """(scale, offset) of raw pixels."""
        return RANGES[self.range]


@dataclasses.dataclass(frozen=True)
class Statement:
    """What is known of a weights file besides its content."""

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


def statement_path(path: Path) -> Path:
    """Where the statement about a weights file stands."""
    return path.with_name(f"{path.name}.input.json")


def missing_statement(path: Path, kind: str) -> WeightsError:
    """The error that says what to write."""
    ranges = " | ".join(f'"{name}"' for name in RANGES)
    return WeightsError(
        f"{path}: this {kind} file is not in the manifest, and what input it wants cannot be "
        f"seen from it: write {statement_path(path)} with "
        '{"colour_order": "RGB" | "BGR", "range": ' + ranges + ', "size": 112} '
        "as its source states them"
    )


def read_statement(path: Path) -> Statement | None:
    """The statement beside a weights file, `<file>.input.json`, if there is one.

    Raises:
        WeightsError: It is not valid.
    """
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
    """A statement from JSON.

    Raises:
        WeightsError: A field is missing, unknown, or of another type.
    """
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
