"""The rows of a search: every variant at every point of the grid, and what is measured beside."""

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

from iom._registry import lookup
from iom.baselines import BASELINES
from iom.config import Stage2Config, SweepConfig, VariantConfig, load_config, settings_of
from iom.errors import ConfigError

LEARNED, UNTRAINED, FLOAT = "learned", "untrained", "float"


@dataclasses.dataclass(frozen=True)
class PlannedRow:
    """One row of the table.

    Attributes:
        name: What the table calls it; distinct.
        series: The line it belongs to in the picture: a variant, a baseline or `float`.
        kind: `learned`, `untrained`, `float`, or the name of a baseline.
        config: The whole stage 2 configuration.
        settings: What the grid sets here, by dotted name.
    """

    name: str
    series: str
    kind: str
    config: Stage2Config
    settings: dict[str, Any]

    @property
    def slug(self) -> str:
        """Name of its files."""
        return re.sub(r"[^A-Za-z0-9.=+-]+", "_", self.name)


def plan_rows(config: SweepConfig) -> list[PlannedRow]:
    """All rows, in the order of their measuring: what costs little comes first.

    Every configuration is read here, so that a misspelt setting is found before any training.

    Raises:
        ConfigError: An unknown setting or baseline, a value out of range, two rows of one name.
    """
    points = list(_points(config))
    variants = config.variants or (VariantConfig(name=LEARNED),)
    rows = [_row(config, variant, point) for variant in variants for point in points]
    planned = [*_data_agnostic(config, rows), *rows]
    slugs = [row.slug for row in planned]
    twice = [row.name for row in planned if slugs.count(row.slug) > 1]
    if twice:
        raise ConfigError(f"search: two rows are called '{twice[0]}'; name the variants apart")
    return planned


def _points(config: SweepConfig) -> Any:
    """Settings of each point of the grid; one empty point where there is no grid."""
    axes = []
    for name, values in config.grid.items():
        names = settings_of(name)
        axes.append([dict(zip(names, value if len(names) > 1 else [value], strict=True)) for value in values])
    for parts in itertools.product(*axes):
        yield {name: value for part in parts for name, value in part.items()}


def _row(config: SweepConfig, variant: VariantConfig, point: dict[str, Any]) -> PlannedRow:
    settings = {**_flat(config.set), **point, **_flat(variant.set)}
    overrides = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    name = " ".join([variant.name, *(f"{_short(key)}={value}" for key, value in point.items())])
    try:
        resolved = load_config(Stage2Config, Path(config.stage2), overrides=overrides)
    except ConfigError as error:
        raise ConfigError(f"row '{name}': {error}") from error
    if resolved.fine_tune:
        raise ConfigError(f"row '{name}': a search works on cached embeddings, without fine_tune")
    kind = LEARNED if variant.train else UNTRAINED
    return PlannedRow(name, variant.name, kind, resolved, dict(point))


def _data_agnostic(config: SweepConfig, rows: list[PlannedRow]) -> list[PlannedRow]:
    """Float once for all embeddings, and each baseline once for every shape."""
    found: dict[Any, PlannedRow] = {}
    sources = list(dict.fromkeys(_source(row) for row in rows))
    for row in rows:
        code, source = row.config.hasher, _source(row)
        place = f" on {sources.index(source) + 1}" if len(sources) > 1 else ""
        found.setdefault((FLOAT, source), PlannedRow(FLOAT + place, FLOAT, FLOAT, row.config, {}))
        shape = f"{code.code_length}x{code.alphabet_size}"
        shape += f" keep={code.keep}" if code.keep else ""
        for name in config.baselines:
            lookup(BASELINES, name, "baseline")
            key = (name, source, code.code_length, code.alphabet_size, code.keep)
            label = f"{name} {shape}{place}"
            found.setdefault(key, PlannedRow(label, name, name, row.config, {}))
    return sorted(found.values(), key=lambda row: row.kind != FLOAT)


def _source(row: PlannedRow) -> tuple[Any, ...]:
    """What the embeddings and the pairs of a row come from."""
    return row.config.data, row.config.embedder, row.config.seed


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections within `set` as dotted names, so that both ways of writing them do."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _short(setting: str) -> str:
    return setting.rpartition(".")[2]
