"""Data of an evaluation report: one JSON document that pages, tables, plots and diffs are made from.

Keys, codes and embeddings are never part of it. Rates are fractions; an interval is `low` to `high`, both `None` where
no interval was computed.
"""

import html
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

import pydantic

from iom._untrusted import read_json
from iom.errors import DataError
from iom.metrics.bootstrap import Interval

FORMAT: Final = 2
FILE = "report.json"
NO_STORE = "one_guess"
"""The attack of someone without a stolen store, to whom the others are compared."""


class Record(pydantic.BaseModel):
    """Part of a report; numbers are finite."""

    model_config = pydantic.ConfigDict(frozen=True, allow_inf_nan=False)

    def replace(self, **changes: Any) -> Self:
        """The record with other values, which are checked."""
        return self.model_validate({**dict(self), **changes})


class Place(Record):
    """System and scenario that results are of.

    `system` is `float`, a baseline or a trained hasher; `scenario` is `none`, `own_key`, `stolen_key`, `two_keys`,
    `full_disclosure` or `stolen_store`.
    """

    system: str
    scenario: str = "stolen_key"


class Metric(Place):
    """Name of a figure; `protocol` begins with the name of the benchmark."""

    protocol: str = ""
    metric: str


class Estimate(Record):
    """Value and interval."""

    value: float
    low: float | None = None
    high: float | None = None


class Figure(Estimate, Metric):
    """Figure of one system: mean over keys."""


def named_figures(estimates: Mapping[str, Estimate | None], **place: str) -> Iterator[Figure]:
    """A figure for each estimate that there is; `place` is system, scenario and protocol."""
    for metric, estimate in estimates.items():
        if estimate:
            yield Figure.model_validate({**place, "metric": metric, **estimate.model_dump()})


class KeySpread(Metric):
    """Values of a figure under each test key, and their sample standard deviation."""

    values: list[float]
    std: float


class BenchmarkSummary(Record):
    """Name and size of a benchmark."""

    name: str
    pairs: int
    mated: int
    non_mated: int
    subjects: int
    images: int = 0
    folds: int = 1


class EmbedderSummary(Record):
    """Name, SHA-256 and dimensions of an embedder."""

    name: str
    fingerprint: str = ""
    embedding_size: int = 0


class Curve(Place):
    """DET curve: FNMR at each FMR, mean over keys, and under each key."""

    fmr: list[float]
    fnmr: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    by_key: list[list[float]] = []


class Histogram(Place):
    """Shares of mated and non-mated distances by bin, all keys together, with the decision threshold."""

    unit: str
    edges: list[float]
    mated: list[float]
    non_mated: list[float]
    threshold: float
    threshold_from: str


class CalibrationCheck(Place):
    """Target and observed error rates at a threshold that was calibrated on other data."""

    threshold: float = 0.0
    target_fmr: float | None
    calibrated_fnmr: float | None = None
    fmr: Estimate
    fnmr: Estimate


class Reliability(Place):
    """Predicted probability of one person against the observed share of mated comparisons, by bins of the prediction.

    The likelihood ratio was fitted on other data. Mated and non-mated comparisons are weighted to the share `prior` of
    mated ones; `share` is that of all comparisons in a bin. Bounds are `None` where no interval was computed.
    """

    prior: float
    predicted: list[float]
    observed: list[float]
    low: list[float | None]
    high: list[float | None]
    share: list[float]


class HardestPair(Place):
    """Mated pair far apart, or non-mated pair close together; `matches` is the share of keys under which it matches."""

    kind: str
    left: str
    right: str
    distance: float
    threshold: float
    matches: float


class IdentificationResult(Place):
    """Closed-set and open-set identification: figures by name, and DIR at rank 1 by FPIR."""

    gallery_sizes: list[int]
    probes: int
    figures: dict[str, Estimate]
    fpir: list[float]
    dir: list[float]
    low: list[float] | None = None
    high: list[float] | None = None


