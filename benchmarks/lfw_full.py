"""LFW in full, one table: recognition, unlinkability and attacks for every protection.

    python -m benchmarks.lfw_full
    python -m benchmarks.lfw_full --quick --systems float grp

Systems, keys and sizes are those of `configs/evaluate/lfw_full.yaml`; keys are stolen everywhere.
For each system six cells: the 6,000 pairs, all pairs (at most 20 images of a subject), BLUFR (mean
less standard deviation of ten trials), search in two galleries (CMC, open set), D_sys between keys,
and attacks (victims of LFW, the attacker learns from FIW, threshold at FMR 1e-3 over all pairs).
A cell that is done is kept in `--cells` and not computed again unless a setting changed. Prints a
Markdown table, then one line of JSON with its rows; rates are fractions.
"""

import argparse
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.lfw_full_cells import PROTOCOLS, Cell, Faces, load_faces, load_system
from iom.cli.arguments import new_parser, run

if TYPE_CHECKING:
    from iom.config.schema import EvaluateConfig
    from iom.evaluation.scores import CodeSystem

CONFIG = Path("configs/evaluate/lfw_full.yaml")
QUICK = ("scenario.keys=1", "scenario.bootstrap=10", "report.keys=1", "report.replicates=10",
         "report.pairs=2000", "report.victims=5", "report.old_keys=1",
         "report.attack_names=[closed_form, prior_regressor, one_guess]")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.lfw_full`."""
    parser = new_parser("python -m benchmarks.lfw_full", str(__doc__))
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: %(default)s")
    parser.add_argument(
        "--shared", type=Path, default=Path("../shared"), help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="few keys, draws, victims and trials")
    parser.add_argument("--systems", nargs="+", help="default: those of the configuration")
    parser.add_argument("--protocols", nargs="+", help=f"default: {' '.join(PROTOCOLS)}")
    parser.add_argument(
        "--cells", type=Path, default=Path("runs/lfw_full"), help="default: %(default)s"
    )
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from iom.config.loading import load_config
    from iom.config.schema import EvaluateConfig
    from iom.evaluation.full.attacks import check_attacks
    from iom.evaluation.systems import check_systems
    from iom.lookup import lookup

    overrides = [f"seed={arguments.seed}", *(QUICK if arguments.quick else ())]
    if arguments.systems:
        overrides.append(f"scenario.systems={json.dumps(arguments.systems)}")
    config = load_config(EvaluateConfig, arguments.config, overrides=overrides)
    check_systems(config)
    check_attacks(config.report)
    wanted = arguments.protocols or list(PROTOCOLS)
    measures = {name: lookup(PROTOCOLS, name, "protocol") for name in wanted}
    faces = load_faces(arguments.shared, config, quick=arguments.quick)
    rows = []
    for name in config.scenario.systems:
        system = load_system(name, faces)
        row: Cell = {"system": name, "bits": _bits(system)}
        for protocol, measure in measures.items():
            row.update(_cell(arguments, faces, system, protocol, measure))
        row.pop("attacks", None)  # every attack's own row stays in the cell's file
        rows.append(row)
    print(_table(rows))
    print(json.dumps({"rows": rows}))
    return 0


COLUMNS = {
    "bits": "bits",
    "pairs_accuracy": "pairs: accuracy %",
    "pairs_eer": "EER %",
    "pairs_fnmr_at_fmr_1e-3": "FNMR@1e-3 %",
    "all_pairs_eer": "all pairs: EER %",
    "all_pairs_fnmr_1e4": "FNMR@1e-4 %",
    "blufr_vr": "BLUFR: VR@1e-3 %",
    "blufr_dir": "DIR@1e-2 %",
    "cmc_rank_1": "rank 1 %",
    "dir_at_fpir_1e-2_rank_1": "open set: DIR@1e-2 %",
    "d_sys": "D_sys",
    "prar": "PRAR % (best attack)",
    "prar_other": "other sample %",
}
"""Figure to heading."""


def _cell(
    arguments: argparse.Namespace,
    faces: Faces,
    system: "CodeSystem",
    protocol: str,
    measure: Callable[[Faces, "CodeSystem"], Cell],
) -> Cell:
    """A cell from its file, or computed and put there."""
    from iom.errors import DataError
    from iom.files import write_json

    path = arguments.cells / f"{system.name}.{protocol}.json"
    settings = _settings(arguments, faces.config, system.name)
    if path.is_file():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["settings"] == settings:
                return dict(stored["cell"])
        except (ValueError, KeyError, TypeError):
            print(f"{path} is damaged and computed again", flush=True)
    started = time.perf_counter()
    cell = measure(faces, system)
    print(f"{system.name}, {protocol}: {time.perf_counter() - started:.0f} s", flush=True)
    try:
        write_json(path, {"settings": settings, "cell": cell})
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    return cell


def _settings(arguments: argparse.Namespace, config: "EvaluateConfig", name: str) -> str:
    """Digest of everything that a cell depends on, the hasher's own file among it."""
    from iom.evaluation.systems import hasher_folders

    folder = hasher_folders(config).get(name, "")
    metadata = Path(folder, "hasher.json").read_text(encoding="utf-8") if folder else ""
    scenario = dataclasses.replace(config.scenario, systems=())
    tree = dataclasses.asdict(dataclasses.replace(config, scenario=scenario, hashers={}))
    more = [str(arguments.shared), arguments.quick, metadata]
    return hashlib.sha256(json.dumps([tree, more], sort_keys=True).encode()).hexdigest()


def _bits(system: "CodeSystem") -> int:
    """Stored bits of a template; 32 for a real number."""
    if not system.alphabet_size:
        return 32 * system.code_length
    return system.code_length * (system.alphabet_size - 1).bit_length()


def _table(rows: Sequence[Cell]) -> str:
    from iom.evaluation.full.tables import Table, interval_text, markdown

    shown = {name: heading for name, heading in COLUMNS.items() if any(name in r for r in rows)}

    def text(row: Cell, name: str) -> str:
        if name == "bits":
            return str(row["bits"])
        if row.get(name) is None:
            return ""
        factor, decimals = (1, 3) if name == "d_sys" else (100, 2)
        low, high = (row.get(f"{name}_{side}") for side in ("low", "high"))
        edges = [None if edge is None else factor * edge for edge in (low, high)]
        cell = interval_text(factor * row[name], *edges, decimals)
        return f"{cell} ({row['best_attack']})" if name == "prar" else cell

    lines = tuple((row["system"], *(text(row, name) for name in shown)) for row in rows)
    return markdown(Table("lfw_full", "", ("system", *shown.values()), lines, labels=1))


if __name__ == "__main__":
    raise SystemExit(main())
