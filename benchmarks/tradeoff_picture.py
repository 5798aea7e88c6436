"""The trade-off as a picture: EER against post-revocation acceptance."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SIZE = (9.0, 5.5)
MARKERS = {"keep": "o", "parts": "s"}


def draw_tradeoff(path: Path, curve: Sequence[Mapping[str, Any]], float_eer: float, chosen: Mapping[str, Any]) -> None:
    """Draw one line for each code shape and way, in percent; the chosen point is circled.

    Args:
        path: Image file, `.png` or `.svg`.
        curve: Points with `shape`, `way`, `keep`, `eer`, `prar`, and `fmr`, of their threshold:
            markers are filled at the laxest one.
        float_eer: Of the unprotected embedding; a dashed line.
        chosen: The recommended point.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shapes = sorted({point["shape"] for point in curve}, key=lambda text: int(text.split("x")[0]))
    fmrs = sorted({point["fmr"] for point in curve})
    for number, shape in enumerate(shapes):
        for way, fmr in itertools.product(MARKERS, fmrs):
            wanted = (shape, way, fmr)
            points = [p for p in curve if (p["shape"], p["way"], p["fmr"]) == wanted]
            points.sort(key=lambda point: point["keep"])
            axes.plot(
                [100 * point["prar"] for point in points],
                [100 * point["eer"] for point in points],
                marker=MARKERS[way],
                mfc=f"C{number}" if fmr == fmrs[-1] else "white",
                linestyle="-" if way == "keep" else ":",
                color=f"C{number}",
                label=f"{shape}, {way}, FMR {fmr:g}" if points else None,
            )
            for point in points:
                axes.annotate(
                    str(point["keep"]),
                    (100 * point["prar"], 100 * point["eer"]),
                    textcoords="offset points",
                    xytext=(4, 4),
                    fontsize=7,
                )
    axes.plot(100 * chosen["prar"], 100 * chosen["eer"], "o", ms=16, mfc="none", mec="black")
    axes.axhline(100 * float_eer, color="black", linestyle="--", linewidth=0.8)
    rates = [100 * float_eer + 0.5, *(100 * point["eer"] for point in curve)]
    lowest = 0.7 * max(100 * float_eer, 0.01)
    axes.fill_between([0, 5], lowest, rates[0], color="green", alpha=0.12)
    axes.set(
        xlabel="post-revocation acceptance under full disclosure, % (best attack)",
        ylabel="EER, % (dashed: float embedding)",
        xlim=(-2, 102),
        title="What a shorter code costs and hides; numbers are dimensions kept, green is the aim",
    )
    axes.set_yscale("log")
    axes.set_ylim(lowest, 1.3 * max(rates))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
