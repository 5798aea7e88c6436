"""Several reports side by side: their figures in one table, picture and page."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from iom._files import write_text
from iom._untrusted import read_json
from iom.errors import DataError
from iom.evaluation.report import charts
from iom.evaluation.report.page import document, figures_html, table_html
from iom.evaluation.report.result_files import FORMAT
from iom.evaluation.report.tables import Table, interval_text, latex
from iom.evaluation.report.write import csv_text

Tree = Mapping[str, Any]
FIELDS = ("benchmark", "rows", "systems", "config")
ONE_BENCHMARK = ("name", "pairs", "mated", "non_mated", "subjects")
METRICS = {
    "accuracy": ("accuracy %", 100),
    "eer": ("EER %", 100),
    "fnmr_at_fmr_1e-2": ("FNMR @ FMR 1e-2 %", 100),
    "fnmr_at_fmr_1e-3": ("FNMR @ FMR 1e-3 %", 100),
    "cmc_rank_1": ("rank 1 %", 100),
    "dir_at_fpir_1e-2_rank_1": ("DIR @ FPIR 1e-2 %", 100),
    "d_sys": ("D_sys", 1),
    "prar": ("PRAR %, best attack", 100),
}
"""Metric to heading and factor; of several rows of one metric the highest is shown."""
PLACES = {"two_keys": "stolen_key", "full_disclosure": "stolen_key"}
"""Scenarios whose figures stand in the line of another one."""
CSV_COLUMNS = ("report", "system", "scenario", "protocol", "metric", "value", "low", "high")


def read_report(path: Path) -> dict[str, Any]:
    """The tree of a `report.json`, or of the folder that holds it.

    Raises:
        DataError: Missing, damaged, or something else.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        tree = read_json(file, parse_constant=_not_a_number)
    except OSError as error:
        raise DataError(f"cannot read report {file}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file}: damaged, or not JSON ({error})") from error
    if not isinstance(tree, dict) or any(field not in tree for field in FIELDS):
        raise DataError(f"{file}: expected a report.json of iom evaluate, received something else")
    if tree.get("format") != FORMAT:
        raise DataError(f"{file}: expected format {FORMAT}, received {tree.get('format')!r}")
    for place, fields in (("benchmark", ONE_BENCHMARK), ("embedder", ("name",))):
        part = tree.get(place)
        if not isinstance(part, dict) or any(field not in part for field in fields):
            raise DataError(f"{file}: {place}: expected a section with {', '.join(fields)}")
    rows = tree["rows"]
    needed = ("system", "scenario", "metric", "value")
    whole = isinstance(rows, list) and all(
        isinstance(row, dict) and all(field in row for field in needed) for row in rows
    )
    if not whole or not isinstance(tree.get("created"), str):
        raise DataError(f"{file}: expected rows with {', '.join(needed)}, and when it was created")
    return tree


def _not_a_number(text: str) -> float:
    raise ValueError(f"{text} is no figure")


def report_names(paths: Sequence[Path]) -> list[str]:
    """A short name for each report: its folder, with as much of its path as tells them apart.

    Raises:
        DataError: A report stands in the list twice.
    """
    folders = [(path if path.is_dir() else path.parent).resolve() for path in paths]
    if len(set(folders)) < len(folders):
        raise DataError("compare: expected different reports, received one of them twice")
    depth = 1
    while True:
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
        depth += 1


def check_same_benchmark(trees: Mapping[str, Tree]) -> None:
    """Refuse figures that cannot be compared.

    Raises:
        DataError: Benchmarks that differ; names both.
    """
    (first, reference), *others = trees.items()
    for name, tree in others:
        for field in ONE_BENCHMARK:
            mine, theirs = reference["benchmark"].get(field), tree["benchmark"].get(field)
            if mine != theirs:
                raise DataError(
                    f"compare: different benchmarks: {field} is {mine!r} in {first} and "
                    f"{theirs!r} in {name}; --different-benchmarks puts them side by side anyway"
                )


def comparison_table(trees: Mapping[str, Tree]) -> Table:
    """A line for each report, system and scenario; what is the same in all reports only once."""
    lines: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}
    for name, tree in trees.items():
        for row in tree["rows"]:
            scenario = PLACES.get(row["scenario"], row["scenario"])
            if row["system"] == "float":
                scenario = "none"
            found = lines.setdefault((name, row["system"], scenario), {})
            metric = row["metric"]
            if metric not in found or row["value"] > found[metric]["value"]:
                found[metric] = row
    shown = [m for m in METRICS if any(m in found for found in lines.values())]
    rows = tuple((*place, *(_cell(found.get(m), m) for m in shown)) for place, found in lines.items())
    header = ("report", "system", "keys", *(METRICS[metric][0] for metric in shown))
    return Table("comparison", "Reports side by side", header, rows, labels=3)


def write_comparison(trees: Mapping[str, Tree], folder: Path) -> Table:
    """Write `comparison.html`, `.csv`, `.tex` and `.svg`; gives back the table.

    Raises:
        DataError: The folder cannot be written to.
    """
    table = comparison_table(trees)
    picture = charts.comparison_chart(trees, {metric: METRICS[metric][0] for metric in METRICS})
    texts = {
        "comparison.html": _page(trees, table, picture),
        "comparison.csv": csv_text(
            CSV_COLUMNS, [{"report": name, **row} for name, tree in trees.items() for row in tree["rows"]]
        ),
        "comparison.tex": latex(table),
        "comparison.svg": charts.standalone(picture),
    }
    try:
        for name, text in texts.items():
            write_text(folder / name, text)
    except OSError as error:
        raise DataError(f"cannot write the comparison to {folder}: {error.strerror}") from error
    return table


def _page(trees: Mapping[str, Tree], table: Table, picture: str) -> str:
    sources = "".join(
        f"<li><b>{escape(name)}</b>: {escape(tree['benchmark']['name'])}, embedder "
        f"{escape(tree['embedder']['name'])}, {escape(tree['created'])}</li>"
        for name, tree in trees.items()
    )
    body = (
        "<header><h1>Reports side by side</h1></header><main>"
        f'<section id="reports"><h2>Reports</h2><ul>{sources}</ul></section>'
        f'<section id="figures"><h2>Figures</h2>{table_html(table)}</section>'
        f'<section id="picture"><h2>Picture</h2>{figures_html(picture)}</section></main>'
    )
    return document("Reports side by side", body)


def _cell(row: Mapping[str, Any] | None, metric: str) -> str:
    if row is None:
        return "–"  # noqa: RUF001 - a dash, not a minus
    factor = METRICS[metric][1]
    low, high = (None if row[side] is None else factor * row[side] for side in ("low", "high"))
    return interval_text(factor * row["value"], low, high, 2 if factor == 100 else 3)
