"""Code shapes m x q on all pairs of LFW: float, GRP, URP, frames, refined frames and learned codes.

    python -m benchmarks.code_shapes
    python -m benchmarks.code_shapes --shapes 512x8 1536x2 --systems float simplex learned
    python -m benchmarks.code_shapes --shapes 512x2 --systems simplex_refined --comparisons symbols asymmetric

Every subject, at most 20 images of each, keys stolen; figures are means over the keys. A trained
hasher is looked for in the folders of `--hashers`, patterns in which {m} and {q} stand for the
shape; the first that exists is taken, and a shape without one is named as missing.
Ends with one line of JSON, {"rows": [...]}; rates are fractions.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.command_line import new_parser, run
from benchmarks.lfw_all_pairs import Faces, add_arguments, learned_system, load_faces, parse_shape
from iom._registry import COMPARISONS
from iom.errors import ConfigError

if TYPE_CHECKING:
    from iom.evaluation.scores import CodeSystem

SHAPES = (
    "64x8", "128x8", "256x8", "512x8", "1024x8", "512x2", "512x4", "512x16", "256x32",
    "768x2", "768x4", "1536x2", "384x4",
)  # fmt: skip
FLOAT, LEARNED = "float", "learned"
SYSTEMS = (
    FLOAT, "grp", "urp", "orthonormal", "simplex", "cross_polytope", "simplex_refined", LEARNED
)  # fmt: skip
HASHERS = ("runs/shapes/{m}x{q}", "pre_models/mobilefacenet_y1_{m}x{q}")
RATES = ("eer", "fnmr_1e3", "fnmr_1e4", "fnmr_1e5")
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.code_shapes`."""
    parser = new_parser("python -m benchmarks.code_shapes", str(__doc__))
    add_arguments(parser)
    parser.add_argument(
        "--shapes",
        nargs="+",
        type=parse_shape,
        default=[parse_shape(shape) for shape in SHAPES],
        help=f"default: {' '.join(SHAPES)}",
    )
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), help=f"default: {' '.join(SYSTEMS)}")
    parser.add_argument(
        "--comparisons", nargs="+", choices=COMPARISONS, default=["symbols"], help="a row each; default: symbols"
    )
    parser.add_argument("--hashers", nargs="+", default=list(HASHERS), help=f"default: {' '.join(HASHERS)}")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from iom._registry import lookup
    from iom.baselines import BASELINES

    for name in arguments.systems:
        lookup({FLOAT: None, LEARNED: None, **dict.fromkeys(BASELINES)}, name, "system")
    faces = load_faces(arguments)
    print(json.dumps({"rows": measure(faces, arguments)}))
    return 0


def measure(faces: Faces, arguments: argparse.Namespace) -> list[Row]:
    """One row for each shape and system, printed as soon as it is measured."""
    from benchmarks.key_trials import Draws, float_trial, system_trials
    from iom.evaluation.systems import asymmetric_system, comparisons_of

    columns = "".join(f"{name:>16s}" for name in RATES)
    print(f"{'shape':>8s} {'bytes':>6s} {'system':24s}{columns}   % (± over keys)")
    no_draws = Draws(replicates=0)
    rows: list[Row] = []
    if FLOAT in arguments.systems:
        trial = float_trial(faces.pairs, faces.embeddings, no_draws)
        rows.append({"system": FLOAT, **{rate: trial.mean(rate) for rate in RATES}})
        _show(rows[-1])
    for length, alphabet in arguments.shapes:
        bits = length * (alphabet - 1).bit_length()
        for name in arguments.systems:
            if name == FLOAT:
                continue
            row: Row = {"shape": f"{length}x{alphabet}", "bits": bits, "system": name}
            rows.append(row)
            try:
                system = _system(name, faces, (length, alphabet), arguments)
            except ConfigError as error:
                row["missing"] = str(error)
                _show(row)
                continue
            rows.pop()
            for comparison in comparisons_of(system):
                if comparison not in arguments.comparisons:
                    continue
                compared = system if comparison == system.comparison else asymmetric_system(system)
                started = time.perf_counter()
                trials = system_trials(
                    faces.pairs, compared, faces.embeddings, keys=arguments.keys, seed=arguments.seed, draws=no_draws
                )
                found = row | {"system": compared.name} | {rate: trials.mean(rate) for rate in RATES}
                found |= {f"{rate}_std": trials.std(rate) for rate in RATES}
                found["effective_bits_1e4"] = trials.mean("effective_bits_1e4")
                found["seconds"] = round(time.perf_counter() - started, 1)
                rows.append(found)
                _show(found)
    return rows


def _system(name: str, faces: Faces, shape: tuple[int, int], arguments: argparse.Namespace) -> "CodeSystem":
    """A system of this shape.

    Raises:
        ConfigError: It cannot have the shape, or no hasher of the shape was trained.
    """
    from iom.config import CodeConfig
    from iom.evaluation.systems import baseline_system

    length, alphabet = shape
    if name == LEARNED:
        return _learned(faces, shape, arguments.hashers)
    code = CodeConfig(code_length=length, alphabet_size=alphabet)
    system = baseline_system(name, faces.embedder.embedding_size, code, arguments.seed)
    if (system.code_length, system.alphabet_size) != shape:
        raise ConfigError(f"its codes are {system.code_length}x{system.alphabet_size}")
    return system


def _learned(faces: Faces, shape: tuple[int, int], patterns: Sequence[str]) -> "CodeSystem":
    from iom.models.face_hasher import KerasFaceHasher
    from iom.pretrained import HASHER_FILE

    folders = [Path(pattern.format(m=shape[0], q=shape[1])) for pattern in patterns]
    present = [folder for folder in folders if (folder / HASHER_FILE).is_file()]
    if not present:
        raise ConfigError(f"no hasher in {' or '.join(map(str, folders))}")
    hasher = KerasFaceHasher.load(present[0])
    hasher.check_embedder(faces.embedder)
    if (hasher.code_length, hasher.alphabet_size) != shape:
        raise ConfigError(f"{present[0]} holds {hasher.code_length}x{hasher.alphabet_size}")
    return learned_system(hasher)


def _show(row: Row) -> None:
    label = f"{row.get('shape', ''):>8s} {row.get('bits', 0) // 8 or '':>6} {row['system']:24s}"
    if "missing" in row:
        print(f"{label}missing: {row['missing']}", flush=True)
        return
    spreads = (100 * row.get(f"{rate}_std", 0.0) for rate in RATES)
    cells = (f"{100 * row[rate]:.3f} ± {spread:.3f}" for rate, spread in zip(RATES, spreads, strict=True))
    print(label + "".join(f"{cell:>16s}" for cell in cells), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
