"""Writing a report: everything is made before the first file is written, each file atomically."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from iom._files import write_json, write_text
from iom.config.loading import save_config
from iom.config.schema import EvaluateConfig
from iom.errors import DataError
from iom.evaluation.report.page import report_page
from iom.evaluation.report.tables import latex, tables

COLUMNS = ("system", "scenario", "protocol", "metric", "value", "low", "high", "std")
PAIR_COLUMNS = ("system", "scenario", "kind", "left", "right", "distance", "threshold", "matches")
PAGE = "report.html"


def write_full_report(
    tree: Mapping[str, Any], config: EvaluateConfig, folder: Path, *, images: Mapping[str, str] | None = None
) -> None:
    """Write the page, `report.json`, CSV files, `tables/*.tex` and `config.yaml`.

    Args:
        tree: Of `full_tree`.
        config: Of the evaluation.
        folder: Where to.
        images: Of `thumbnails`, for the page alone; none by default.

    Raises:
        DataError: The folder cannot be written to.
    """
    texts = {
        PAGE: report_page(tree, images=images),
        "report.csv": csv_text(COLUMNS, _with_spread(tree)),
        "worst_pairs.csv": csv_text(PAIR_COLUMNS, tree["sections"]["worst_pairs"]),
        **{f"tables/{table.name}.tex": latex(table) for table in tables(tree)},
    }
    try:
        write_json(folder / "report.json", tree)
        save_config(config, folder / "config.yaml")
        for name, text in texts.items():
            write_text(folder / name, text)
    except OSError as error:
        raise DataError(f"cannot write the report to {folder}: {error.strerror}") from error


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV; what is missing or None is an empty cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = (row.get(name) for name in columns)
        writer.writerow(["" if value is None else value for value in values])
    return stream.getvalue()


def _with_spread(tree: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    places = COLUMNS[:4]
    stds = {tuple(row[name] for name in places): row["std"] for row in tree["per_key"]}
    for row in tree["rows"]:
        yield {**row, "std": stds.get(tuple(row[name] for name in places))}
