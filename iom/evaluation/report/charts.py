"""The pictures of a report as SVG that stands within an HTML page and refers to nothing outside."""

import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from iom.evaluation.scores import NO_KEY, OWN_KEY

Tree = Mapping[str, Any]
COLOURS = (
    "#1f2937", "#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#a16207", "#0e7490", "#be185d",
    "#4d7c0f", "#6d28d9", "#b91c1c", "#0f766e",
)  # fmt: skip
MATED, NON_MATED, MARK = "#1d4ed8", "#c2410c", "#111827"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "iom",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "axes.titlecolor": "#111827",
    "axes.titlesize": 10,
    "xtick.color": "#6b7280",
    "ytick.color": "#6b7280",
    "grid.color": "#e5e7eb",
    "legend.frameon": False,
}
WIDTH = 6.4


def colours(systems: Sequence[str]) -> dict[str, str]:
    """A colour for each system, the same in all pictures."""
    return dict(zip(systems, itertools.cycle(COLOURS), strict=False))


def det_chart(tree: Tree) -> str:
    """FNMR against FMR, both logarithmic, with bands."""
    return _error_chart(tree, _det)


def roc_chart(tree: Tree) -> str:
    """1 - FNMR against FMR, the FMR logarithmic, with bands."""
    return _error_chart(tree, _roc)


def cmc_chart(tree: Tree) -> str:
    """Identification rate by rank."""

    def draw(axes: Any) -> None:
        for entry, line in _lines(tree, "identification"):
            figures = entry["figures"]
            points = [figures[name] for name in figures if name.startswith("cmc_rank_")]
            ranks = np.arange(1, len(points) + 1)
            axes.plot(ranks, [100 * p["value"] for p in points], marker="o", markersize=3, **line)
            if points[0]["low"] is not None:
                edges = [[100 * p[side] for p in points] for side in ("low", "high")]
                axes.fill_between(ranks, *edges, color=line["color"], alpha=0.10, linewidth=0)
        axes.set(xlabel="rank", ylabel="found at this rank or before, %", xticks=range(1, 11))
        axes.set_ylim(top=100)

    return _single(draw, "Closed-set search (CMC)", "lower right")


def open_set_chart(tree: Tree) -> str:
    """DIR at rank 1 against FPIR."""

    def draw(axes: Any) -> None:
        for entry, line in _lines(tree, "identification"):
            rates = 100 * np.array(entry["dir"])
            axes.plot(entry["fpir"], rates, **line)
            if "low" in entry:
                edges = [100 * np.array(entry[side]) for side in ("low", "high")]
                axes.fill_between(entry["fpir"], *edges, color=line["color"], alpha=0.10, linewidth=0)
        axes.set(xscale="log", xlabel="FPIR: share of impostors who are found")
        axes.set_ylabel("DIR: share of enrolled found at rank 1, %")
        axes.set_ylim(top=100)

    return _single(draw, "Open-set search (DIR against FPIR)", "lower right")


def histogram_chart(tree: Tree) -> str:
    """Score histograms with the threshold of the decision."""

    def draw(axes: Any, entry: Mapping[str, Any]) -> None:
        for kind, colour, label in (("mated", MATED, "one person"), ("non_mated", NON_MATED, "two people")):
            axes.stairs(
                100 * np.array(entry[kind]), entry["edges"], fill=True, color=colour, alpha=0.55,
                label=label,
            )  # fmt: skip
        axes.axvline(entry["threshold"], color=MARK, linewidth=1.2, linestyle="--")
        axes.set_title(f"{_label(entry)}\nthreshold {entry['threshold']:.4g}", fontsize=9)
        axes.set_xlabel(f"distance: {entry['unit']}", fontsize=8)

    return _grid(tree["sections"]["histograms"], draw, "share of pairs, %")


