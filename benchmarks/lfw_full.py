"""LFW in full, one table: recognition, unlinkability and attacks for every protection.

    python -m benchmarks.lfw_full
    python -m benchmarks.lfw_full --systems urp fixed_key
    python -m benchmarks.lfw_full --quick --systems float grp

Systems, keys and sizes are those of `configs/evaluate/lfw_full.yaml`; keys are stolen everywhere.
One more row, `fixed_key`, is there when the predecessor's recipe was trained (the command stands in
`configs/stage2/fixed_key.yaml`): it is hashed under random keys as all the others are.
For each system six cells: the 6,000 pairs, all pairs (at most 20 images of a subject), BLUFR (mean
less standard deviation of ten trials), search in two galleries (CMC, open set), D_sys between keys,
and attacks (victims of LFW, the attacker learns from FIW, threshold at FMR 1e-3 over all pairs).
A cell that is done is kept in `--cells` and not computed again unless a setting changed, or with
`--again`, which is for changed code. With `--systems` only these are computed, and rows of others
are shown where they are done. Prints a Markdown table, then one line of JSON with its rows;
rates are fractions.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.command_line import add_data_option, new_parser, run
from benchmarks.lfw_full_cells import PROTOCOLS, Cell, Faces, load_faces, load_system
from benchmarks.lfw_full_store import Cells

if TYPE_CHECKING:
    from iom.config import EvaluateConfig
    from iom.evaluation.scores import CodeSystem

CONFIG = Path("configs/evaluate/lfw_full.yaml")
FIXED_KEY = "fixed_key"
QUICK = ("scenario.keys=1", "scenario.bootstrap=10", "report.keys=1", "report.replicates=10",
         "report.pairs=2000", "report.victims=5", "report.old_keys=1",
         "report.attack_names=[closed_form, prior_regressor, one_guess]")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.lfw_full`."""
    parser = new_parser("python -m benchmarks.lfw_full", str(__doc__))
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: %(default)s")
    add_data_option(parser)
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="few keys, draws, victims and trials")
    parser.add_argument("--systems", nargs="+", help="rows to compute; default: all")
    parser.add_argument("--protocols", nargs="+", help=f"default: {' '.join(PROTOCOLS)}")
    parser.add_argument("--cells", type=Path, default=Path("runs/lfw_full"), help="default: %(default)s")
    parser.add_argument("--again", action="store_true", help="compute these rows though they are done")
    parser.add_argument("--fixed-key", type=Path, default=Path("runs/fixed_key"), help="default: %(default)s, if any")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from iom._registry import lookup
    from iom.attacks import ATTACKS
    from iom.config import EvaluateConfig, load_config
    from iom.evaluation.systems import check_systems

    overrides = [f"seed={arguments.seed}", *(QUICK if arguments.quick else ())]
    config = load_config(EvaluateConfig, arguments.config, overrides=overrides)
    everything = _with_fixed_key(config, arguments.fixed_key, named=arguments.systems or ())
    config = _only(everything, arguments.systems or everything.scenario.systems)
    check_systems(config)
    for name in config.report.attack_names:
        lookup(ATTACKS, name, "attack")
    wanted = arguments.protocols or list(PROTOCOLS)
    for name in wanted:
        lookup(PROTOCOLS, name, "protocol")
    faces = load_faces(arguments.data, config, quick=arguments.quick)
    cells = Cells(arguments.cells, everything, data=arguments.data, quick=arguments.quick)
    named = config.scenario.systems
    rows = []
    for name in dict.fromkeys((*everything.scenario.systems, *named)):
        if name in named:
            row = _row(cells, load_system(name, faces), wanted, faces, again=arguments.again)
        elif all(cells.finished(name, protocol) is not None for protocol in wanted):
            row = _row(cells, load_system(name, faces), wanted, faces)
        else:
            continue
        row.pop("attacks", None)  # every attack's own row stays in the cell's file
        rows.append(row)
    print(_table(rows))
    print(json.dumps({"rows": rows}))
    return 0


def _with_fixed_key(config: "EvaluateConfig", folder: Path, *, named: Sequence[str]) -> "EvaluateConfig":
    """The configuration with a row for the predecessor, if it was trained.

    Raises:
        WeightsError: It is asked for and not there.
    """
    from iom.errors import WeightsError

    if FIXED_KEY in config.hashers:
        return config
    if (folder / "hasher.json").is_file():
        hashers = {**config.hashers, FIXED_KEY: str(folder)}
        systems = (*config.scenario.systems, FIXED_KEY)
        return _only(config.replace(hashers=hashers), systems)
    if FIXED_KEY in named:
        raise WeightsError(
            f"no trained hasher in '{folder}'; train it with python train_stage2.py --config "
            f"configs/stage2/fixed_key.yaml --output {folder}, or name its folder with --fixed-key"
        )
    return config


def _only(config: "EvaluateConfig", systems: Sequence[str]) -> "EvaluateConfig":
    scenario = config.scenario.replace(systems=tuple(systems))
    return config.replace(scenario=scenario)


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


def _row(cells: Cells, system: "CodeSystem", protocols: Sequence[str], faces: Faces, *, again: bool = False) -> Cell:
    """A row of the table; cells that are not done are computed and kept."""
    row: Cell = {"system": system.name, "bits": _bits(system)}
    for protocol in protocols:
        cell = None if again else cells.finished(system.name, protocol)
        if cell is None:
            started = time.perf_counter()
            cell = PROTOCOLS[protocol](faces, system)
            print(f"{system.name}, {protocol}: {time.perf_counter() - started:.0f} s", flush=True)
            cells.keep(system.name, protocol, cell)
        row |= cell
    return row


def _bits(system: "CodeSystem") -> int:
    """Stored bits of a template; 32 for a real number."""
    if not system.alphabet_size:
        return 32 * system.code_length
    return system.code_length * (system.alphabet_size - 1).bit_length()


def _table(rows: Sequence[Cell]) -> str:
    from iom.evaluation.report.text import Table, number_text

    shown = {name: heading for name, heading in COLUMNS.items() if any(name in r for r in rows)}

    def text(row: Cell, name: str) -> str:
        if name == "bits":
            return str(row["bits"])
        if row.get(name) is None:
            return ""
        factor, decimals = (1, 3) if name == "d_sys" else (100, 2)
        low, high = (row.get(f"{name}_{side}") for side in ("low", "high"))
        cell = number_text(row[name], low, high, factor=factor, decimals=decimals)
        return f"{cell} ({row['best_attack']})" if name == "prar" else cell

    lines = tuple((row["system"], *(text(row, name) for name in shown)) for row in rows)
    return Table(("system", *shown.values()), lines, labels=1).markdown()


if __name__ == "__main__":
    raise SystemExit(main())
