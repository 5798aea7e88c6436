"""The whole content of a report: figures, curves, attacks, calibration, and what they mean.

The tree is plain data, that of `report.json`. Tables, pictures and the page are made from it alone,
so that a report can be drawn again and two can be compared without computing anything anew. Keys,
codes and embeddings never enter it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from iom._environment import environment
from iom.config.schema import EvaluateConfig
from iom.data.benchmarks.base import PairBenchmark
from iom.errors import DataError
from iom.evaluation.evaluate import Prepared
from iom.evaluation.protocols import float_system
from iom.evaluation.report.attacks import attack_sections
from iom.evaluation.report.curves import det_curves, histograms, measured_threshold
from iom.evaluation.report.hardest_pairs import worst_pairs
from iom.evaluation.report.identification import identification_sections
from iom.evaluation.report.linkability import compared_pairs, linkability_sections
from iom.evaluation.report.result_files import Report, report_tree
from iom.evaluation.report.summary import summary
from iom.evaluation.scores import FLOAT, OWN_KEY, CodeSystem
from iom.evaluation.systems import hasher_folders
from iom.models.face_hasher import load

UNNAMED_SOURCES = ("bin", "carray")
"""Benchmarks that do not say who is in an image."""
TWO_KEYS, DISCLOSED = "two_keys", "full_disclosure"
ATTACK_METRICS = (
    "cosine", "sar", "prar", "prar_other", "linking_auc", "linking_auc_same", "linking_eer",
    "rank_one", "rank_ten",
)  # fmt: skip


def full_tree(config: EvaluateConfig, prepared: Prepared, report: Report, *, progress: bool = False) -> dict[str, Any]:
    """Compute what `config.report` asks for, and put it beside the figures of the pairs.

    Args:
        config: Of the evaluation.
        prepared: Benchmark, embeddings and systems.
        report: The figures of the pairs.
        progress: Show a progress bar.

    Raises:
        ConfigError: An unknown attack.
        DataError: A benchmark too small for a part that is asked for.
    """
    benchmark, embeddings = prepared.benchmark, prepared.embeddings
    named = names_subjects(benchmark, config.benchmark.source)
    people = np.unique(benchmark.subjects, return_inverse=True)[1].astype(np.int64)
    systems = _systems(config, prepared)
    notes = list(report.notes)
    parts = (named and config.report.identification, config.report.linkability,
             named and config.report.attacks)  # fmt: skip
    steps = len(report.scores) + len(systems) * sum(map(bool, parts))
    with tqdm(total=steps, desc="report", unit="part", disable=not progress) as bar:
        advance: Callable[[], object] = bar.update
        sections: dict[str, Any] = {
            "curves": list(
                det_curves(report.scores, benchmark, scenario=config.scenario, seed=config.seed, advance=advance)
            ),
            "histograms": list(histograms(report.scores)),
            "calibration": list(_calibration(config, report)),
            "worst_pairs": list(worst_pairs(report.scores, benchmark, most=config.report.worst_pairs)),
        }
        if config.report.identification and named:
            sections["identification"] = list(
                identification_sections(
                    systems,
                    embeddings,
                    people,
                    keys=config.report.keys,
                    replicates=config.report.replicates,
                    confidence=config.scenario.confidence,
                    seed=config.seed,
                    advance=advance,
                )
            )
        if config.report.linkability:
            sections["linkability"] = list(
                linkability_sections(
                    systems,
                    embeddings,
                    people,
                    compared_pairs(benchmark, named=named, most=config.report.pairs, seed=config.seed),
                    keys=config.report.keys,
                    replicates=config.report.replicates,
                    seed=config.seed,
                    advance=advance,
                )
            )
        if config.report.attacks and named:
            thresholds = {
                entry.system: measured_threshold(entry)[0] for entry in report.scores if entry.scenario != OWN_KEY
            }
            found = attack_sections(config, embeddings, people, thresholds, advance=advance)
            sections["attacks"] = [row.to_dict() for row in found]
    if not named and (config.report.identification or config.report.attacks):
        notes.append("this benchmark does not say who is in an image: no identification and no attacks")
    tree = report_tree(report)
    tree["notes"] = notes
    tree["rows"] += list(_more_rows(sections, benchmark.name))
    tree["sections"] = sections
    tree["environment"] = environment()
    tree["summary"] = summary(tree)
    return plain(tree)


def plain(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree as a JSON file gives it back.

    Raises:
        DataError: A figure is not finite.
    """
    try:
        return dict(json.loads(json.dumps(tree, allow_nan=False)))
    except ValueError as error:
        raise DataError(f"report: a figure is not a finite number ({error})") from error