def linkability_chart(tree: Tree) -> str:
    """Distances between two keys, and D(s) over them."""

    def draw(axes: Any, entry: Mapping[str, Any]) -> None:
        for kind, colour, label in (("mated_share", MATED, "one person"), ("non_mated_share", NON_MATED, "two people")):
            axes.stairs(
                100 * np.array(entry[kind]), entry["edges"], fill=True, color=colour, alpha=0.45,
                label=label,
            )  # fmt: skip
        other = axes.twinx()
        other.stairs(entry["local"], entry["edges"], color=MARK, linewidth=1.2, label="D(s)")
        other.set_ylim(0, 1.03)
        other.spines["right"].set_visible(True)
        other.tick_params(labelsize=7)
        axes.plot([], [], color=MARK, linewidth=1.2, label="D(s), right axis")
        axes.set_title(f"{entry['system']}: D_sys {entry['d_sys']:.3f}", fontsize=9)
        axes.set_xlabel(f"distance: {entry['unit']}", fontsize=8)

    return _grid(tree["sections"]["linkability"], draw, "share, %")


def spread_chart(tree: Tree) -> str:
    """The EER under each test key."""
    entries = [entry for entry in tree["per_key"] if entry["metric"] == "eer"]
    palette = colours(list(tree["systems"]))

    def draw(axes: Any) -> None:
        for row, entry in enumerate(entries):
            values = 100 * np.array(entry["values"])
            colour = palette[entry["system"]]
            axes.plot(values, np.full(len(values), row), "o", color=colour, alpha=0.65, markersize=6)
            axes.plot([values.mean()] * 2, [row - 0.25, row + 0.25], color=colour, linewidth=2)
        axes.set_yticks(range(len(entries)), [_label(entry) for entry in entries])
        axes.set_ylim(len(entries) - 0.5, -0.5)
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        axes.set_xlabel("EER, %: a point for each test key, a bar for the mean")

    return _single(draw, "Spread over keys", "", height=0.9 + 0.36 * max(2, len(entries)))


def attack_chart(tree: Tree) -> str:
    """Post-revocation acceptance of the attacks, by system."""
    entries = [e for e in tree["sections"]["attacks"] if e["prar"] is not None]
    names = list(dict.fromkeys(_attack(entry) for entry in entries))
    systems = list(dict.fromkeys(entry["system"] for entry in entries))
    palette = colours(list(tree["systems"]))

    def draw(axes: Any) -> None:
        height = 0.8 / max(1, len(systems))
        for entry in entries:
            place = names.index(_attack(entry)) + height * systems.index(entry["system"]) - 0.4
            axes.barh(place + height / 2, 100 * entry["prar"], height * 0.9,
                      color=palette[entry["system"]])  # fmt: skip
            edges = entry["intervals"].get("prar")
            if edges:
                axes.plot([100 * e for e in edges], [place + height / 2] * 2, color=MARK,
                          linewidth=0.9)  # fmt: skip
        for system in systems:
            axes.barh(0, 0, color=palette[system], label=system)
        axes.set_yticks(range(len(names)), names)
        axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, 104))
        axes.set_xlabel("accepted under fresh keys (PRAR), %")

    tall = 1.0 + 0.16 * max(2, len(systems)) * len(names)
    return _single(draw, "Attacks after the key was changed", "outside", height=tall)


def _error_chart(tree: Tree, transform: Callable[[Any], Any]) -> str:
    is_det = transform is _det
    floor = 0.5 / tree["benchmark"]["mated"]

    def draw(axes: Any) -> None:
        for entry, line in _lines(tree, "curves"):
            values = transform(entry["fnmr"])
            axes.plot(entry["fmr"], np.maximum(values, 100 * floor), **line)
            if "low" in entry:
                edges = [np.maximum(transform(entry[side]), 100 * floor) for side in ("low", "high")]
                axes.fill_between(entry["fmr"], *edges, color=line["color"], alpha=0.10, linewidth=0)
        axes.set(xscale="log", xlabel="FMR: share of impostors who match")
        axes.set_xlim(tree["sections"]["curves"][0]["fmr"][0], 1)
        if is_det:
            axes.plot([1e-9, 1], [1e-7, 100], color="#9ca3af", linewidth=0.8, linestyle=":")
            axes.set(yscale="log", ylabel="FNMR: share of right people turned away, %")
            axes.set_ylim(100 * floor, 100)
            _note_faultless(axes, tree)
        else:
            axes.set_ylim(top=100)
            axes.set_ylabel("1 - FNMR: share of right people who match, %")

    title = "DET" if is_det else "ROC"
    return _single(draw, title, "upper right" if is_det else "lower right")


