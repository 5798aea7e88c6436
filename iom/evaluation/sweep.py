"""Sweep over a grid of stage 2 configurations: trained and measured on cached embeddings, in one process, resumable."""

import dataclasses
import itertools
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from iom._files import Journal, atomic_path, csv_text, write_json, write_text
from iom._progress import tqdm
from iom._registry import lookup
from iom.baselines import BASELINES
from iom.baselines.protection import stored_bits
from iom.config import EvaluateConfig, Stage2Config, SweepConfig, VariantConfig, load_config, settings_of
from iom.config.base import dotted
from iom.data.benchmarks import load_benchmark
from iom.errors import ConfigError
from iom.evaluation.report.plots import COLOURS, DPI
from iom.evaluation.report.text import Table, number_text
from iom.evaluation.scores import FLOAT, REPORT_FMRS, STOLEN_KEY, CodeSystem, code_scores, float_system, resolved_fmrs
from iom.evaluation.systems import asymmetric_system, baseline_system
from iom.metrics.verification import ErrorCurve
from iom.models.embedder import Embedder, embed_benchmark
from iom.training.calibration import validation_keys
from iom.training.hasher import Stage2Data, load_stage2_data, train_hasher, untrained_hasher
from iom.training.loop import TrainingDivergedError
from iom.training.run_dir import RunDir

FORMAT = 1
LEARNED, UNTRAINED = "learned", "untrained"
QUOTED_FMRS = ("1e-2", "1e-3", "1e-4")
MIN_FALSE_MATCHES = 10
"""An FMR is quoted where it is made up of as many false matches or more."""
RATES = {"eer": "EER"} | {f"fnmr_{name}": f"FNMR@{name}" for name in QUOTED_FMRS}
SOURCES = {"": "", "test_": "test ", "lfw_": "LFW "}
"""Prefix of a rate to the words before its heading; without a prefix it is of the held-out subjects."""

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class PlannedRow:
    """One row of the table; `series` is its line in the plot.

    `kind` is `learned`, `untrained`, `float`, or the name of a baseline; `settings` are those of the grid, by dotted
    name.
    """

    name: str
    series: str
    kind: str
    config: Stage2Config
    settings: dict[str, Any]

    @property
    def slug(self) -> str:
        """Name of its files."""
        return re.sub(r"[^A-Za-z0-9.=+-]+", "_", self.name)


class SweepBenchmark:
    """A benchmark that every row is measured on too, embedded once for an embedder.

    Of the evaluation configuration at `path` only benchmark, keys and seed count.
    """

    def __init__(self, path: Path) -> None:
        self._config = load_config(EvaluateConfig, path)
        self._benchmark = load_benchmark(self._config.benchmark, seed=self._config.seed)
        self._fingerprint = ""
        self._embeddings: Any = None

    def figures(self, system: CodeSystem, embedder: Embedder) -> dict[str, float]:
        """Figures as `held_out_figures` gives them, with the prefix `test_`."""
        if self._fingerprint != embedder.fingerprint:
            self._embeddings = embed_benchmark(embedder, self._benchmark, progress=True)
            self._fingerprint = embedder.fingerprint
        scenario = self._config.scenario.replace(scenarios=(STOLEN_KEY,))
        (entry,) = code_scores(system, self._benchmark, self._embeddings, scenario, seed=self._config.seed)
        fmrs = resolved_fmrs(len(entry.by_key[0].non_mated), REPORT_FMRS)
        found = _over_keys([scores.curve() for scores in entry.by_key], fmrs)
        return {f"test_{name}": value for name, value in found.items()}


def plan_rows(config: SweepConfig) -> list[PlannedRow]:
    """All rows, the cheap ones first: float and baselines, then every variant at every point of the grid.

    Every configuration is read here, so that a misspelt setting is found before any training.
    """
    variants = config.variants or (VariantConfig(name=LEARNED),)
    rows = [_planned(config, variant, point) for variant in variants for point in _grid_points(config)]
    planned = [*_data_agnostic(config, rows), *rows]
    slugs = [row.slug for row in planned]
    twice = [row.name for row in planned if slugs.count(row.slug) > 1]
    if twice:
        raise ConfigError(f"sweep: two rows are called '{twice[0]}'; name the variants apart")
    return planned