def names_subjects(benchmark: PairBenchmark, source: str) -> bool:
    """Whether the subjects of a benchmark are its people.

    Where a list contradicts its folders, or there are no names at all, two subjects of a
    `PairBenchmark` may be one person: good enough for a bootstrap, wrong for a search.
    """
    if source in UNNAMED_SOURCES:
        return False
    if source != "pairs" or not isinstance(benchmark.images, tuple):
        return True
    folders = np.unique([str(path.parent) for path in benchmark.images], return_inverse=True)[1]
    both = np.unique(np.stack([folders, benchmark.subjects]), axis=1).shape[1]
    return bool(both == len(np.unique(folders)) == len(np.unique(benchmark.subjects)))


def _systems(config: EvaluateConfig, prepared: Prepared) -> Sequence[CodeSystem]:
    named: Mapping[str, CodeSystem] = {**prepared.systems, FLOAT: float_system(prepared.embeddings.shape[1])}
    return [named[name] for name in config.scenario.systems]


def _calibration(config: EvaluateConfig, report: Report) -> Iterator[dict[str, Any]]:
    """What each system's own threshold promised, and what it gave on these pairs."""
    folders = hasher_folders(config)
    for entry in report.scores:
        if entry.scenario == OWN_KEY or entry.by_key[0].decision is None:
            continue
        calibration = load(folders[entry.system], opens_embedder=False).calibration
        measured = {kind: report.row(entry.system, entry.scenario, f"{kind}_at_decision") for kind in ("fmr", "fnmr")}
        yield {
            "system": entry.system,
            "scenario": entry.scenario,
            "threshold": float(entry.by_key[0].decision),
            "promised_fmr": calibration.fmr if calibration else None,
            "promised_fnmr": calibration.fnmr if calibration else None,
            **{kind: {"value": row.value, "low": row.low, "high": row.high} for kind, row in measured.items()},
        }


def _more_rows(sections: Mapping[str, Any], benchmark: str) -> Iterator[dict[str, Any]]:
    """The figures of the sections in the form of all figures."""
    for entry in sections.get("identification", []):
        for metric, figure in entry["figures"].items():
            yield _row(entry["system"], entry["scenario"], f"{benchmark}, search", metric, **figure)
    for entry in sections.get("linkability", []):
        place = (entry["system"], TWO_KEYS, f"{benchmark}, two keys")
        yield _row(*place, "d_sys", entry["d_sys"], entry["low"], entry["high"])
        for metric in ("d_sys_floor", "maximal_linkability"):
            yield _row(*place, metric, entry[metric])
    for entry in sections.get("attacks", []):
        name = f"{entry['attack']}, {entry['records']} records"
        place = (entry["system"], DISCLOSED, f"{benchmark}, {name}")
        for metric in ATTACK_METRICS:
            if entry[metric] is not None:
                low, high = entry["intervals"].get(metric, (None, None))
                yield _row(*place, metric, entry[metric], low, high)


def _row(
    system: str,
    scenario: str,
    protocol: str,
    metric: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
) -> dict[str, Any]:
    return {
        "system": system,
        "scenario": scenario,
        "protocol": protocol,
        "metric": metric,
        "value": value,
        "low": low,
        "high": high,
    }
