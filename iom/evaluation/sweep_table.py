"""What a search leaves behind: one table in three formats, and one picture."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from iom._files import atomic_path, write_json, write_text
from iom.evaluation.report.plots import COLOURS
from iom.evaluation.sweep_plan import FLOAT

FORMAT = 1
RATES = {"eer": "EER", "fnmr_1e-2": "FNMR@1e-2", "fnmr_1e-3": "FNMR@1e-3", "fnmr_1e-4": "FNMR@1e-4"}
PLACES = {"test_": "test", "lfw_": "LFW"}
"""Where figures come from that are not of the held-out subjects, by the start of their names."""


def write_table(rows: Sequence[dict[str, Any]], folder: Path, *, title: str) -> None:
    """Write `search.csv`, `search.json` and `search.md`, each atomically."""
    write_json(folder / "search.json", {"format": FORMAT, "title": title, "rows": list(rows)})
    names = list(dict.fromkeys(name for row in rows for name in row if name != "settings"))
    with atomic_path(folder / "search.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    write_text(folder / "search.md", f"# {title}\n\n{markdown(rows)}\n")


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table, rates in percent; figures of codes are means over keys."""
    rates = [
        f"{place}{rate}"
        for place in ("", *PLACES)
        for rate in RATES
        if any(row.get(f"{place}{rate}") is not None for row in rows)
    ]
    heads = ["row", "shape", "bits", "keep", *(_heading(rate) for rate in rates), "seconds"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        shape = f"{row['code_length']}x{row['alphabet_size']}" if row["bits"] else ""
        figures = [_percent(row, rate) for rate in rates]
        lines.append(
            [row["name"], shape, _cell(row["bits"]), _cell(row["keep"]), *figures,
             f"{row['seconds']:.0f}"]
        )  # fmt: skip
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def draw_search(rows: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    """EER and FNMR against the bits of a code; against keep-k where only that varies.

    The float embedding is a line across. Several rows of one series at one place are joined by the
    lower envelope, and all of them are drawn.
    """
    codes = [row for row in rows if row["series"] != FLOAT]
    by_keep = len({row["bits"] for row in codes}) == 1 and len({row["keep"] for row in codes}) > 1
    axis = "keep" if by_keep else "bits"
    rates = [rate for rate in RATES if any(row.get(rate) is not None for row in codes)]
    rates = [rate for rate in rates if rate != "fnmr_1e-2"] or rates
    figure = Figure(figsize=(6.2 * max(1, len(rates)), 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    for number, rate in enumerate(rates):
        axes = figure.add_subplot(1, len(rates), number + 1)
        _draw_rate(axes, rows, codes, rate, axis)
        if not by_keep:
            axes.set_xscale("log")
        places = sorted({row[axis] for row in codes if row[axis] is not None})
        axes.set_xticks(places, [str(place) for place in places], rotation=60, fontsize=8)
        axes.set_xticks([], minor=True)
        axes.set_xlabel("dimensions kept after the key" if by_keep else "bits of a code")
        axes.set_ylabel(f"{RATES[rate]}, %")
        axes.grid(visible=True, color="#dddddd", linewidth=0.5)
        if number == 0:
            axes.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_rate(
    axes: Any, rows: Sequence[dict[str, Any]], codes: Sequence[dict[str, Any]], rate: str, axis: str
) -> None:
    for number, series in enumerate(dict.fromkeys(row["series"] for row in codes)):
        colour = COLOURS[1 + number % (len(COLOURS) - 1)]
        points = sorted(_points(codes, series, rate, axis))
        if not points:
            continue
        lowest: dict[float, float] = {}
        for place, value in points:
            lowest[place] = min(value, lowest.get(place, value))
        style = "-" if number < len(COLOURS) - 1 else "--"
        axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=4)
        axes.plot(list(lowest), list(lowest.values()), style, color=colour, label=series)
    values = {row[rate] for row in rows if row["series"] == FLOAT and row.get(rate) is not None}
    for number, value in enumerate(sorted(values)):
        axes.axhline(100 * value, color=COLOURS[0], linewidth=1, label=None if number else FLOAT)


def _points(codes: Sequence[dict[str, Any]], series: str, rate: str, axis: str) -> Iterator[tuple[float, float]]:
    for row in codes:
        if row["series"] == series and row.get(rate) is not None:
            yield float(row[axis]), 100 * row[rate]


def _heading(rate: str) -> str:
    for prefix, place in PLACES.items():
        if rate.startswith(prefix):
            return f"{place} {RATES[rate.removeprefix(prefix)]} %"
    return f"{RATES[rate]} %"


def _percent(row: dict[str, Any], rate: str) -> str:
    value, spread = row.get(rate), row.get(f"{rate}_std")
    if value is None:
        return ""
    return f"{100 * value:.2f}" + (f" ± {100 * spread:.2f}" if spread is not None else "")


def _cell(value: Any) -> Any:
    return "" if value is None else value
