"""Plots of a report: SVG that stands within an HTML page and refers to nothing outside, and one PNG of the pairs."""

import functools
import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Picture

from iom.evaluation.records import Histogram, LinkabilityResult, ReportData
from iom.evaluation.report.text import best_store_attacks
from iom.evaluation.scores import NO_KEY, OWN_KEY

COLOURS = (
    "#1f2937", "#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#a16207", "#0e7490", "#be185d",
    "#4d7c0f", "#6d28d9", "#b91c1c", "#0f766e",
)  # fmt: skip
MATED, NON_MATED, MARK, DIAGONAL = "#1d4ed8", "#c2410c", "#111827", "#9ca3af"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "iom",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": DIAGONAL,
    "axes.labelcolor": "#374151",
    "axes.titlecolor": MARK,
    "axes.titlesize": 10,
    "xtick.color": "#6b7280",
    "ytick.color": "#6b7280",
    "grid.color": "#e5e7eb",
    "legend.frameon": False,
}
WIDTH = 6.4
DPI = 110


def report_plots(data: ReportData) -> dict[str, str]:
    """The SVG plots that a report has data for, by name."""
    sections = data.sections

    def lines(draw: Callable[..., None], title: str, legend: str = "lower right") -> Callable[[ReportData], str]:
        return lambda data: _single(functools.partial(draw, data=data), title, legend)

    made: dict[str, tuple[Sequence[Any], Callable[[ReportData], str]]] = {
        "det": (sections.curves, lines(_draw_det, "DET", "upper right")),
        "roc": (sections.curves, lines(_draw_roc, "ROC")),
        "cmc": (sections.identification, lines(_draw_cmc, "Closed-set identification (CMC)")),
        "open_set": (sections.identification, lines(_draw_open_set, "Open-set identification (DIR against FPIR)")),
        "histograms": (sections.histograms, lambda _: _grid(sections.histograms, _draw_histogram, "share of pairs, %")),
        "linkability": (sections.linkability, linkability_plot),
        "attacks": (sections.attacks, attack_plot),
        "stolen_store": (
            [row for row in sections.stolen_store if row.known],
            lines(_draw_stolen_store, "Stolen record store, key unknown", "upper left"),
        ),
        "reliability": (sections.reliability, lines(_draw_reliability, "Reliability", "upper left")),
        "per_key": (data.per_key, spread_plot),
    }
    return {name: draw(data) for name, (needed, draw) in made.items() if needed}


def _draw_roc(axes: Any, *, data: ReportData) -> None:
    """1 - FNMR against FMR, the FMR logarithmic, with intervals."""
    floor = 50 / data.benchmark.mated
    for entry, line in _lines(data, data.sections.curves):
        _line(axes, entry.fmr, _sides(entry.fnmr, entry, lambda rates: np.maximum(100 * (1 - rates), floor)), line)
    axes.set(xscale="log", xlabel="FMR", ylabel="1 - FNMR, %")
    axes.set_xlim(data.sections.curves[0].fmr[0], 1)
    axes.set_ylim(top=100)


def _draw_cmc(axes: Any, *, data: ReportData) -> None:
    """Identification rate by rank."""
    for entry, line in _lines(data, data.sections.identification):
        points = [figure for name, figure in entry.figures.items() if name.startswith("cmc_rank_")]
        rates = np.array([[p.value, p.low, p.high] for p in points], float) * 100  # None is NaN
        _line(axes, np.arange(1, len(points) + 1), rates.T, line | {"marker": "o", "markersize": 3})
    axes.set(xlabel="rank", ylabel="identification rate, %", xticks=range(1, 11))
    axes.set_ylim(top=100)


def _draw_open_set(axes: Any, *, data: ReportData) -> None:
    """DIR at rank 1 against FPIR."""
    for entry, line in _lines(data, data.sections.identification):
        _line(axes, entry.fpir, _sides(entry.dir, entry, lambda rates: 100 * rates), line)
    axes.set(xscale="log", xlabel="FPIR", ylabel="DIR at rank 1, %")
    axes.set_ylim(top=100)


