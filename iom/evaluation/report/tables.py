"""The tables of a report as rows of text, for a page, for LaTeX and for a terminal."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Tree = Mapping[str, Any]
EMPTY = "–"  # noqa: RUF001 - a dash, not a minus
VERIFICATION = {
    "accuracy": "accuracy %",
    "eer": "EER %",
    "fnmr_at_fmr_1e-2": "FNMR @ FMR 1e-2 %",
    "fnmr_at_fmr_1e-3": "FNMR @ FMR 1e-3 %",
    "auc": "AUC",
}
IDENTIFICATION = {
    "cmc_rank_1": "rank 1 %",
    "cmc_rank_10": "rank 10 %",
    "dir_at_fpir_1e-2_rank_1": "DIR @ FPIR 1e-2 %",
    "dir_at_fpir_1e-1_rank_1": "DIR @ FPIR 1e-1 %",
}
ATTACKS = {
    "cosine": "cosine",
    "sar": "SAR %",
    "prar": "PRAR %",
    "prar_other": "PRAR, other sample %",
    "linking_auc": "linking AUC",
    "linking_auc_same": "linking AUC, same photograph",
    "rank_one": "photograph found first %",
}
UNIT_FIGURES = ("cosine", "linking_auc", "linking_auc_same")
"""Of attacks: not in percent."""
SPREAD = ("eer", "fnmr_at_fmr_1e-2", "fnmr_at_fmr_1e-3")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        name: For file names and anchors.
        title: In words.
        header: Column headings.
        rows: Cells; the first `labels` of each row are words, the others figures.
        labels: How many columns are words.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 2


def tables(tree: Tree) -> list[Table]:
    """Every table that a report has figures for."""
    made = (make(tree) for make in MAKERS)
    return [table for table in made if table.rows]


def verification_table(tree: Tree) -> Table:
    """Figures of the benchmark's pairs, by system and scenario."""
    figures = _by_place(tree, tree["benchmark"]["name"])
    shown = {
        metric: heading
        for metric, heading in VERIFICATION.items()
        if any(metric in of_place for of_place in figures.values())
    }
    rows = tuple(
        (*place, *(_rate(of_place.get(m), 1 if m == "auc" else 100) for m in shown))
        for place, of_place in figures.items()
    )
    header = ("system", "keys", *shown.values())
    return Table("verification", "Verification", header, rows)


def identification_table(tree: Tree) -> Table:
    """Closed-set and open-set search."""
    entries = tree["sections"].get("identification", [])
    shown = {m: h for m, h in IDENTIFICATION.items() if any(m in e["figures"] for e in entries)}
    rows = tuple((e["system"], e["scenario"], *(_rate(e["figures"].get(metric)) for metric in shown)) for e in entries)
    header = ("system", "keys", *shown.values())
    return Table("identification", "Identification", header, rows)


def linkability_table(tree: Tree) -> Table:
    """Unlinkability between keys."""
    rows = tuple(
        (
            e["system"],
            _rate({"value": e["d_sys"], "low": e["low"], "high": e["high"]}, 1, 3),
            f"{e['d_sys_floor']:.3f}",
            f"{e['maximal_linkability']:.3f}",
            f"{e['mated']:,} + {e['non_mated']:,}",
        )
        for e in tree["sections"].get("linkability", [])
    )
    header = ("system", "D_sys", "by sampling alone", "maximal linkability, bits", "comparisons")
    return Table("linkability", "Unlinkability between keys", header, rows, labels=1)


def attack_table(tree: Tree) -> Table:
    """What each attack reaches with everything it knows."""
    rows = []
    for entry in tree["sections"].get("attacks", []):
        cells = [_rate(_figure(entry, name), 1 if name in UNIT_FIGURES else 100, 2) for name in ATTACKS]
        attack = entry["attack"].replace("_", " ")
        attack += f", {entry['records']} records" if entry["records"] > 1 else ""
        if entry["obstacle"]:
            cells = [EMPTY] * len(cells)
            attack += " (does not apply)"
        rows.append((entry["system"], attack, entry["knowledge"], *cells))
    header = ("system", "attack", "knows", *ATTACKS.values())
    return Table("attacks", "Attacks", header, tuple(rows), labels=3)