class LinkabilityResult(Place):
    """Unlinkability between keys: D_sys, its value by sampling alone, and D(s) by bin of the distance."""

    scenario: str = "two_keys"
    unit: str
    pairs_of_keys: int
    mated: int
    non_mated: int
    d_sys: float
    low: float | None = None
    high: float | None = None
    d_sys_floor: float
    maximal_linkability: float
    edges: list[float]
    mated_share: list[float]
    non_mated_share: list[float]
    local: list[float]


class AttackFigures(Record):
    """Figures of one attack on one system, None where it does not give them; `obstacle` says why it does not apply.

    `knowledge` is `KNOWLEDGE` keys joined by ` + `. `subjects` are the victims, `cosine` that of their reconstructions
    to the enrolled embeddings. `intervals` are of 95 % over subjects and keys.
    """

    system: str
    attack: str
    knowledge: str
    subjects: int = 0
    old_keys: int = 0
    fresh_keys: int = 0
    threshold: float | None = None
    cosine: float | None = None
    intervals: dict[str, Interval] = {}
    obstacle: str = ""

    def estimate(self, metric: str) -> Estimate | None:
        """A figure with its interval, `None` where the attack does not give it."""
        value = getattr(self, metric)
        low, high = self.intervals.get(metric, (None, None))
        return None if value is None else Estimate(value=value, low=low, high=high)


class AttackRow(AttackFigures):
    """One attack on leaked templates, for the most part with their key.

    `sar`: accepted under the key that leaked. `prar`: accepted under fresh keys, the renewal being of the very sample
    of the leaked template, the worst case; `prar_other`: of another sample. Linkers have an AUC and an EER, 0.5 is
    chance, with two samples of a subject behind the templates (`_same`: one). `rank_one`, `rank_ten`: share of victims
    whose photograph is found at that rank among `photographs`.
    """

    records: int = 1
    sar: float | None = None
    prar: float | None = None
    prar_other: float | None = None
    linking_auc: float | None = None
    linking_auc_same: float | None = None
    linking_eer: float | None = None
    rank_one: float | None = None
    rank_ten: float | None = None
    photographs: int = 0

    @property
    def title(self) -> str:
        """`closed form`, or `record multiplicity, 5 records`."""
        name = self.attack.replace("_", " ")
        return f"{name}, {self.records} records" if self.records > 1 else name


class StolenStoreRow(AttackFigures):
    """One attack on a stolen record store of `enrolled` subjects under one key, of whom `known` are known.

    `photograph` is `enrolled` or `other`: from which photograph they are known; empty where none is known.
    `accepted_old` and `accepted_fresh`: reconstructions of subjects who are *not* known, accepted under the key of the
    store and under fresh keys, against another sample of the subject. The attack `one_guess` is that of someone without
    the store.
    """

    enrolled: int = 0
    known: int = 0
    photograph: Literal["", "enrolled", "other"] = ""
    accepted_old: float | None = None
    accepted_fresh: float | None = None

    @property
    def acquaintance(self) -> str:
        """`none`, or `10, enrolled photograph`."""
        return f"{self.known}, {self.photograph} photograph" if self.known else "none"


class Sections(Record):
    """Results by topic; a topic that was not computed is empty."""

    curves: list[Curve] = []
    histograms: list[Histogram] = []
    calibration: list[CalibrationCheck] = []
    reliability: list[Reliability] = []
    hardest_pairs: list[HardestPair] = []
    identification: list[IdentificationResult] = []
    linkability: list[LinkabilityResult] = []
    attacks: list[AttackRow] = []
    stolen_store: list[StolenStoreRow] = []


class Sentence(Record):
    """Sentence of the summary; its state is `good`, `bad` or `plain`."""

    state: Literal["good", "bad", "plain"]
    text: str


