"""What each part of the stage 2 configuration is worth: every one removed, or added, once.

    python -m benchmarks.ablation [--lfw] [--resume] [--rows "no refinement" ...]

Each row is the configuration of --config with one change, trained for --epochs epochs on cached
embeddings and measured on the held-out families, with the keys stolen; a change that the
configuration already has is left out. `--lfw` adds all pairs of LFW (every subject, at most 20
images), which no choice may be made by. Runs and the table lie in --output; --resume continues.

Ends with one line of JSON: {"rows": [...]}; rates are fractions, means over keys.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import lfw_all_pairs
from benchmarks.command_line import add_data_option, new_parser, run
from iom._registry import lookup
from iom.config import CODE_LOSSES, Stage2Config, SweepConfig, VariantConfig, load_config
from iom.errors import ConfigError

CONFIG = "configs/stage2/trained.yaml"
AS_COMMITTED = "as committed"

CHOICES: dict[str, dict[str, Any]] = {
    "no whitening": {"hasher.whitening": 0},
    "whitening 0.4": {"hasher.whitening": 0.4},
    "no learned layer": {"hasher.whitening": 0, "hasher.learned_layer": False, "epochs": 0},
    "projection trained": {"hasher.train_projection": True},
    "projection trained, no refinement": {"hasher.train_projection": True, "hasher.refinement_steps": 0},
    "no refinement": {"hasher.refinement_steps": 0},
    "5 steps of refinement": {"hasher.refinement_steps": 5},
    "20 steps of refinement": {"hasher.refinement_steps": 20},
    "gaussian frame": {"hasher.projection": "gaussian"},
    "orthonormal frame": {"hasher.projection": "orthonormal"},
    "simplex frame": {"hasher.projection": "simplex"},
    "cross-polytope frame": {"hasher.projection": "cross_polytope"},
    "soft codes": {"hasher.straight_through": False},
    "T annealed 10 to 40": {"hasher.inverse_temperature": 10, "hasher.inverse_temperature_end": 40},
    "T 10": {"hasher.inverse_temperature": 10},
    "one fixed key (identity)": {"key": "identity"},
    "4 keys a batch": {"batches.keys": 4},
    "orthogonal keys": {"hasher.key_kind": "orthogonal"},
    "subset keys, keep 64": {"hasher.key_kind": "subset", "hasher.keep": 64},
    "keep 64": {"hasher.keep": 64},
    "1 hidden layer": {"hasher.hidden_layers": 1},
    "2 hidden layers": {"hasher.hidden_layers": 2},
    "3 hidden layers": {"hasher.hidden_layers": 3},
    "bottleneck 64": {"hasher.bottleneck": 64},
    "bottleneck 256": {"hasher.bottleneck": 256},
    "no weight around the decision": {"losses.distillation.width": 1000},
    "P=120, K=2": {"batches.subjects": 120, "batches.images": 2},
}
"""Name to settings, by dotted name. To add a row, add a line."""

ADDED = {
    "triplet": 1.0, "arc_triplet": 1.0, "weighted_margin": 1.0, "multi_similarity": 0.1,
    "quantization": 0.1, "balance": 0.1, "decorrelation": 0.1, "binarization": 0.1,
    "distillation": 1.0, "logistic": 0.1, "operating_point": 0.1, "linkability": 0.1, "classification": 0.01,
}  # fmt: skip
"""Weight with which a loss that is not committed is added."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.ablation`."""
    parser = new_parser("python -m benchmarks.ablation", str(__doc__))
    parser.add_argument("--config", default=CONFIG, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=1, help="of each row; default: %(default)s")
    parser.add_argument("--steps", type=int, default=100, help="of an epoch; default: %(default)s")
    parser.add_argument("--keys", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these; default: all")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"), help="%(default)s")
    parser.add_argument("--resume", action="store_true", help="continue the one in --output")
    parser.add_argument("--lfw", action="store_true", help="also measure all pairs of LFW")
    parser.add_argument("--lfw-keys", type=int, default=3, help="default: %(default)s")
    add_data_option(parser)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C",
                        help="change one setting of all rows")  # fmt: skip
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    short = {
        "epochs": arguments.epochs, "batches.steps_per_epoch": arguments.steps,
        "calibration.bootstrap": 0,
    }  # fmt: skip
    overrides = [*(f"{name}={value}" for name, value in short.items()), *arguments.overrides]
    for override in arguments.overrides:
        name, _, value = override.partition("=")
        short[name] = _yaml(value)
    committed = load_config(Stage2Config, Path(arguments.config), overrides=overrides)
    search = SweepConfig(
        stage2=arguments.config,
        set=short,
        variants=tuple(variants(committed, arguments.config, overrides, arguments.rows)),
        baselines=("grp", "orthonormal", "simplex", "simplex_refined"),
        keys=arguments.keys,
    )

    from iom.evaluation.sweep import run_sweep, sweep_table

    rows = run_sweep(search, arguments.output, resume=arguments.resume, report=lambda line: print(line, flush=True))
    if arguments.lfw:
        _add_lfw(rows, arguments)
    print(sweep_table(rows).markdown())
    print(json.dumps({"rows": rows}))
    return 0


