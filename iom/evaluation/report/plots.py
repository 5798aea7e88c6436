"""One picture of an evaluation: how the distances lie, and which errors follow from them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from iom.evaluation.report.result_files import Report
from iom.evaluation.scores import COSINE_UNIT, NO_KEY, OWN_KEY, SystemScores

MATED_COLOUR, NON_MATED_COLOUR = "#1b6ca8", "#c8553d"
CURVE_COLOURS = ("#222222", "#c8553d", "#1b6ca8", "#3d8b57", "#8a5fa8", "#b08d2f")
MOST_BINS = 64


def draw_report(report: Report, path: Path) -> None:
    """Histograms at the left, one row for each system; DET curves of all at the right.

    Args:
        report: A finished evaluation.
        path: Where the PNG goes.
    """
    systems = list(dict.fromkeys(scores.system for scores in report.scores))
    rows = max(2, len(systems))
    figure = Figure(figsize=(15, 2.6 * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, 4)
    for row, system in enumerate(systems):
        entries = [scores for scores in report.scores if scores.system == system]
        shared = None
        for column, scores in enumerate(entries):
            axes = figure.add_subplot(grid[row, column], sharex=shared)
            _draw_histogram(axes, scores, with_legend=row == column == 0)
            shared = shared or axes
    _draw_curves(figure.add_subplot(grid[:, 2:]), report)
    size = report.benchmark
    figure.suptitle(
        f"{size['name']}: {size['mated']} mated and {size['non_mated']} non-mated pairs, "
        f"embedder {report.embedder['name']}"
    )
    figure.savefig(path, dpi=110)


def _title(scores: SystemScores) -> str:
    return scores.system if scores.scenario == NO_KEY else f"{scores.system}, {scores.scenario}"


def _draw_histogram(axes: Any, scores: SystemScores, *, with_legend: bool) -> None:
    mated = np.concatenate([entry.mated for entry in scores.by_key])
    non_mated = np.concatenate([entry.non_mated for entry in scores.by_key])
    edges = bin_edges(mated, non_mated)
    for distances, colour, label in ((mated, MATED_COLOUR, "mated"), (non_mated, NON_MATED_COLOUR, "non-mated")):
        # A share and not a density: it can be read, and the two kinds may differ in number.
        share = np.full(len(distances), 1 / len(distances))
        axes.hist(distances, bins=edges, weights=share, color=colour, alpha=0.6, label=label, linewidth=0)
    axes.set_title(_title(scores), fontsize=10)
    axes.set_xlabel(f"distance ({scores.unit})", fontsize=8)
    axes.set_ylabel("share of pairs", fontsize=8)
    axes.tick_params(labelsize=8)
    if with_legend:
        axes.legend(fontsize=8, frameon=False)


def bin_edges(mated: Any, non_mated: Any) -> Any:
    """Bins over both kinds; whole positions a bin for codes, or bins would fill unevenly."""
    both = np.concatenate([mated, non_mated])
    low, high = both.min(), both.max()
    if np.issubdtype(both.dtype, np.integer):
        step = max(1, math.ceil((high - low + 1) / MOST_BINS))
        return np.arange(low, high + 1 + step, step) - 0.5
    return np.linspace(low, max(high, low + 1e-6), MOST_BINS + 1)


def _draw_curves(axes: Any, report: Report) -> None:
    # Below one non-mated pair an FMR cannot be observed; zero has no place on a logarithmic axis.
    fmr_floor = 0.5 / report.benchmark["non_mated"]
    fnmr_floor = 0.5 / report.benchmark["mated"]
    top = 0.1
    colour_of: dict[str, str] = {}
    faultless = []
    for scores in report.scores:
        colour = colour_of.setdefault(scores.system, CURVE_COLOURS[len(colour_of) % len(CURVE_COLOURS)])
        if not any(entry.ranked.curve().fnmr_at_fmr(0) for entry in scores.by_key):
            faultless.append(_title(scores))
        for number, entry in enumerate(scores.by_key):
            curve = entry.ranked.curve()
            top = max(top, curve.fnmr_at_fmr(0))
            axes.step(
                np.maximum(curve.fmr, fmr_floor),
                np.maximum(curve.fnmr, fnmr_floor),
                where="post",
                color=colour,
                linestyle="--" if scores.scenario == OWN_KEY else "-",
                linewidth=1.8 if scores.unit == COSINE_UNIT else 1.0,
                alpha=1.0 if len(scores.by_key) == 1 else 0.7,
                label=_title(scores) if number == 0 else None,
            )
    axes.plot([1e-9, 1], [1e-9, 1], color="#999999", linewidth=0.8, linestyle=":", label="FMR = FNMR")
    axes.set(xscale="log", yscale="log", xlim=(fmr_floor, 1), ylim=(fnmr_floor, min(1, 2 * top)))
    if faultless:
        text = f"no false non-match at any FMR shown: {'; '.join(faultless)}"
        axes.text(0.03, 0.03, text, transform=axes.transAxes, fontsize=9, wrap=True)
    axes.set_xlabel("FMR (false match rate)")
    axes.set_ylabel("FNMR (false non-match rate)")
    axes.set_title("DET curves, one line a key", fontsize=10)
    axes.grid(visible=True, which="both", color="#dddddd", linewidth=0.5)
    axes.legend(fontsize=9, loc="upper right")
