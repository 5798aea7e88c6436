"""The figures of a report as a table for a terminal."""

from collections.abc import Callable, Iterator, Sequence

from iom.evaluation.report.result_files import Report, Row


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _area(value: float) -> str:
    return f"{value:.4f}"


def _distance(value: float) -> str:
    """Cosine distances end at 2; code distances count positions, of which tenths are enough."""
    return f"{value:.3f}" if abs(value) <= 2 else f"{value:.1f}"


COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy %", _percent),
    "eer": ("EER %", _percent),
    "auc": ("AUC", _area),
    "fnmr_at_fmr_1e-2": ("FNMR@1e-2 %", _percent),
    "fnmr_at_fmr_1e-3": ("FNMR@1e-3 %", _percent),
    "threshold_at_fmr_1e-3": ("threshold@1e-3", _distance),
}
"""Metric to heading and format, in the order of the table."""


def format_table(report: Report) -> str:
    """Two lines for each system and scenario: the figures, and below them their intervals."""
    metrics = [name for name in COLUMNS if any(row.metric == name for row in report.rows)]
    lines = [["system", "scenario", *(COLUMNS[name][0] for name in metrics)]]
    for system, scenario in dict.fromkeys((row.system, row.scenario) for row in report.rows):
        rows = {row.metric: row for row in report.rows if (row.system, row.scenario) == (system, scenario)}
        lines.append([system, scenario, *(_figure(rows, name) for name in metrics)])
        if any(row.low is not None for row in rows.values()):
            lines.append(["", "", *(_interval(rows[name]) for name in metrics)])
    return "\n".join([*_heading(report), "", *_aligned(lines), "", *_legend(report)])


def _heading(report: Report) -> Iterator[str]:
    size = report.benchmark
    yield (
        f"{size['name']}: {size['pairs']} pairs ({size['mated']} mated, {size['non_mated']} "
        f"non-mated), {size['subjects']} subjects, {size['folds']} folds"
    )
    yield f"embedder {report.embedder['name']}, {report.embedder['embedding_size']} dimensions"
    shapes = [
        f"{name} {system['code_length']}x{system['alphabet_size']}"
        for name, system in report.systems.items()
        if "code_length" in system
    ]
    if shapes:
        yield f"codes: {', '.join(shapes)}; {report.config.scenario.keys} test keys"


def _legend(report: Report) -> Iterator[str]:
    yield ("FNMR@X: false non-match rate at a false match rate of X; threshold@X: the distance there")
    yield "accuracy: ± over folds; figures of codes: mean ± standard deviation over keys"
    scenario = report.config.scenario
    if scenario.bootstrap:
        yield (
            f"[low, high]: {100 * scenario.confidence:g} % interval, {scenario.bootstrap} "
            "bootstrap draws of subjects and keys"
        )
        yield "where a rate has no error: the exact binomial bound for the number of subjects"
    for row in report.rows:
        if row.metric == "fnmr_at_decision":
            fmr = report.row(row.system, row.scenario, "fmr_at_decision").value
            threshold = report.row(row.system, row.scenario, "decision").value
            yield (
                f"{row.system}, {row.scenario}: at its own threshold {threshold:g}, calibrated on "
                f"other data, FMR {_percent(fmr)} % and FNMR {_percent(row.value)} %"
            )
    yield from (f"note: {note}" for note in report.notes)


def _figure(rows: dict[str, Row], metric: str) -> str:
    row, form = rows[metric], COLUMNS[metric][1]
    spread = rows["accuracy_std"].value if metric == "accuracy" else row.std
    if spread is None:
        return form(row.value)
    if form is _distance:  # as many decimals as the value has, whatever the size of the spread
        return f"{form(row.value)} ± {spread:.1f}"
    return f"{form(row.value)} ± {form(spread)}"


def _interval(row: Row) -> str:
    if row.low is None or row.high is None:
        return ""
    form = COLUMNS[row.metric][1]
    return f"[{form(row.low)}, {form(row.high)}]"


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