def _draw_reliability(axes: Any, *, data: ReportData) -> None:
    """Observed share of mated comparisons against predicted probability, both on a scale of their odds."""
    entries = data.sections.reliability
    extremes = [min(min(entry.predicted), 1 - max(entry.predicted)) for entry in entries]
    least = min(*extremes, 1 / data.benchmark.mated, 1 / data.benchmark.non_mated) / 2
    ends = least, 1 - least  # 0 and 1 have no place on it
    for entry, line in _lines(data, entries):
        observed, low, high = (
            np.clip(np.array(side, float), *ends) for side in (entry.observed, entry.low, entry.high)
        )  # None is NaN
        axes.vlines(entry.predicted, low, high, color=line["color"], linewidth=0.9, alpha=0.7)
        axes.plot(entry.predicted, observed, **line)
        axes.scatter(entry.predicted, observed, 12 + 120 * np.array(entry.share), color=line["color"], clip_on=False)
    axes.plot(ends, ends, color=DIAGONAL, linewidth=0.8, linestyle=":")
    axes.set(xscale="logit", yscale="logit", xlim=ends, ylim=ends)
    axes.set(xlabel=f"predicted probability of one person, at a prior of {entries[0].prior:g}", ylabel="observed share")


def linkability_plot(data: ReportData) -> str:
    """Distances between two keys, and D(s) over them."""

    def draw(axes: Any, entry: LinkabilityResult) -> None:
        _stairs(axes, entry.edges, entry.mated_share, entry.non_mated_share)
        other = axes.twinx()
        other.stairs(entry.local, entry.edges, color=MARK, linewidth=1.2, label="D(s)")
        other.set_ylim(0, 1.03)
        other.spines["right"].set_visible(True)
        other.tick_params(labelsize=7)
        axes.plot([], [], color=MARK, linewidth=1.2, label="D(s), right axis")
        axes.set_title(f"{entry.system}: D_sys {entry.d_sys:.3f}", fontsize=9)
        axes.set_xlabel(f"distance: {entry.unit}", fontsize=8)

    return _grid(data.sections.linkability, draw, "share of comparisons, %")


def spread_plot(data: ReportData) -> str:
    """EER under each test key."""
    palette = _colours(data)
    rows = [(_label(of), palette[of.system], of.values, ()) for of in data.per_key if of.metric == "eer"]
    return _row_plot(rows, "Spread over keys", "EER, %: a point for each test key, a bar for the mean")


def attack_plot(data: ReportData) -> str:
    """Post-revocation acceptance of the attacks, by system."""
    entries = [(row, prar) for row in data.sections.attacks if (prar := row.estimate("prar"))]
    names = list(dict.fromkeys(row.title for row, _ in entries))
    systems = list(dict.fromkeys(row.system for row, _ in entries))
    palette = _colours(data)

    def draw(axes: Any) -> None:
        height = 0.8 / max(1, len(systems))
        for row, prar in entries:
            place = names.index(row.title) + height * (systems.index(row.system) + 0.5) - 0.4
            axes.barh(place, 100 * prar.value, height * 0.9, color=palette[row.system])
            if prar.low is not None and prar.high is not None:
                axes.plot([100 * prar.low, 100 * prar.high], [place] * 2, color=MARK, linewidth=0.9)
        for system in systems:
            axes.barh(0, 0, color=palette[system], label=system)
        axes.set_yticks(range(len(names)), names)
        axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, 104))
        axes.set_xlabel("accepted under fresh keys (PRAR), %")

    tall = 1.0 + 0.16 * max(2, len(systems)) * len(names)
    return _single(draw, "Attacks after the key was changed", "outside", height=tall)


def _draw_stolen_store(axes: Any, *, data: ReportData) -> None:
    """Acceptance of the best attack on a stolen store by the number of known subjects."""
    palette = _colours(data)
    best = best_store_attacks(data.sections.stolen_store)
    for system, photograph in dict.fromkeys((row.system, row.photograph) for row in best if row.known):
        points = [row for row in best if row.system == system and row.photograph == photograph]
        style = {"color": palette[system], "linestyle": "-" if photograph == "enrolled" else (0, (4, 2)), "marker": "o"}
        rates = [100 * (row.accepted_fresh or 0.0) for row in points]
        axes.plot([row.known for row in points], rates, markersize=3, label=f"{system}, {photograph}", **style)
    axes.set(xlabel="known enrolled subjects", ylabel="accepted under fresh keys, %", ylim=(0, 104))