def run_sweep(
    config: SweepConfig,
    output: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Measure every row of a sweep on the held-out subjects; one dict a row, figures as fractions (means over keys).

    `output` has `sweep.csv`, `sweep.json`, `sweep.md` (rewritten after each row), `sweep.png`, `rows.jsonl` with the
    finished rows, and `runs/` with the trained hashers. `resume` keeps finished rows and continues an interrupted
    training; a `SettingsChangedError` if a file that the sweep builds on has changed. `report` gets a line after each
    row.
    """
    planned = plan_rows(config)
    benchmark = SweepBenchmark(Path(config.evaluate)) if config.evaluate else None
    RunDir.open(output, config, resume=resume)
    title = f"sweep over {config.stage2}: held-out subjects, stolen key, {config.keys} keys"
    data: Stage2Data | None = None
    with Journal(output / "rows.jsonl", {row.name: row.config.model_dump(mode="json") for row in planned}) as journal:
        measured: dict[str, Row] = {}
        for _, entry in journal.entries():
            if not {"name", "seconds"} <= entry.keys():
                raise journal.damaged()
            measured[entry["name"]] = entry
        with tqdm(total=len(planned), initial=len(measured), desc="sweep", unit="row", disable=not progress) as bar:
            for row in planned:
                if row.name in measured:
                    continue
                bar.set_postfix_str(row.name)
                if data is None or not data.fits(row.config):
                    data = load_stage2_data(row.config, progress=progress)
                measured[row.name] = _measure(row, config, data, output, benchmark)
                journal.add(measured[row.name], durable=True)
                _write_tables(list(measured.values()), output, title)
                bar.clear()
                found = measured[row.name]
                rates = [f"{heading} {100 * found[rate]:.2f} %" for rate, heading in RATES.items() if rate in found]
                report(f"{row.name}: {found.get('failed') or ', '.join(rates)} ({found['seconds']:.0f} s)")
                bar.update()
    rows = list(measured.values())
    _write_tables(rows, output, title)
    with atomic_path(output / "sweep.png") as temporary:
        sweep_figure(rows, title).savefig(temporary, dpi=DPI)
    return rows


def held_out_figures(system: CodeSystem, data: Stage2Data, *, keys: int, seed: int) -> dict[str, float]:
    """EER and FNMR with the keys stolen, means over keys and `*_std`; of embeddings, which have no key, one value."""
    pairs = data.pairs.all
    curves = [
        pairs.curve(system.comparator, system.templates(data.held_out_embeddings, key))
        for key in validation_keys(seed, "search-keys", 1 if system.name == FLOAT else keys)
    ]
    fmrs = resolved_fmrs(pairs.non_mated_count, QUOTED_FMRS, false_matches=MIN_FALSE_MATCHES)
    return _over_keys(curves, fmrs)


def sweep_table(rows: Sequence[Row]) -> Table:
    """The table, rates in percent; figures of codes are means over keys with their standard deviation."""
    shown = {
        f"{prefix}{rate}": f"{source}{heading} %"
        for prefix, source in SOURCES.items()
        for rate, heading in RATES.items()
        if any(row.get(f"{prefix}{rate}") is not None for row in rows)
    }
    lines = tuple(
        (
            row["name"],
            f"{row['code_length']}x{row['alphabet_size']}" if row["bits"] else "",
            *("" if row[name] is None else str(row[name]) for name in ("bits", "keep")),
            *(
                "" if row.get(rate) is None else number_text(row[rate], std=row.get(f"{rate}_std"), factor=100)
                for rate in shown
            ),
            f"{row['seconds']:.0f}",
        )
        for row in rows
    )
    return Table(("row", "shape", "bits", "keep", *shown.values(), "seconds"), lines)


def sweep_figure(rows: Sequence[Row], title: str) -> Figure:
    """EER and FNMR against the bits of a code; against keep-k where only that varies.

    The float embedding is a line across. Rows of one series at one place are joined by their lower envelope.
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
        _draw_rate(axes, rows, rate, axis)
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
    return figure


def _draw_rate(axes: Any, rows: Sequence[Row], rate: str, axis: str) -> None:
    known = [row for row in rows if row.get(rate) is not None]
    for number, series in enumerate(dict.fromkeys(row["series"] for row in known if row["series"] != FLOAT)):
        points = sorted((float(row[axis]), 100 * row[rate]) for row in known if row["series"] == series)
        lowest = {place: min(value for at, value in points if at == place) for place, _ in points}
        colour = COLOURS[1 + number % (len(COLOURS) - 1)]
        axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=4)
        style = "-" if number < len(COLOURS) - 1 else "--"
        axes.plot(list(lowest), list(lowest.values()), style, color=colour, label=series)
    for number, value in enumerate(sorted({row[rate] for row in known if row["series"] == FLOAT})):
        axes.axhline(100 * value, color=COLOURS[0], linewidth=1, label=None if number else FLOAT)


def _grid_points(config: SweepConfig) -> Iterator[dict[str, Any]]:
    axes = []
    for name, values in config.grid.items():
        names = settings_of(name)
        axes.append([dict(zip(names, value if len(names) > 1 else [value], strict=True)) for value in values])
    for parts in itertools.product(*axes):
        yield {name: value for part in parts for name, value in part.items()}


