"""The demo in one picture: three faces, their codes before and after a key change, decisions."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from iom._files import atomic_path
from iom.evaluation.demo import Demonstration

MATCH_COLOUR, NO_MATCH_COLOUR = "#3d8b57", "#c8553d"
_FACES = ("A  enrolled", "B  the same person", "C  another person")
_ROWS = 8
_BLANK = (0.93, 0.93, 0.93)


def draw_demo(demonstration: Demonstration, images: NDArray[np.uint8], path: Path) -> None:
    """Draw and write a PNG.

    Args:
        demonstration: What was compared.
        images: The faces A, B and C, `(3, S, S, 3)` RGB.
        path: Where the PNG goes.
    """
    figure = Figure(figsize=(14, 8.6), layout="constrained")
    FigureCanvasAgg(figure)
    scenes = demonstration.scenes
    grid = figure.add_gridspec(1 + len(scenes), 4, width_ratios=(1, 1, 1, 1.25))
    for column, (image, title) in enumerate(zip(images, _FACES, strict=True)):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(image, interpolation="bicubic")
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()
    _draw_legend(figure.add_subplot(grid[0, 3]), demonstration)
    for row, scene in enumerate(scenes, start=1):
        whole = np.ones(demonstration.code_length, bool)
        _draw_code(figure.add_subplot(grid[row, 0]), scene.template, whole, demonstration)
        figure.axes[-1].set_title(f"{row}  {scene.title}", fontsize=10.5, loc="left")
        for column, probe in enumerate(scene.probes, start=1):
            equal = probe == scene.template
            axes = figure.add_subplot(grid[row, column])
            _draw_code(axes, probe, equal, demonstration)
            axes.set_xlabel(f"{int(equal.sum())} of {len(equal)} positions agree with A", fontsize=9)
        axes = figure.add_subplot(grid[row, 3])
        _draw_distances(axes, scene.dist_positive, scene.dist_negative, demonstration)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _draw_code(axes: Any, code: NDArray[np.uint8], shown: NDArray[np.bool_], demonstration: Demonstration) -> None:
    """Symbols as coloured cells in reading order; grey where the probe differs from A."""
    columns = -(-len(code) // _ROWS)
    colours = matplotlib.colormaps["turbo"](np.linspace(0.08, 0.92, demonstration.alphabet_size))
    cells = np.ones((_ROWS * columns, 3))
    cells[: len(code)] = np.where(shown[:, None], colours[code, :3], _BLANK)
    axes.imshow(cells.reshape(_ROWS, columns, 3), aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_distances(axes: Any, positive: int, negative: int, demonstration: Demonstration) -> None:
    for place, (name, distance) in enumerate((("A : B", positive), ("A : C", negative))):
        is_match = distance <= demonstration.threshold
        axes.barh(place, distance, height=0.6, color=MATCH_COLOUR if is_match else NO_MATCH_COLOUR)
        decision = "match" if is_match else "no match"
        is_inside = distance > 0.4 * demonstration.code_length
        axes.text(
            0.02 * demonstration.code_length + (0 if is_inside else distance),
            place,
            f"{name}   {distance}   {decision}",
            va="center",
            color="white" if is_inside else "black",
            fontsize=10,
        )
    axes.axvline(demonstration.threshold, color="black", linewidth=1.4)
    unrelated = demonstration.code_length * (1 - 1 / demonstration.alphabet_size)
    axes.axvline(unrelated, color="#666666", linewidth=1, linestyle=":")
    axes.set_xlim(0, demonstration.code_length)
    axes.set_ylim(1.6, -0.6)
    axes.set_yticks([])
    axes.set_xlabel("distance (differing positions)", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_legend(axes: Any, demonstration: Demonstration) -> None:
    axes.set_axis_off()
    lines = (
        f"Code: {demonstration.code_length} symbols of {demonstration.alphabet_size} values,",
        "one colour for each value; in B and C only",
        "the positions that agree with A are coloured.",
        "",
        f"Solid line: threshold {demonstration.threshold}, calibrated at",
        f"FMR {demonstration.fmr:g}; at or below it is a match.",
        "Dotted line: expected for unrelated codes.",
        "",
        "Cosine distance of the embeddings:",
        f"A : B {demonstration.cosine_positive:.3f}     A : C {demonstration.cosine_negative:.3f}",
    )
    axes.text(0, 1, "\n".join(lines), va="top", fontsize=10, linespacing=1.4)