def diff_plot(reports: Mapping[str, ReportData]) -> str:
    """EER with interval of every report, system and scenario but secret keys."""
    rows = [
        (f"{name}: {_label(row)}", colour, [row.value], (row.low, row.high))
        for (name, data), colour in zip(reports.items(), itertools.cycle(COLOURS), strict=False)
        for row in data.rows
        if row.metric == "eer" and row.scenario != OWN_KEY
    ]
    return _row_plot(rows, "Equal error rates", "EER %, with its interval")


def _row_plot(rows: Sequence[tuple[str, str, list[float], tuple[float | None, ...]]], title: str, xlabel: str) -> str:
    """Label, colour, rates and interval of each row: points, a bar for the mean of several, and a line."""

    def draw(axes: Any) -> None:
        for place, (_, colour, values, interval) in enumerate(rows):
            percents, ends = 100 * np.array(values), [100 * end for end in interval if end is not None]
            axes.plot(percents, np.full(len(values), place), "o", color=colour, alpha=0.65, markersize=6)
            if len(values) > 1:
                axes.plot([percents.mean()] * 2, [place - 0.25, place + 0.25], color=colour, linewidth=2)
            axes.plot(ends, [place] * len(ends), color=colour)
        axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
        axes.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))

    return _single(draw, title, "", height=0.9 + 0.36 * max(2, len(rows)))


