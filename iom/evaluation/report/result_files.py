"""What an evaluation leaves behind: rows for programs, a table for people."""

import csv
import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iom._environment import environment
from iom._files import atomic_path, write_json
from iom.config.loading import save_config
from iom.config.schema import EvaluateConfig
from iom.errors import DataError
from iom.evaluation.scores import SystemScores

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of one system in one scenario.

    Attributes:
        system: `float`, the name of a baseline, or `learned`.
        scenario: `none`, `own_key` or `stolen_key`.
        protocol: The benchmark.
        metric: Name of the figure; rates are fractions, thresholds distances.
        value: Mean over keys.
        low: Lower end of the bootstrap interval, or `None` where none was asked for.
        high: Its upper end.
        by_key: The value under each key.
        std: Sample standard deviation over keys, or `None` for a single key.
    """

    system: str
    scenario: str
    protocol: str
    metric: str
    value: float
    low: float | None
    high: float | None
    by_key: tuple[float, ...]
    std: float | None


@dataclasses.dataclass(frozen=True)
class Report:
    """All rows of one evaluation, and what they depend on.

    Attributes:
        config: The resolved configuration.
        benchmark: Name and size of the benchmark.
        embedder: Name, fingerprint and size of the embedder.
        systems: For each system its distance unit and, for codes, their shape.
        rows: The figures.
        scores: The distances behind them, for pictures.
        notes: What a reader of the figures must know.
    """

    config: EvaluateConfig
    benchmark: dict[str, Any]
    embedder: dict[str, Any]
    systems: dict[str, dict[str, Any]]
    rows: tuple[Row, ...]
    scores: tuple[SystemScores, ...]
    notes: tuple[str, ...]

    def row(self, system: str, scenario: str, metric: str) -> Row:
        """The row of one figure.

        Raises:
            DataError: This evaluation has no such figure.
        """
        for row in self.rows:
            if (row.system, row.scenario, row.metric) == (system, scenario, metric):
                return row
        raise DataError(f"the report has no row {system} / {scenario} / {metric}")


def report_tree(report: Report) -> dict[str, Any]:
    """The content of `report.json`."""
    places = ("system", "scenario", "protocol", "metric")
    return {
        "format": FORMAT,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": report.config.seed,
        "benchmark": report.benchmark,
        "embedder": report.embedder,
        "systems": report.systems,
        "rows": [{name: getattr(row, name) for name in (*places, "value", "low", "high")} for row in report.rows],
        "per_key": [
            {name: getattr(row, name) for name in places} | {"values": list(row.by_key), "std": row.std}
            for row in report.rows
            if row.std is not None
        ],
        "notes": list(report.notes),
        "config": dataclasses.asdict(report.config),
        "versions": environment(),
    }


def write_report(report: Report, folder: Path) -> None:
    """Write `report.json`, `report.csv`, `report.png` and `config.yaml`, each atomically.

    Raises:
        DataError: The folder cannot be written to.
    """
    from iom.evaluation.report.plots import draw_report

    try:
        write_json(folder / "report.json", report_tree(report))
        save_config(report.config, folder / "config.yaml")
        with (
            atomic_path(folder / "report.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as stream,
        ):
            _write_csv(report.rows, csv.writer(stream))
        with atomic_path(folder / "report.png") as temporary:
            draw_report(report, temporary)
    except OSError as error:
        raise DataError(f"cannot write the report to {folder}: {error.strerror}") from error


def _write_csv(rows: Sequence[Row], writer: Any) -> None:
    names = ("system", "scenario", "protocol", "metric", "value", "low", "high", "std")
    writer.writerow(names)
    for row in rows:
        values = (getattr(row, name) for name in names)
        writer.writerow(["" if value is None else value for value in values])
