"""Text of a report: numbers with intervals, tables for terminal, Markdown, LaTeX and CSV, and a summary."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jinja2

from iom.evaluation.records import NO_STORE, AttackRow, Estimate, Figure, ReportData, Sentence, StolenStoreRow
from iom.evaluation.scores import FLOAT, NO_KEY, OWN_KEY, STOLEN_KEY

EMPTY = "–"  # noqa: RUF001 - a dash, not a minus
SMALL_LOSS = 0.005
"""Increase of the EER, as a fraction, up to which the summary calls a protection accurate."""
LINKABLE = 0.05
"""D_sys beyond sampling from which the summary calls templates linkable."""
ACCEPTED = 0.05
"""Post-revocation acceptance up to which the summary says that a change of key helps."""
VERDICTS: dict[str, tuple[Literal["good", "bad", "plain"], str]] = {
    "met": ("good", "target met"),
    "missed": ("bad", "target missed"),
    "open": ("plain", "undecided on these data"),
}
"""Verdicts on a target rate: state and words of the sentence."""


class Column(NamedTuple):
    """How a figure is shown: heading, factor (100: percent) and decimals."""

    heading: str
    factor: float = 100
    decimals: int = 2

    def text(self, estimate: Estimate | float | None) -> str:
        """The value with its interval; a dash for `None`."""
        if estimate is None:
            return EMPTY
        if not isinstance(estimate, Estimate):
            estimate = Estimate(value=estimate)
        low, high = estimate.low, estimate.high
        return number_text(estimate.value, low, high, factor=self.factor, decimals=self.decimals)


VERIFICATION = {
    "accuracy": Column("accuracy %"),
    "eer": Column("EER %"),
    "auc": Column("AUC", 1, 4),
    "cllr": Column("Cllr", 1, 3),
    "min_cllr": Column("minCllr", 1, 3),
    "fnmr_at_fmr_1e-2": Column("FNMR@FMR1e-2 %"),
    "fnmr_at_fmr_1e-3": Column("FNMR@FMR1e-3 %"),
}
IDENTIFICATION = {
    "cmc_rank_1": Column("rank 1 %"),
    "cmc_rank_10": Column("rank 10 %"),
    "dir_at_fpir_1e-2_rank_1": Column("DIR@FPIR1e-2 %"),
    "dir_at_fpir_1e-1_rank_1": Column("DIR@FPIR1e-1 %"),
}
LINKABILITY = {
    "d_sys": Column("D_sys", 1, 3),
    "d_sys_floor": Column("D_sys by sampling alone", 1, 3),
    "maximal_linkability": Column("maximal linkability, bits", 1, 3),
    "mated": Column("mated comparisons", 1, 0),
    "non_mated": Column("non-mated comparisons", 1, 0),
}
ATTACKS = {
    "cosine": Column("cosine", 1),
    "sar": Column("SAR %"),
    "prar": Column("PRAR %"),
    "prar_other": Column("PRAR, other sample %"),
    "linking_auc": Column("linking AUC", 1),
    "linking_auc_same": Column("linking AUC, same image", 1),
    "rank_one": Column("image found first %"),
    "rank_ten": Column("image in first ten %"),
}
STOLEN_STORE = {
    "cosine": Column("cosine", 1),
    "accepted_old": Column("accepted under the old key %"),
    "accepted_fresh": Column("accepted under fresh keys %"),
}
CALIBRATION = {
    "target_fmr": Column("target FMR %"),
    "fmr": Column("observed FMR %"),
    "calibrated_fnmr": Column("calibrated FNMR %"),
    "fnmr": Column("observed FNMR %"),
}
SPREAD = ("eer", "fnmr_at_fmr_1e-2", "fnmr_at_fmr_1e-3")
STATISTICS = {name: Column(f"{name} %") for name in ("mean", "std", "min", "max")}
DIFF = {
    **{name: VERIFICATION[name] for name in ("accuracy", *SPREAD)},
    **{name: IDENTIFICATION[name] for name in ("cmc_rank_1", "dir_at_fpir_1e-2_rank_1")},
    "d_sys": LINKABILITY["d_sys"],
    "prar": Column("PRAR %, best attack"),
    "accepted_fresh": Column("stolen store, accepted %, best attack"),
}
"""Figures of several reports side by side; of several rows of one metric the highest is shown."""
SCENARIO_OF = {"two_keys": STOLEN_KEY, "full_disclosure": STOLEN_KEY, "stolen_store": STOLEN_KEY}
"""Scenarios whose figures stand in the line of another one."""


def render(template: str, **values: Any) -> str:
    """A page or text of the folder `templates`; values are escaped in pages."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("iom.evaluation.report"),
        autoescape=jinja2.select_autoescape(("html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def number_text(
    value: float,
    low: float | None = None,
    high: float | None = None,
    *,
    std: float | None = None,
    factor: float = 1.0,
    decimals: int = 2,
) -> str:
    """`0.94`, `0.94 ± 0.05` or `0.94 [0.71, 1.20]`."""

    def text(number: float) -> str:
        return f"{factor * number:.{decimals}f}"

    shown = text(value) if std is None else f"{text(value)} ± {text(std)}"
    return shown if low is None or high is None else f"{shown} [{text(low)}, {text(high)}]"


def percent(estimate: Estimate) -> str:
    """`0.94 % [0.71, 1.20]`."""
    text = number_text(estimate.value, estimate.low, estimate.high, factor=100)
    value, bracket, edges = text.partition(" [")
    return f"{value} %{bracket}{edges}"


@dataclasses.dataclass(frozen=True)
class Table:
    """Table of text; the first `labels` cells of each row are words, the others figures."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 2

    def markdown(self) -> str:
        """The table for a text file."""
        rule = ["---"] * self.labels + ["---:"] * (len(self.header) - self.labels)
        lines = [self.header, *self.rows]
        first, *rest = ("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in lines)
        return "\n".join([first, "| " + " | ".join(rule) + " |", *rest])

    def latex(self) -> str:
        r"""The table for LaTeX with `\usepackage{booktabs}`."""
        columns = "l" * self.labels + "r" * (len(self.header) - self.labels)
        lines = [" & ".join(cell.translate(_LATEX) for cell in cells) + r" \\" for cells in (self.header, *self.rows)]
        body = "\n".join([lines[0], r"\midrule", *lines[1:]])
        return f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"

    def plain(self) -> str:
        """The table for a terminal."""
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in lines
        )


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        EMPTY: "--",
        **{character: f"\\{character}" for character in "%_&#${}"},
    }
)


def report_tables(data: ReportData) -> dict[str, Table]:
    """The tables of a report that have rows, by name, in order."""
    sections = data.sections
    identification = {(entry.system, entry.scenario): entry.figures for entry in sections.identification}
    linkability = {
        (e.system,): {name: getattr(e, name) for name in LINKABILITY}
        | {"d_sys": Estimate(value=e.d_sys, low=e.low, high=e.high)}
        for e in sections.linkability
    }
    calibration = {
        (e.system, e.scenario, f"{e.threshold:g}"): {name: getattr(e, name) for name in CALIBRATION}
        for e in sections.calibration
    }
    spread = {
        (e.system, e.scenario, VERIFICATION[e.metric].heading.removesuffix(" %"), str(len(e.values))): {
            "mean": sum(e.values) / len(e.values), "std": e.std, "min": min(e.values), "max": max(e.values)
        }
        for e in data.per_key
        if e.metric in SPREAD
    }  # fmt: skip
    scenario = ("system", "scenario")
    tables = {
        "verification": figure_table(data.figures_by_place(), VERIFICATION),
        "identification": figure_table(identification, IDENTIFICATION),
        "linkability": figure_table(linkability, LINKABILITY, labels=("system",)),
        "attacks": attack_table(sections.attacks),
        "stolen_store": stolen_store_table(sections.stolen_store),
        "calibration": figure_table(calibration, CALIBRATION, labels=(*scenario, "threshold")),
        "per_key": figure_table(spread, STATISTICS, labels=(*scenario, "figure", "test keys")),
    }
    return {name: table for name, table in tables.items() if table.rows}


def figure_table(
    figures: Mapping[Any, Mapping[str, Estimate | float | None]],
    columns: Mapping[str, Column],
    *,
    labels: tuple[str, ...] = ("system", "scenario"),
) -> Table:
    """Figures by place; a column that no place has is left out."""
    shown = {
        metric: column
        for metric, column in columns.items()
        if any(found.get(metric) is not None for found in figures.values())
    }
    rows = tuple(
        (*place, *(column.text(found.get(metric)) for metric, column in shown.items()))
        for place, found in figures.items()
    )
    return Table((*labels, *(column.heading for column in shown.values())), rows, labels=len(labels))


def attack_table(attacks: Sequence[AttackRow]) -> Table:
    """Success of each attack, with everything it knows."""
    figures = {}
    for row in attacks:
        attack = row.title + (f" (does not apply: {row.obstacle})" if row.obstacle else "")
        figures[row.system, attack, row.knowledge] = {name: row.estimate(name) for name in ATTACKS}
    return figure_table(figures, ATTACKS, labels=("system", "attack", "knowledge"))


def stolen_store_table(rows: Sequence[StolenStoreRow]) -> Table:
    """Success of the best attack on a stolen store for each system and each acquaintance with the enrolled."""
    best = {
        (row.system, row.acquaintance, row.attack.replace("_", " ")): {
            name: row.estimate(name) for name in STOLEN_STORE
        }
        for row in best_store_attacks(rows)
    }
    return figure_table(best, STOLEN_STORE, labels=("system", "known subjects", "attack"))


def best_store_attacks(rows: Sequence[StolenStoreRow]) -> list[StolenStoreRow]:
    """Of all attacks with the same knowledge of faces the most accepted one, beside the guess without a store."""
    best: dict[tuple[str, str, bool], StolenStoreRow] = {}
    for row in sorted(rows, key=lambda row: -1.0 if row.accepted_fresh is None else row.accepted_fresh):
        if row.accepted_fresh is not None:
            best[row.system, row.acquaintance, row.attack == NO_STORE] = row
    chosen = list(best.values())
    return [row for row in rows if row in chosen]


def diff_table(reports: Mapping[str, ReportData]) -> Table:
    """A line for each report, system and scenario."""
    lines: dict[tuple[str, ...], dict[str, Figure]] = {}
    for name, data in reports.items():
        for row in data.rows:
            scenario = NO_KEY if row.system == FLOAT else SCENARIO_OF.get(row.scenario, row.scenario)
            found = lines.setdefault((name, row.system, scenario), {})
            if row.metric not in found or row.value > found[row.metric].value:
                found[row.metric] = row
    return figure_table(lines, DIFF, labels=("report", "system", "scenario"))


def terminal_text(data: ReportData) -> str:
    """Benchmark, verification table and legend for a terminal; two lines a system: figures, then intervals."""
    figures = data.figures_by_place()
    columns = {**VERIFICATION, "threshold_at_fmr_1e-3": Column("threshold@1e-3", 1, 1)}
    columns = {name: column for name, column in columns.items() if any(name in found for found in figures.values())}
    rows = []
    for (system, key), found in figures.items():
        fitting = {name: _fitting(column, found.get(name)) for name, column in columns.items()}
        rows.append((system, key, *(_spread_cell(data, found.get(name), column) for name, column in fitting.items())))
        if any(row.low is not None for row in found.values()):
            texts = [column.text(found.get(name)).partition(" [") for name, column in fitting.items()]
            rows.append(("", "", *(bracket.strip() + edges for _, bracket, edges in texts)))
    table = Table(("system", "scenario", *(column.heading for column in columns.values())), tuple(rows))
    shapes = [
        f"{name} {system['code_length']}x{system['alphabet_size']}"
        for name, system in data.systems.items()
        if "code_length" in system
    ]
    targets = {(e.system, e.scenario): e.target_fmr for e in data.sections.calibration}
    values = {"data": data, "figures": figures, "table": table, "shapes": shapes, "targets": targets}
    return render("terminal.txt.j2", percent=percent, **values).rstrip("\n")


def summary(data: ReportData) -> list[Sentence]:
    """Three to seven sentences on accuracy, calibration, unlinkability and attacks."""
    best, sections = most_accurate_system(data), data.sections
    fnmrs = [
        (rate, row, data.find(FLOAT, NO_KEY, metric))
        for metric, rate in (("fnmr_at_fmr_1e-3", "0.1 %"), ("fnmr_at_fmr_1e-2", "1 %"))
        if (row := data.find(best, STOLEN_KEY, metric))
    ]
    linked = [entry for entry in sections.linkability if entry.system != FLOAT]
    linked_most = sorted(linked, key=lambda entry: entry.d_sys_floor - entry.d_sys)
    worst: dict[str, AttackRow] = {}
    for attack in sections.attacks:
        if attack.system != FLOAT and attack.prar is not None:
            worst[attack.system] = max(worst.get(attack.system, attack), attack, key=lambda row: row.prar or 0.0)
    text = render(
        "summary.txt.j2",
        data=data,
        best=best,
        plain=data.find(FLOAT, NO_KEY, "eer"),
        coded=data.find(best, STOLEN_KEY, "eer"),
        own=data.find(best, OWN_KEY, "eer"),
        fnmrs=fnmrs,
        calibration=sorted((e for e in sections.calibration if e.target_fmr), key=lambda e: e.system != best),
        linked=linked_most,
        linkable=[entry.system for entry in linked if entry.d_sys - entry.d_sys_floor > LINKABLE],
        worst=list(worst.values()),
        stolen=_stolen_stores(sections.stolen_store),
        helped=[name for name, row in worst.items() if (row.prar or 0.0) <= ACCEPTED],
        small_loss=SMALL_LOSS,
        accepted=ACCEPTED,
        percent=percent,
        verdict=verdict,
        verdicts=VERDICTS,
    )
    sentences = re.findall(r"^(good|bad|plain) (.*?)\n(?=good |bad |plain |\Z)", text, re.MULTILINE | re.DOTALL)
    return [Sentence(state=state, text=words) for state, words in sentences]


def _stolen_stores(rows: Sequence[StolenStoreRow]) -> list[StolenStoreRow]:
    """The most successful attack on the store of each protected system."""
    worst: dict[str, StolenStoreRow] = {}
    for row in best_store_attacks(rows):
        if row.system != FLOAT and row.attack != NO_STORE:
            worst[row.system] = max(worst.get(row.system, row), row, key=lambda row: row.accepted_fresh or 0.0)
    return list(worst.values())


def most_accurate_system(data: ReportData) -> str:
    """The protected system with the lowest EER under a stolen key, a trained one before a baseline; or empty."""
    from iom.baselines import BASELINES  # loads TensorFlow, which reports side by side do without

    found = {system: row.value for system in data.systems if (row := data.find(system, STOLEN_KEY, "eer"))}
    return min(found, key=lambda name: (found[name], name in BASELINES)) if found else ""


def verdict(rate: Estimate, target: float) -> Literal["met", "missed", "open"]:
    """Whether an observed rate meets its target; `open` without an interval, or where the interval holds the target."""
    if rate.low is None or rate.high is None:
        return "open"
    if rate.high <= target:
        return "met"
    return "missed" if rate.low > target else "open"


def _fitting(column: Column, row: Figure | None) -> Column:
    """More decimals for a threshold that is a cosine distance and not a number of positions."""
    return column._replace(decimals=3) if row and row.metric.startswith("threshold") and abs(row.value) <= 2 else column


def _spread_cell(data: ReportData, row: Figure | None, column: Column) -> str:
    if row is None:
        return EMPTY
    if row.metric == "accuracy":
        std: float | None = data.row(row.system, row.scenario, "accuracy_std").value
    else:
        spread = data.spread(row.system, row.scenario, row.metric)
        std = spread.std if spread else None
    return number_text(row.value, std=std, factor=column.factor, decimals=column.decimals)