def report_png(data: ReportData) -> bytes:
    """A PNG: the histograms of each system at the left, the DET curves of all, a line a key, at the right."""
    systems = list(data.systems)
    rows = max(2, len(systems))
    with mpl.rc_context(STYLE):
        figure = Picture(figsize=(15, 2.6 * rows + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(rows, 4)
        for row, system in enumerate(systems):
            shared = None
            for column, entry in enumerate(e for e in data.sections.histograms if e.system == system):
                axes = figure.add_subplot(grid[row, column], sharex=shared)
                _draw_histogram(axes, entry)
                axes.set_ylabel("share of pairs, %", fontsize=8)
                shared = shared or axes
        figure.axes[0].legend(fontsize=8)
        det = figure.add_subplot(grid[:, 2:])
        det.grid(visible=True, linewidth=0.5)
        _draw_det(det, data=data, by_key=True)
        _plain_ticks(det)
        det.set_title("DET curves, one line a key", fontsize=10)
        det.legend(fontsize=9, loc="upper right")
        size = data.benchmark
        figure.suptitle(
            f"{size.name}: {size.mated} mated and {size.non_mated} non-mated pairs, embedder {data.embedder.name}"
        )
        stream = io.BytesIO()
        figure.savefig(stream, dpi=DPI, format="png")
        return stream.getvalue()


def _draw_det(axes: Any, *, data: ReportData, by_key: bool = False) -> None:
    """FNMR against FMR, both logarithmic, with intervals or a line for each key."""
    floor = 50 / data.benchmark.mated  # half an error, since zero has no place on a logarithmic axis
    curves = data.sections.curves
    for entry, line in _lines(data, curves):
        if by_key:
            for number, rates in enumerate(entry.by_key):
                styled = line | {"linewidth": 1.0, "label": None if number else line["label"]}
                _line(axes, entry.fmr, (np.maximum(100 * np.array(rates), floor), None, None), styled)
            continue
        _line(axes, entry.fmr, _sides(entry.fnmr, entry, lambda rates: np.maximum(100 * rates, floor)), line)
    axes.plot([1e-9, 1], [1e-7, 100], color=DIAGONAL, linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="FMR", ylabel="FNMR, %", xlim=(curves[0].fmr[0], 1), ylim=(floor, 100))
    faultless = [_label(entry) for entry in curves if not any(entry.fnmr)]
    if faultless:
        text = f"no false non-match at any FMR shown: {'; '.join(faultless)}"
        axes.text(0.03, 0.05, text, transform=axes.transAxes, fontsize=8, wrap=True)


def _draw_histogram(axes: Any, entry: Histogram) -> None:
    _stairs(axes, entry.edges, entry.mated, entry.non_mated)
    axes.axvline(entry.threshold, color=MARK, linewidth=1.2, linestyle="--")
    axes.set_title(f"{_label(entry)}\nthreshold {entry.threshold:.4g}", fontsize=9)
    axes.set_xlabel(f"distance: {entry.unit}", fontsize=8)
    axes.tick_params(labelsize=7)


def _stairs(axes: Any, edges: Sequence[float], mated: Sequence[float], non_mated: Sequence[float]) -> None:
    for shares, colour, label in ((mated, MATED, "mated"), (non_mated, NON_MATED, "non-mated")):
        axes.stairs(100 * np.array(shares), edges, fill=True, color=colour, alpha=0.5, label=label)


def _sides(values: Sequence[float], entry: Any, transform: Callable[[Any], Any]) -> list[Any]:
    """Values and the two ends of their intervals, transformed; `None` where there are none."""
    return [None if side is None else transform(np.array(side)) for side in (values, entry.low, entry.high)]


def _line(axes: Any, x: Any, sides: Iterable[Any], style: Mapping[str, Any]) -> None:
    y, low, high = sides
    axes.plot(x, y, **style)
    if low is not None and np.isfinite(low).all():
        axes.fill_between(x, low, high, color=style["color"], alpha=0.10, linewidth=0)


def _lines(data: ReportData, entries: Sequence[Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    palette = _colours(data)
    for entry in entries:
        own = entry.scenario == OWN_KEY
        style = {"linestyle": (0, (4, 2)) if own else "-", "linewidth": 1.1 if own else 1.8}
        yield entry, {"color": palette[entry.system], "label": _label(entry), **style}


def _colours(data: ReportData) -> dict[str, str]:
    return dict(zip(data.systems, itertools.cycle(COLOURS), strict=False))


def _label(entry: Any) -> str:
    if entry.scenario == NO_KEY:
        return str(entry.system)
    return f"{entry.system}, {entry.scenario.replace('_', ' ')}"


def _plain_ticks(axes: Any) -> None:
    """Numbers as text on logarithmic axes, whose usual labels are mathematical markup, which is switched off."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() in ("log", "logit"):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(lambda value, _: "")


def _single(draw: Callable[[Any], None], title: str, legend: str, *, height: float = 4.4) -> str:
    with mpl.rc_context(STYLE):
        figure = Picture(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(visible=True, which="major", linewidth=0.7)
        axes.set_axisbelow(True)
        draw(axes)
        _plain_ticks(axes)
        axes.set_title(title, loc="left", fontweight="bold")
        if legend == "outside":
            figure.legend(loc="outside lower center", ncols=4, fontsize=8)
        elif legend:
            axes.legend(loc=legend, fontsize=8)
        return _svg(figure, title)


def _grid(entries: Sequence[Any], draw: Callable[[Any, Any], None], label: str) -> str:
    columns = 3
    rows = math.ceil(len(entries) / columns)
    with mpl.rc_context(STYLE):
        figure = Picture(figsize=(2 * WIDTH, 2.5 * rows + 0.4), layout="constrained")
        for number, entry in enumerate(entries):
            axes = figure.add_subplot(rows, columns, number + 1)
            axes.tick_params(labelsize=7)
            draw(axes, entry)
            if number % columns == 0:
                axes.set_ylabel(label, fontsize=8)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
        return _svg(figure, label)


_numbers = itertools.count()


def _svg(figure: Picture, title: str) -> str:
    """The plot without XML parts that a page does not need, and with identifiers of its own."""
    FigureCanvasSVG(figure)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    wide = ' class="wide"' if figure.get_figwidth() > WIDTH else ""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    opening = rf'<svg viewBox="\1" role="img" aria-label="{title}"{wide}>'
    text = re.sub(r'^<svg[^>]*?viewBox="([^"]*)"[^>]*>', opening, text)
    own = f"c{next(_numbers)}-"
    text = re.sub(r'\bid="', f'id="{own}', text)
    text = text.replace("url(#", f"url(#{own}").replace('href="#', f'href="#{own}')
    return re.sub(r">\s+<", "><", text).strip()
