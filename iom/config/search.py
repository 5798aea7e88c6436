"""What `iom search` reads: a grid over stage 2 configurations."""

import dataclasses
from typing import Any

from iom.config.checks import require
from iom.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class VariantConfig:
    """One named way to make codes; a line of the picture."""

    name: str = ""
    set: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of stage 2 by dotted name, such as `hasher.whitening: 0`."""
    train: bool = True
    """False takes the hasher as it starts: whitening, frame and refinement, but no training."""

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "variants.name", "a name", self.name)


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Every variant at every point of the grid, each beside the baselines of its shape."""

    stage2: str = "stage2/base"
    """Stage 2 configuration that every row starts from."""
    set: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of stage 2 for all rows, by dotted name or in sections."""
    grid: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Dotted setting -> list of values. Several settings, parted by commas, change together: then
    each value is a list with one entry for each of them."""
    variants: tuple[VariantConfig, ...] = ()
    """Without any there is one, `learned`."""
    baselines: tuple[str, ...] = ("grp",)
    """Data-agnostic protections, measured once for every code shape."""
    keys: int = 10
    """Keys that the codes of the held-out subjects are compared under."""
    evaluate: str = ""
    """Optional evaluation configuration: its benchmark is measured too. Choose nothing by it."""
    keep_runs: bool = True
    """False removes the folder of a run once its row is measured."""

    def __post_init__(self) -> None:
        require(bool(self.stage2), "stage2", "the path of a stage 2 configuration", self.stage2)
        require(self.keys >= 1, "keys", "at least 1", self.keys)
        for name, values in self.grid.items():
            if not isinstance(values, list) or not values:
                raise ConfigError(f"grid.{name}: expected a list of values, received {values!r}")
            width = len(settings_of(name))
            wrong = [v for v in values if width > 1 and not (isinstance(v, list) and len(v) == width)]
            if wrong:
                raise ConfigError(f"grid.{name}: expected lists of {width} values, received {wrong[0]!r}")
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ConfigError(f"variants: expected distinct names, received {names}")


def settings_of(name: str) -> list[str]:
    """Dotted settings of one entry of the grid: `"a.b, a.c"` -> `["a.b", "a.c"]`."""
    return [part.strip() for part in name.split(",")]