class ReportData(Record):
    """Results of one evaluation, and the configuration and environment they depend on.

    Attributes:
        systems: For each system its distance `unit` and, for codes, `code_length` and `alphabet_size`.
        rows: Every figure.
        per_key: Values under each key of the figures that have several.
        notes: Remarks that a reader of the figures needs.
        config: The resolved configuration.
        environment: Versions, processor, cores, memory.
        summary: Three to seven sentences; empty where only the figures of the pairs were computed.
    """

    format: Literal[2] = 2
    created: str
    seed: int = 0
    benchmark: BenchmarkSummary
    embedder: EmbedderSummary
    systems: dict[str, dict[str, Any]]
    rows: list[Figure]
    per_key: list[KeySpread] = []
    notes: list[str] = []
    config: dict[str, Any]
    environment: dict[str, Any] = {}
    sections: Sections = Sections()
    summary: list[Sentence] = []

    def _repr_html_(self) -> str:
        """A table of the figures of the benchmark's pairs, for notebooks."""
        metrics = list(dict.fromkeys(row.metric for row in self.rows))
        head = "".join(f"<th>{html.escape(each)}</th>" for each in ("system", "scenario", *metrics))
        lines = []
        for (system, scenario), found in self.figures_by_place().items():
            cells = [f"{found[name].value:.4g}" if name in found else "" for name in metrics]
            row = "".join(f"<td>{html.escape(each)}</td>" for each in (system, scenario, *cells))
            lines.append(f"<tr>{row}</tr>")
        size = f"{self.benchmark.name}: {self.benchmark.pairs:,} pairs, {self.benchmark.subjects:,} subjects"
        return f"<p>{html.escape(size)}</p><table><tr>{head}</tr>{''.join(lines)}</table>"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _upgrade(cls, tree: Any) -> Any:
        """Read format 1 as format 2."""
        if not isinstance(tree, dict) or tree.get("format") != 1:
            return tree
        sections = dict(tree.get("sections") or {})
        sections["hardest_pairs"] = sections.pop("worst_pairs", [])
        sections["calibration"] = [
            {**entry, "target_fmr": entry.get("promised_fmr"), "calibrated_fnmr": entry.get("promised_fnmr")}
            for entry in sections.get("calibration", [])
        ]
        environment = tree.get("environment") or tree.get("versions") or {}
        return {**tree, "format": FORMAT, "sections": sections, "environment": environment}

    def find(self, system: str, scenario: str, metric: str) -> Figure | None:
        """The figure of the benchmark's pairs, or `None`."""
        return self.figures_by_place().get((system, scenario), {}).get(metric)

    def row(self, system: str, scenario: str, metric: str) -> Figure:
        """The figure of the benchmark's pairs; a `DataError` if there is none."""
        found = self.find(system, scenario, metric)
        if found is None:
            raise DataError(f"the report has no row {system} / {scenario} / {metric}")
        return found

    def spread(self, system: str, scenario: str, metric: str) -> KeySpread | None:
        """The values under each key of a figure of the benchmark's pairs, or `None`."""
        for entry in self.per_key:
            if (entry.system, entry.scenario, entry.metric) == (system, scenario, metric):
                return entry
        return None

    def figures_by_place(self) -> dict[tuple[str, str], dict[str, Figure]]:
        """Figures of the benchmark's pairs: system and scenario to metric to figure."""
        found: dict[tuple[str, str], dict[str, Figure]] = {}
        for row in self.rows:
            if row.protocol == self.benchmark.name:
                found.setdefault((row.system, row.scenario), {})[row.metric] = row
        return found


def read_report(path: Path) -> ReportData:
    """Read a `report.json`, or that of a folder, of format 1 or 2."""
    file = path / FILE if path.is_dir() else path
    try:
        tree = read_json(file, parse_constant=_refuse_constant)
    except OSError as error:
        raise DataError(f"cannot read report {file}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file}: damaged, or not JSON ({error})") from error
    if not isinstance(tree, dict) or "format" not in tree or "rows" not in tree:
        raise DataError(f"{file}: expected a {FILE} of iom evaluate, received something else")
    if tree["format"] not in (1, FORMAT):
        raise DataError(
            f"{file}: expected format 1 or {FORMAT}, received {tree['format']!r}; evaluate again with this edition: "
            f"iom evaluate --config {file.parent / 'config.yaml'} --report DIR"
        )
    try:
        return ReportData.model_validate(tree)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "report"
        raise DataError(f"{file}: {place}: {first['msg'][:200]}") from error
    except (AttributeError, TypeError) as error:
        raise DataError(f"{file}: expected sections of figures, received something else") from error


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")