def _note_faultless(axes: Any, tree: Tree) -> None:
    """Say which systems have no line on a logarithmic axis, since they make no error."""
    curves = tree["sections"]["curves"]
    names = [_label(entry) for entry in curves if not any(entry["fnmr"])]
    if names:
        text = f"no false non-match at any FMR shown: {'; '.join(names)}"
        axes.text(0.03, 0.05, text, transform=axes.transAxes, fontsize=8, wrap=True)


def _det(rates: Any) -> Any:
    return 100 * np.asarray(rates)


def _roc(rates: Any) -> Any:
    return 100 * (1 - np.asarray(rates))


def _lines(tree: Tree, section: str) -> Any:
    """Each entry with the style of its line."""
    palette = colours(list(tree["systems"]))
    for entry in tree["sections"][section]:
        own = entry["scenario"] == OWN_KEY
        yield (
            entry,
            {
                "color": palette[entry["system"]],
                "linestyle": (0, (4, 2)) if own else "-",
                "linewidth": 1.1 if own else 1.8,
                "label": _label(entry),
            },
        )


def _label(entry: Mapping[str, Any]) -> str:
    if entry["scenario"] == NO_KEY:
        return str(entry["system"])
    return f"{entry['system']}, {entry['scenario'].replace('_', ' ')}"


def _attack(entry: Mapping[str, Any]) -> str:
    name = entry["attack"].replace("_", " ")
    return f"{name}, {entry['records']} records" if entry["records"] > 1 else name


def _single(draw: Callable[[Any], None], title: str, legend: str, *, height: float = 4.4) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(visible=True, which="major", linewidth=0.7)
        axes.set_axisbelow(True)
        draw(axes)
        axes.set_title(title, loc="left", fontweight="bold")
        if legend == "outside":
            figure.legend(loc="outside lower center", ncols=4, fontsize=8)
        elif legend:
            axes.legend(loc=legend, fontsize=8)
        return _svg(figure, title)


def _grid(entries: Sequence[Mapping[str, Any]], draw: Callable[[Any, Mapping[str, Any]], None], label: str) -> str:
    columns = 3
    rows = math.ceil(len(entries) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2 * WIDTH, 2.5 * rows + 0.4), layout="constrained")
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


def _svg(figure: Figure, title: str) -> str:
    """The picture without what an XML file has and a page has not, its identifiers its own."""
    FigureCanvasSVG(figure)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    wide = ' class="wide"' if figure.get_figwidth() > WIDTH else ""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'^<svg[^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" '
                  rf'aria-label="{title}"{wide}>', text)  # fmt: skip
    own = f"c{next(_numbers)}-"
    text = re.sub(r'\bid="', f'id="{own}', text)
    text = text.replace("url(#", f"url(#{own}").replace('href="#', f'href="#{own}')
    return re.sub(r">\s+<", "><", text).strip()


def comparison_chart(trees: Mapping[str, Tree], metrics: Mapping[str, str]) -> str:
    """EER with interval of every report, system and scenario but secret keys."""
    entries = [
        (f"{name}: {_label(row)}", row, number)
        for number, (name, tree) in enumerate(trees.items())
        for row in tree["rows"]
        if row["metric"] == "eer" and row["scenario"] != OWN_KEY
    ]

    def draw(axes: Any) -> None:
        for place, (_, row, number) in enumerate(entries):
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(100 * row["value"], place, "o", color=colour, markersize=6)
            if row["low"] is not None:
                axes.plot([100 * row["low"], 100 * row["high"]], [place] * 2, color=colour)
        axes.set_yticks(range(len(entries)), [label for label, _, _ in entries])
        axes.set_ylim(len(entries) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{metrics['eer']}, with its interval")

    return _single(draw, "Equal error rates", "", height=0.9 + 0.3 * max(3, len(entries)))


def standalone(picture: str) -> str:
    """A picture of a page as an SVG file of its own."""
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return picture.replace("<svg ", f"<svg {names} ", 1)
