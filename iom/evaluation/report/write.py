"""Files of one or several reports: pages, CSV, LaTeX, plots; all contents are made before the first file is written."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup
from PIL import Image

from iom._files import atomic_path, csv_text
from iom.data.benchmarks.base import PairBenchmark
from iom.errors import DataError
from iom.evaluation.records import FILE, HardestPair, ReportData
from iom.evaluation.report import plots
from iom.evaluation.report.text import Table, diff_table, render, report_tables
from iom.evaluation.score_files import benchmark_names

PAGE = "report.html"
DIFF_PAGE = "comparison.html"
JPEG_QUALITY = 80
SVG_NAMES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
"""Namespaces that a plot needs in a file of its own."""
COLUMNS = ("system", "scenario", "protocol", "metric", "value", "low", "high", "std")
SAME_BENCHMARK = ("name", "pairs", "mated", "non_mated", "subjects")
TITLES = {
    "summary": "Summary",
    "verification": "Verification",
    "identification": "Identification",
    "scores": "Score histograms",
    "linkability": "Unlinkability between keys",
    "attacks": "Attacks under full disclosure",
    "stolen_store": "Stolen record store",
    "calibration": "Calibration",
    "per_key": "Spread over keys",
    "hardest_pairs": "Hardest pairs",
    "environment": "Environment",
    "config": "Configuration",
}
OPTIONAL = ("identification", "linkability", "attacks", "stolen_store", "calibration", "per_key")
"""Sections that are left out of a page without their table."""


def report_page(data: ReportData, *, images: Mapping[str, str] | None = None) -> str:
    """The HTML page of a full report; it fetches nothing and runs no script. `images` are `data:` addresses by name."""
    tables = report_tables(data)
    halves: dict[tuple[str, str], list[HardestPair]] = {}
    for pair in data.sections.hardest_pairs:
        halves.setdefault((pair.system, pair.kind), []).append(pair)
    about = [(name, str(value)) for name, value in data.environment.items()]
    about += [("embedder", data.embedder.name), ("embedder SHA-256", data.embedder.fingerprint)]
    about.append(("seed", str(data.seed)))
    return render(
        "report.html.j2",
        data=data,
        titles={name: title for name, title in TITLES.items() if name in tables or name not in OPTIONAL},
        tables=tables,
        plots={name: Markup(svg) for name, svg in plots.report_plots(data).items()},  # noqa: S704 - made by Matplotlib
        halves=halves,
        environment=Table(("item", "value"), tuple(about)),
        config=yaml.safe_dump(data.config, sort_keys=False),
        images=images or {},
    )


def write_figures(data: ReportData, folder: Path) -> None:
    """Write `report.json`, `report.csv`, `report.png` and `config.yaml`, each atomically."""
    _write("report", folder, {**_data_texts(data), "report.png": plots.report_png(data)})


def write_report(data: ReportData, folder: Path, *, images: Mapping[str, str] | None = None) -> Path:
    """Write the page with `thumbnails`, `report.json`, CSV, `tables/*.tex`, `config.yaml`; return the page's path."""
    pairs = csv_text(list(HardestPair.model_fields), (pair.model_dump() for pair in data.sections.hardest_pairs))
    texts = {
        **_data_texts(data),
        PAGE: report_page(data, images=images),
        "hardest_pairs.csv": pairs,
        **{f"tables/{name}.tex": f"% {TITLES[name]}\n{table.latex()}" for name, table in report_tables(data).items()},
    }
    _write("report", folder, texts)
    return folder / PAGE


def thumbnails(benchmark: PairBenchmark, pairs: Sequence[HardestPair]) -> dict[str, str]:
    """The images of pairs as `data:` addresses (JPEG) by name; templates of several images are left out."""
    if benchmark.pooling is not None:
        return {}
    row_of = {name: row for row, name in enumerate(benchmark_names(benchmark))}
    names = dict.fromkeys(name for pair in pairs for name in (pair.left, pair.right))
    return {name: _data_address(benchmark.images[row_of[name]]) for name in names}


def report_names(paths: Sequence[Path]) -> list[str]:
    """A distinct name for each report: its folder, with as much of its path as is needed."""
    folders = [(path if path.is_dir() else path.parent).resolve() for path in paths]
    if len(set(folders)) < len(folders):
        raise DataError("compare: expected different reports, received one of them twice")
    depth = 1
    while True:
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
        depth += 1


def check_same_benchmark(reports: Mapping[str, ReportData]) -> None:
    """Refuse reports of different benchmarks, whose figures cannot be compared."""
    (first, reference), *others = reports.items()
    for name, data in others:
        for field in SAME_BENCHMARK:
            expected, received = getattr(reference.benchmark, field), getattr(data.benchmark, field)
            if expected != received:
                raise DataError(
                    f"compare: different benchmarks: {field} is {expected!r} in {first} and "
                    f"{received!r} in {name}; --different-benchmarks puts them side by side anyway"
                )


def write_diff(reports: Mapping[str, ReportData], folder: Path) -> Table:
    """Write `comparison.html`, `.csv`, `.tex` and `.svg`; return the table."""
    table, plot = diff_table(reports), plots.diff_plot(reports)
    rows = [{"report": name, **row.model_dump()} for name, data in reports.items() for row in data.rows]
    texts = {
        DIFF_PAGE: render("diff.html.j2", reports=reports, table=table, plot=Markup(plot)),  # noqa: S704
        "comparison.csv": csv_text(("report", *COLUMNS[:-1]), rows),
        "comparison.tex": f"% Reports side by side\n{table.latex()}",
        "comparison.svg": plot.replace("<svg ", f"<svg {SVG_NAMES} ", 1),
    }
    _write("comparison", folder, texts)
    return table


def _data_texts(data: ReportData) -> dict[str, str]:
    stds = {(entry.system, entry.scenario, entry.protocol, entry.metric): entry.std for entry in data.per_key}
    rows = (
        row.model_dump() | {"std": stds.get((row.system, row.scenario, row.protocol, row.metric))} for row in data.rows
    )
    return {
        FILE: data.model_dump_json(indent=2) + "\n",
        "config.yaml": yaml.safe_dump(data.config, sort_keys=False),
        "report.csv": csv_text(COLUMNS, rows),
    }


def _write(what: str, folder: Path, files: Mapping[str, str | bytes]) -> None:
    try:
        for name, content in files.items():
            with atomic_path(folder / name) as temporary:
                temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        raise DataError(f"cannot write the {what} to {folder}: {error.strerror}") from error


def _data_address(image: Any) -> str:
    stream = io.BytesIO()
    try:
        with Image.open(image) if isinstance(image, Path) else Image.fromarray(np.asarray(image, np.uint8)) as opened:
            opened.convert("RGB").save(stream, "JPEG", quality=JPEG_QUALITY)
    except OSError as error:
        raise DataError(f"cannot read image {image}: {error}") from error
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
