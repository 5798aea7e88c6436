"""Folder of one run: resolved configuration, metrics, learning curves, resumable state, best and last model."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from iom._environment import environment
from iom._files import TEMPORARY, atomic_path, remove_temporary_files, write_json, write_text
from iom._untrusted import parse_json, read_arrays, read_json, short
from iom.config import load_config, save_config
from iom.config.base import dotted
from iom.errors import CheckpointError, ConfigError

HEADER = "header"
STATE_VERSION = 1
if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = (5.5, 3.6)
COLUMNS = 2
PERCENT = ("eer", "accuracy")
PLACES = ("epoch", "step", "steps", "phase", "seconds", "fit_seconds")
"""Fields of a record that are neither drawn nor printed: its place and cost."""
DPI = 110

Records = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Progress:
    """The next step of a run, its phase (whose variables the state holds), and the best result so far (low is good)."""

    epoch: int = 0
    step: int = 0
    best: float = float("inf")
    phase: int = 0


class RunDir:
    """A run's folder, with the resolved configuration of the run.

    `state_path` holds the variables of model and optimizer and the progress, `metrics_path` a JSON object a line.
    """

    def __init__(self, path: Path, config: Any) -> None:
        self.path, self.config = path, config
        self.state_path, self.metrics_path = path / "state.npz", path / "metrics.jsonl"

    @classmethod
    def open(cls, path: Path, config: Any, *, resume: bool) -> "RunDir":
        """Start a run in an empty folder, or continue one of the same configuration; `CheckpointError` otherwise.

        Temporary files that killed writers left in the folder are removed.
        """
        run = cls(path, config)
        stored = path / "config.yaml"
        if stored.exists():
            if not resume:
                raise CheckpointError(
                    f"{path} already holds a run: continue it with --resume, or choose another --output"
                )
            run._check_same_config(stored)
        elif path.exists() and any(not each.name.startswith(TEMPORARY) for each in path.iterdir()):
            raise CheckpointError(f"{path} is not empty and holds no run: choose another --output")
        path.mkdir(parents=True, exist_ok=True)
        remove_temporary_files(path)
        if not stored.exists():
            save_config(config, stored)
        run._note_versions()
        return run

    def _note_versions(self) -> None:
        """Add the environment of this process to `versions.json`, unless it is the last one there."""
        path = self.path / "versions.json"
        try:
            known = read_json(path) if path.exists() else []
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged: {error}; delete it to go on") from error
        now = environment()
        if known[-1:] != [now]:
            write_json(path, [*known, now])

    def _check_same_config(self, stored: Path) -> None:
        try:
            before = load_config(type(self.config), stored, saved=True)
        except ConfigError as error:
            raise CheckpointError(f"cannot resume: {error}") from error
        if before == self.config:
            return
        old, new = dotted(before.model_dump()), dotted(self.config.model_dump())
        pairs = {key: (old.get(key), new.get(key)) for key in old | new}
        changed = [f"{key}: {short(a)} -> {short(b)}" for key, (a, b) in pairs.items() if a != b]
        raise CheckpointError(
            f"cannot resume {self.path}: it was started with another configuration ({'; '.join(changed[:3])})"
        )

    def log(self, record: dict[str, Any]) -> None:
        """Append the record of an epoch, or of a `step` within it; records of that place or later are replaced."""
        kept = [row for row in read_records(self.metrics_path) if _place(row) < _place(record)]
        write_records(self.metrics_path, [*kept, record])

    def save_state(self, model: keras.Model, progress: Progress, *, state: Sequence[Any] = ()) -> None:
        """Write every variable of the model, its optimizer and `state` (of losses), atomically."""
        arrays = {
            f"{index:05d}": np.asarray(keras.ops.convert_to_numpy(variable))
            for index, variable in enumerate(_variables(model, state))
        }
        header = {"version": STATE_VERSION, **dataclasses.asdict(progress)}
        with atomic_path(self.state_path) as temporary:
            np.savez(temporary, allow_pickle=False, **{HEADER: np.array(json.dumps(header)), **arrays})

    def progress(self) -> Progress:
        """Progress of the saved state, which is not restored."""
        return _progress(self._stored()[0]) if self.state_path.exists() else Progress()

    def load_state(self, model: keras.Model, *, state: Sequence[Any] = ()) -> Progress:
        """Restore what `save_state` wrote, all or nothing; a run that has not saved yet starts at the beginning."""
        if not self.state_path.exists():
            return Progress()
        header, arrays = self._stored()
        variables = _variables(model, state)
        shapes = [tuple(variable.shape) for variable in variables]
        if header.get("version") != STATE_VERSION or [a.shape for a in arrays] != shapes:
            raise CheckpointError(
                f"{self.state_path}: expected state version {STATE_VERSION} with {len(shapes)} "
                f"variables of this model, received version {header.get('version')} with "
                f"{len(arrays)} variables; it belongs to another model"
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        return _progress(header)

    def _stored(self) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        try:
            stored = read_arrays(self.state_path)
            header = parse_json(str(stored.pop(HEADER)))
            return header, [stored[f"{index:05d}"] for index in range(len(stored))]
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{self.state_path} is damaged ({error}); the run cannot be resumed from it. "
                "The best and last models beside it are not touched; start anew in another folder"
            ) from error


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of `metrics.jsonl`, one JSON object a line; none where there is no file yet."""
    if not path.exists():
        return []
    try:
        records = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not all(isinstance(row, dict) and isinstance(row.get("epoch"), int) for row in records):
        raise CheckpointError(f"{path} is damaged: expected objects with an epoch")
    return records


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write all records, atomically."""
    write_text(path, "".join(f"{json.dumps(row)}\n" for row in records))


def _place(record: dict[str, Any]) -> tuple[int, float]:
    """Order of the records: steps of an epoch come before its end."""
    return record["epoch"], record.get("step", float("inf"))


def _progress(header: dict[str, Any]) -> Progress:
    return Progress(**{name: header[name] for name in vars(Progress()) if name in header})


def _variables(model: keras.Model, state: Sequence[Any]) -> list[Any]:
    """Model, optimizer and other variables in a fixed order; metrics are no part of the state."""
    if not model.optimizer.built:  # the loss-scaling one adds its variables at every call
        model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables, *state]


def draw_curves(path: Path, runs: Mapping[str, Records]) -> None:
    """Draw `curves_figure` into a `.png` or `.svg`, replaced atomically."""
    figure = curves_figure(runs)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI)


def curves_figure(runs: Mapping[str, Records]) -> "Figure":
    """Loss, verification figures and learning rate by epoch, a panel each, a line a run (name to its records)."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    panels = _panels(runs)
    rows = -(-len(panels) // COLUMNS)
    columns = min(COLUMNS, len(panels))
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    colours = dict(zip(runs, itertools.cycle(map(colormaps["tab10"], range(10))), strict=False))
    for number, name in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        scale = 100 if name.endswith(PERCENT) else 1
        for run, records in runs.items():
            points = [(_position(row, records), scale * row[name]) for row in records if name in row]
            if points:
                marker = "o" if len(points) < 40 else None
                axes.plot(*zip(*points, strict=True), label=run, color=colours[run], marker=marker, markersize=3)
        axes.set(title=name.replace("_", " ") + (", %" if scale == 100 else ""), xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if number == 0 and len(runs) > 1:
            handles = [Line2D([], [], color=colours[run], label=run) for run in runs]
            axes.legend(handles=handles, fontsize=7)  # of all runs, whatever this panel holds
    return figure


def _panels(runs: Mapping[str, Records]) -> list[str]:
    """Names of the figures: the losses first, the learning rate last, the rest as they come."""
    rows = (row for records in runs.values() for row in records)
    names = dict.fromkeys(name for row in rows for name in row if name not in PLACES)
    return sorted(names, key=lambda name: (name != "loss", not name.endswith("_loss"), name == "learning_rate"))


def _position(row: Mapping[str, Any], records: Records) -> float:
    """Epochs that are done at a record; a step is placed by the longest epoch known."""
    if "step" not in row:
        return float(row["epoch"])
    longest = max((other.get("steps", other.get("step", 1)) for other in records), default=1)
    return float(row["epoch"] - 1 + row["step"] / max(longest, row["step"]))
