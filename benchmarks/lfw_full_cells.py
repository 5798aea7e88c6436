"""The cells of `benchmarks.lfw_full`: each measures one system by one protocol, keys stolen."""

import argparse
import dataclasses
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.tradeoff import FMR

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.attack_setting import Setting
    from iom.config import EvaluateConfig
    from iom.data.benchmarks.base import PairBenchmark
    from iom.data.benchmarks.identification import Blufr
    from iom.evaluation.scores import CodeSystem, EvaluationInputs

Cell = dict[str, Any]


class Faces(NamedTuple):
    """What every cell is computed from."""

    config: "EvaluateConfig"
    benchmark: "PairBenchmark"
    pair_rows: "NDArray[np.float32]"
    blufr: "Blufr"
    blufr_rows: "NDArray[np.float32]"
    setting: "Setting"


def load_faces(data: Path, config: "EvaluateConfig", *, quick: bool) -> Faces:
    """Stored embeddings of LFW, and victims among them; fewer of all with `quick`.

    Raises:
        DataError: A list or the embeddings are not there.
    """
    from benchmarks.attack_setting import load_setting
    from benchmarks.stored_embeddings import embeddings_of
    from iom.data.benchmarks.identification import read_blufr
    from iom.data.benchmarks.pair_lists import read_pair_list

    setting = argparse.Namespace(
        data=data,
        embedder="",
        victims=config.report.victims,
        old_keys=config.report.old_keys,
        synthetic=False,
        seed=config.seed,
        quick=quick,
    )
    root = data / "lfw_112x112"
    benchmark = read_pair_list(data / "lists" / "lfw_pairs.txt", root)
    protocol = read_blufr(data / "lists" / "blufr", root)
    if quick:
        protocol = dataclasses.replace(protocol, trials=protocol.trials[:2])
    return Faces(
        config,
        benchmark,
        embeddings_of(benchmark.images, root, data),
        protocol,
        embeddings_of(protocol.images, root, data),
        load_setting(setting, samples=4),
    )


def load_system(name: str, faces: Faces) -> "CodeSystem":
    """A system that the configuration names."""
    from iom.evaluation.scores import FLOAT, float_system
    from iom.evaluation.systems import baseline_system, hasher_folders, trained_system

    size = faces.setting.faces.shape[1]
    folders = hasher_folders(faces.config)
    if name == FLOAT:
        return float_system(size)
    if name in folders:
        return trained_system(name, folders[name])
    return baseline_system(name, size, faces.config.code, faces.config.seed)


def pairs(faces: Faces, system: "CodeSystem") -> Cell:
    """The 6,000 pairs: accuracy, EER, FNMR at FMR 1e-3, with intervals."""
    from iom.evaluation.pairs import PairEvaluator
    from iom.evaluation.records import Figure
    from iom.evaluation.scores import STOLEN_KEY

    evaluator = PairEvaluator(_inputs(faces, faces.benchmark, faces.pair_rows, scenarios=(STOLEN_KEY,)))
    figures: Cell = {}
    for row in evaluator.run(system):
        if isinstance(row, Figure) and row.metric in ("accuracy", "eer", "fnmr_at_fmr_1e-3"):
            figures |= _figure(f"pairs_{row.metric}", row.value, row.low, row.high)
    return figures


def all_pairs(faces: Faces, system: "CodeSystem") -> Cell:
    """All pairs: EER, FNMR at FMR 1e-3 and 1e-4, mean over keys; the threshold for the attacks."""
    import numpy as np

    curves = [_all_pairs_curve(faces, system, number) for number in range(_keys(faces, system))]
    figures: dict[str, list[float]] = {
        "eer": [curve.equal_error_rate() for curve in curves],
        "fnmr_1e3": [curve.fnmr_at_fmr(1e-3) for curve in curves],
        "fnmr_1e4": [curve.fnmr_at_fmr(1e-4) for curve in curves],
        "threshold": [curve.threshold_at_fmr(FMR) for curve in curves],
    }
    cell = {f"all_pairs_{name}": float(np.mean(values)) for name, values in figures.items()}
    return cell | {"all_pairs_eer_std": float(np.std(figures["eer"]))}