def calibration_table(tree: Tree) -> Table:
    """What the systems' own thresholds promised and gave."""
    rows = tuple(
        (
            e["system"],
            e["scenario"],
            f"{e['threshold']:g}",
            _rate({"value": e["promised_fmr"]}),
            _rate(e["fmr"]),
            _rate({"value": e["promised_fnmr"]}),
            _rate(e["fnmr"]),
        )
        for e in tree["sections"]["calibration"]
    )
    header = (
        "system", "keys", "own threshold", "FMR promised %", "FMR here %", "FNMR there %",
        "FNMR here %",
    )  # fmt: skip
    return Table("calibration", "The systems' own thresholds", header, rows)


def spread_table(tree: Tree) -> Table:
    """Spread over test keys."""
    rows = tuple(
        (
            entry["system"],
            entry["scenario"],
            VERIFICATION[entry["metric"]].removesuffix(" %"),
            f"{len(entry['values'])}",
            *(f"{100 * value:.2f}" for value in _spread(entry)),
        )
        for entry in tree["per_key"]
        if entry["metric"] in SPREAD
    )
    header = ("system", "keys", "figure", "test keys", "mean %", "std", "lowest %", "highest %")
    return Table("per_key", "Spread over keys", header, rows, labels=3)


MAKERS: tuple[Callable[[Tree], Table], ...] = (
    verification_table,
    identification_table,
    linkability_table,
    attack_table,
    calibration_table,
    spread_table,
)
"""All tables, in the order of a report."""


def latex(table: Table) -> str:
    r"""A table for LaTeX with `\usepackage{booktabs}`."""
    columns = "l" * table.labels + "r" * (len(table.header) - table.labels)
    lines = [_latex_row(table.header), r"\midrule", *map(_latex_row, table.rows)]
    body = "\n".join(lines)
    return f"% {table.title}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def markdown(table: Table) -> str:
    """A table for a text file."""
    rule = ["---"] * table.labels + ["---:"] * (len(table.header) - table.labels)
    lines = [table.header, rule, *table.rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def interval_text(value: float, low: float | None, high: float | None, decimals: int = 2) -> str:
    """`0.94 [0.71, 1.20]`."""
    text = f"{value:.{decimals}f}"
    if low is None or high is None:
        return text
    return f"{text} [{low:.{decimals}f}, {high:.{decimals}f}]"


def _rate(figure: Mapping[str, Any] | None, factor: float = 100, decimals: int = 0) -> str:
    if figure is None or figure["value"] is None or math.isnan(figure["value"]):
        return EMPTY
    edges = [figure.get(name) for name in ("value", "low", "high")]
    value, low, high = (None if edge is None else factor * edge for edge in edges)
    return interval_text(value or 0.0, low, high, decimals or (2 if factor == 100 else 4))


def _by_place(tree: Tree, protocol: str) -> dict[tuple[str, str], dict[str, Mapping[str, Any]]]:
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in tree["rows"]:
        if row["protocol"] == protocol:
            found.setdefault((row["system"], row["scenario"]), {})[row["metric"]] = row
    return found


def _figure(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    low, high = entry["intervals"].get(name, (None, None))
    return {"value": entry[name], "low": low, "high": high}


def _spread(entry: Mapping[str, Any]) -> Iterator[float]:
    values: Sequence[float] = entry["values"]
    yield from (sum(values) / len(values), entry["std"], min(values), max(values))


_LATEX = {
    "\\": r"\textbackslash{}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", EMPTY: "--",
}  # fmt: skip


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join("".join(_LATEX.get(c, c) for c in cell) for cell in cells) + r" \\"
