"""Finished cells of `benchmarks.lfw_full`: a file each, valid while what it depends on is the same.

A cell's file says under which settings it was computed, so that a setting that came into being
later, and stands at its default, does not make the cell worthless.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.lfw_full_cells import Cell

if TYPE_CHECKING:
    from iom.config import EvaluateConfig

ABOUT_ATTACKS = ("attack_names", "victims", "old_keys", "fresh_keys", "records")
"""Settings of the section `report` that no other cell depends on."""
CONFIG = "config"


class Cells:
    """The cells of one folder.

    Args:
        folder: Where they are kept.
        config: Settings of the evaluation.
        data: Folder of the data.
        quick: Whether fewer images and trials are used.
    """

    def __init__(self, folder: Path, config: "EvaluateConfig", *, data: Path, quick: bool) -> None:
        self._folder = folder
        self._config = config
        self._more = {"data": str(data), "quick": quick}

    def finished(self, system: str, protocol: str) -> Cell | None:
        """A cell that is there, whole, and of the same settings."""
        path = self._path(system, protocol)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            then, cell = stored["settings"], dict(stored["cell"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            print(f"{path} is damaged and computed again", flush=True)
            return None
        return cell if _same(then, self._settings(system, protocol)) else None

    def keep(self, system: str, protocol: str, cell: Cell) -> None:
        """Write a cell.

        Raises:
            DataError: The file cannot be written.
        """
        from iom._files import write_json
        from iom.errors import DataError

        path = self._path(system, protocol)
        settings = self._settings(system, protocol)
        try:
            write_json(path, {"settings": settings, "cell": cell})
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror}") from error

    def _path(self, system: str, protocol: str) -> Path:
        return self._folder / f"{system}.{protocol}.json"

    def _settings(self, system: str, protocol: str) -> dict[str, Any]:
        """Everything that a cell depends on, the hasher's own file among it."""
        from iom.evaluation.systems import hasher_folders

        folder = hasher_folders(self._config).get(system, "")
        metadata = Path(folder, "hasher.json") if folder else None
        hasher = metadata.read_text(encoding="utf-8") if metadata and metadata.is_file() else ""
        config = _plain(self._config, protocol)
        return self._more | {"hasher": hasher, CONFIG: config}


def _plain(config: "EvaluateConfig", protocol: str) -> dict[str, Any]:
    """A configuration as JSON, without what is about other cells."""
    plain: dict[str, Any] = config.model_dump(mode="json")
    del plain["hasher"], plain["hashers"], plain["scenario"]["systems"]
    if protocol != "attacks":
        for name in ABOUT_ATTACKS:
            del plain["report"][name]
    return plain


def _same(then: Any, now: dict[str, Any]) -> bool:
    """Whether settings agree; one that is new agrees when it stands at its default."""
    from iom.config import EvaluateConfig

    if not isinstance(then, dict) or not isinstance(then.get(CONFIG), dict):
        return False
    if {name: then.get(name) for name in now if name != CONFIG} != {
        name: value for name, value in now.items() if name != CONFIG
    }:
        return False
    old, new = dict(_leaves(then[CONFIG])), dict(_leaves(now[CONFIG]))
    defaults = dict(_leaves(_plain(EvaluateConfig(), "attacks")))
    missing = object()
    return old.keys() <= new.keys() and all(
        old.get(name, defaults.get(name, missing)) == value for name, value in new.items()
    )


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