def _planned(config: SweepConfig, variant: VariantConfig, point: dict[str, Any]) -> PlannedRow:
    settings = {**dotted(config.set), **point, **dotted(variant.set)}
    overrides = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    name = " ".join([variant.name, *(f"{key.rpartition('.')[2]}={value}" for key, value in point.items())])
    try:
        resolved = load_config(Stage2Config, Path(config.stage2), overrides=overrides)
    except ConfigError as error:
        raise ConfigError(f"row '{name}': {error}") from error
    if resolved.fine_tune:
        raise ConfigError(f"row '{name}': a sweep works on cached embeddings, without fine_tune")
    return PlannedRow(name, variant.name, LEARNED if variant.train else UNTRAINED, resolved, dict(point))


def _data_agnostic(config: SweepConfig, rows: Sequence[PlannedRow]) -> list[PlannedRow]:
    """Float once for all embeddings, and each baseline once for every shape."""
    floats: dict[Any, PlannedRow] = {}
    baselines: dict[Any, PlannedRow] = {}
    # Embeddings and pairs of a row come from these sections.
    of_rows = [(row.config.data, row.config.embedder, row.config.seed) for row in rows]
    sources = list(dict.fromkeys(of_rows))
    for row, source in zip(rows, of_rows, strict=True):
        code = row.config.hasher
        place = f" on {sources.index(source) + 1}" if len(sources) > 1 else ""
        floats.setdefault(source, PlannedRow(FLOAT + place, FLOAT, FLOAT, row.config, {}))
        shape = f"{code.code_length}x{code.alphabet_size}" + (f" keep={code.keep}" if code.keep else "")
        for name in config.baselines:
            lookup(BASELINES, name, "baseline")
            baselines.setdefault(
                (name, source, shape), PlannedRow(f"{name} {shape}{place}", name, name, row.config, {})
            )
    return [*floats.values(), *baselines.values()]


def _measure(
    row: PlannedRow, config: SweepConfig, data: Stage2Data, output: Path, benchmark: SweepBenchmark | None
) -> Row:
    started, folder = time.monotonic(), output / "runs" / row.slug
    result: Row = {"name": row.name, "series": row.series, "kind": row.kind}
    result |= dict.fromkeys(("code_length", "alphabet_size", "bits", "keep"))
    if row.kind != FLOAT:
        shape = row.config.hasher
        result |= {
            "code_length": shape.code_length,
            "alphabet_size": shape.alphabet_size,
            "bits": stored_bits(shape),
            "keep": shape.keep or shape.bottleneck or data.embedder.embedding_size,
        }
    try:
        system = _system(row, data, folder)
    except TrainingDivergedError as error:  # a result of the sweep, not its end
        result["failed"] = str(error)
    else:
        result |= held_out_figures(system, data, keys=config.keys, seed=row.config.seed)
        if benchmark is not None:
            result |= benchmark.figures(system, data.embedder)
    if not config.keep_runs:
        shutil.rmtree(folder, ignore_errors=True)
    result["run"] = str(folder.relative_to(output)) if folder.exists() else None
    return result | {"settings": row.settings, "seconds": round(time.monotonic() - started, 1)}


def _system(row: PlannedRow, data: Stage2Data, folder: Path) -> CodeSystem:
    if row.kind == FLOAT:
        return float_system(data.embedder.embedding_size)
    if row.kind in BASELINES:
        return baseline_system(row.kind, data.embedder.embedding_size, row.config.hasher, row.config.seed)
    keras.utils.clear_session()  # dozens of models would pile up
    if row.kind == UNTRAINED:
        hasher = untrained_hasher(row.config, data)
        hasher.save(folder)
    else:
        hasher = train_hasher(row.config, folder, resume=folder.exists(), progress=False, data=data)
    system = CodeSystem(row.series, hasher.code_length, hasher.alphabet_size, hasher.hash, made_of=hasher)
    return system if row.config.hasher.comparison == system.comparison else asymmetric_system(system)


def _over_keys(curves: Sequence[ErrorCurve], fmrs: Mapping[str, float]) -> dict[str, float]:
    """EER and FNMR, means over the curves of keys, and where there are several their standard deviations."""
    by_name = {"eer": [curve.equal_error_rate() for curve in curves]}
    by_name |= {f"fnmr_{name}": [curve.fnmr_at_fmr(fmr) for curve in curves] for name, fmr in fmrs.items()}
    result = {}
    for name, values in by_name.items():
        result[name] = float(np.mean(values))
        if len(values) > 1:
            result[f"{name}_std"] = float(np.std(values, ddof=1))
    return result


def _write_tables(rows: Sequence[Row], folder: Path, title: str) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "settings"))
    write_json(folder / "sweep.json", {"format": FORMAT, "title": title, "rows": list(rows)})
    write_text(folder / "sweep.csv", csv_text(columns, rows))
    write_text(folder / "sweep.md", f"# {title}\n\n{sweep_table(rows).markdown()}\n")