def variants(
    committed: Stage2Config, path: str, overrides: Sequence[str], wanted: Sequence[str] | None
) -> list[VariantConfig]:
    """The committed configuration, and each change to it that is one.

    Raises:
        ConfigError: A name in `wanted` that is no row.
    """
    table: dict[str, dict[str, Any]] = {AS_COMMITTED: {}, "not trained": {}, **CHOICES}
    present = [loss.name for loss in committed.losses if loss.weight > 0]
    for name in CODE_LOSSES:
        setting = f"losses.{name}.weight"
        if name not in present:
            table[f"with {name}"] = {setting: ADDED[name]}
        elif len(present) > 1:
            table[f"no {name}"] = {setting: 0}
        elif name == "triplet":
            table["distillation instead of triplet"] = {setting: 0, "losses.distillation.weight": 1}
        else:
            table[f"triplet instead of {name}"] = {setting: 0, "losses.triplet.weight": 1}
    for name in wanted or ():
        lookup(table, name, "row")
    found = []
    for name, settings in table.items():
        if wanted and name not in wanted:
            continue
        train = name != "not trained"
        texts = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        changed = load_config(Stage2Config, Path(path), overrides=[*overrides, *texts])
        if settings and changed == committed:
            continue
        trains = changed.hasher.train_projection or changed.hasher.train_learned_layer
        found.append(VariantConfig(name=name, set=settings, train=train and trains))
    if not found:
        raise ConfigError("--rows: the configuration already is what these rows would change")
    return found


def _yaml(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def _add_lfw(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Add `lfw_eer` and `lfw_fnmr_1e-4` to the trained rows and the float one, in place."""
    import numpy as np
    from tqdm import tqdm

    from benchmarks.key_trials import code_curve, float_curve
    from iom._files import write_json
    from iom.codes.packing import pack
    from iom.evaluation.scores import common_key
    from iom.models.face_hasher import KerasFaceHasher

    faces = lfw_all_pairs.load_faces(
        argparse.Namespace(config=lfw_all_pairs.CONFIG, data=arguments.data, images=lfw_all_pairs.AT_MOST)
    )
    for row in tqdm(rows, desc="LFW", unit="row"):
        if row["kind"] == "float":
            curves = [float_curve(faces.pairs, faces.embeddings)]
        elif row["run"] is None or "failed" in row:
            continue
        else:
            stored = arguments.output / "lfw" / f"{Path(row['run']).name}.json"
            if stored.exists():
                row |= json.loads(stored.read_text(encoding="utf-8"))
                continue
            hasher = KerasFaceHasher.load(arguments.output / row["run"])
            hasher.check_embedder(faces.embedder)
            curves = []
            for number in range(arguments.lfw_keys):
                codes = hasher.hash(faces.embeddings, common_key(1, number))
                curves.append(code_curve(faces.pairs, pack(codes, hasher.alphabet_size)))
        figures = {
            "lfw_eer": float(np.mean([curve.equal_error_rate() for curve in curves])),
            "lfw_fnmr_1e-4": float(np.mean([curve.fnmr_at_fmr(1e-4) for curve in curves])),
        }
        if row["kind"] != "float":
            write_json(stored, figures)
        row |= figures


if __name__ == "__main__":
    raise SystemExit(main())
