"""Learning curves of one or several runs as a picture."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iom._files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = (5.5, 3.6)
COLUMNS = 2
PERCENT = ("eer", "accuracy")
PLACES = ("epoch", "step", "steps", "phase", "seconds", "fit_seconds")
"""Fields of a record that are not drawn: its place and cost."""
DPI = 110

Records = Sequence[Mapping[str, Any]]


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
    names: dict[str, None] = {}
    for records in runs.values():
        for row in records:
            names |= dict.fromkeys(name for name in row if name not in PLACES)
    losses = [name for name in names if name == "loss" or name.endswith("_loss")]
    losses.sort(key=lambda name: name != "loss")
    rest = [name for name in names if name not in losses and name != "learning_rate"]
    return [*losses, *rest, *(["learning_rate"] if "learning_rate" in names else [])]


def _position(row: Mapping[str, Any], records: Records) -> float:
    """Epochs that are done at a record; a step is placed by the longest epoch known."""
    if "step" not in row:
        return float(row["epoch"])
    longest = max((other.get("steps", other.get("step", 1)) for other in records), default=1)
    return float(row["epoch"] - 1 + row["step"] / max(longest, row["step"]))