def blufr(faces: Faces, system: "CodeSystem") -> Cell:
    """BLUFR: verification rate at FMR 0.1 %, open-set DIR at FPIR 1 %, mean less deviation."""
    from iom.evaluation.identification import BlufrEvaluator
    from iom.evaluation.scores import STOLEN_KEY, scenarios_of

    (scenario,) = scenarios_of(system, (STOLEN_KEY,))
    evaluator = BlufrEvaluator(_inputs(faces, faces.blufr, faces.blufr_rows))
    found = dict(evaluator.figures(system, scenario))
    return {"blufr_vr": found["vr_at_fmr_1e-3"], "blufr_dir": found["dir_at_fpir_1e-2"]}


def search(faces: Faces, system: "CodeSystem") -> Cell:
    """Search in two galleries: rank 1, rank 10, DIR at FPIR 1 %, with intervals."""
    from iom.evaluation.identification import SearchEvaluator

    section: Any = next(SearchEvaluator(_people(faces)).run(system))
    figures: Cell = {}
    for name in ("cmc_rank_1", "cmc_rank_10", "dir_at_fpir_1e-2_rank_1"):
        figures |= _figure(name, **section.figures[name].model_dump())
    return figures


def unlinkability(faces: Faces, system: "CodeSystem") -> Cell:
    """D_sys between templates of two keys, with its interval and what sampling alone gives."""
    from iom.evaluation.pairs import LinkabilityEvaluator

    section: Any = next(LinkabilityEvaluator(_people(faces)).run(system))
    return _figure("d_sys", section.d_sys, section.low, section.high) | {"d_sys_floor": section.d_sys_floor}


def attacks(faces: Faces, system: "CodeSystem") -> Cell:
    """The best attack: PRAR with interval, SAR and cosine; and the linkers' curves."""
    from iom.evaluation.attacks import AttackKeys, attacks_on

    config = faces.config
    threshold = float(_all_pairs_curve(faces, system, 0).threshold_at_fmr(FMR))
    rows = list(attacks_on(system, config, faces.setting.victims, AttackKeys.of(config), threshold))
    best = max((row for row in rows if row.prar is not None), key=lambda row: row.prar or 0.0, default=None)
    cell: Cell = {"attacks": [row.model_dump(mode="json") for row in rows]}
    for row in rows:
        if row.linking_auc is not None:
            cell[f"{row.attack}_auc"] = row.linking_auc
    if best is None:
        return cell
    edges = best.intervals.get("prar", (None, None))
    cell |= _figure("prar", best.prar, *edges) | {"best_attack": best.attack}
    return cell | {"prar_other": best.prar_other, "sar": best.sar, "cosine": best.cosine}


PROTOCOLS: dict[str, Callable[[Faces, "CodeSystem"], Cell]] = {
    "pairs": pairs,
    "all_pairs": all_pairs,
    "blufr": blufr,
    "search": search,
    "linkability": unlinkability,
    "attacks": attacks,
}
"""Name to what measures one cell of the table."""


def _inputs(faces: Faces, benchmark: Any, rows: "NDArray[np.float32]", **scenario: Any) -> "EvaluationInputs":
    from iom.evaluation.records import EmbedderSummary
    from iom.evaluation.scores import EvaluationInputs

    config = faces.config.replace(scenario=faces.config.scenario.replace(**scenario))
    return EvaluationInputs(config, benchmark, rows, {}, EmbedderSummary(name=""))


def _people(faces: Faces) -> "EvaluationInputs":
    """All faces with their subjects, without a list of pairs."""
    subjects = faces.setting.pairs.subjects.astype("int64")
    return _inputs(faces, types.SimpleNamespace(name="", images=None, subjects=subjects), faces.setting.faces)


def _all_pairs_curve(faces: Faces, system: "CodeSystem", number: int) -> Any:
    from iom.evaluation.scores import common_key

    rows = system.templates(faces.setting.faces, common_key(faces.config.seed, number))
    return faces.setting.pairs.curve(system.comparator, rows)


def _keys(faces: Faces, system: "CodeSystem") -> int:
    from iom.evaluation.scores import FLOAT

    return 1 if system.name == FLOAT else faces.config.scenario.keys


def _figure(name: str, value: float, low: float | None, high: float | None) -> Cell:
    return {name: value, f"{name}_low": low, f"{name}_high": high}
