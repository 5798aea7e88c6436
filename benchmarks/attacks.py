"""Every attack on every protection, with model, key and template disclosed.

    python -m benchmarks.attacks
    python -m benchmarks.attacks --systems grp biohash --attacks closed_form prior_regressor
    python -m benchmarks.attacks --systems --hasher pre_models/mobilefacenet_y1_512x8

Victims are subjects of LFW, the attacker learns from FIW, the operating threshold (FMR 1e-3, keys
stolen) is found on all pairs of 2,000 LFW images. Post-revocation acceptance (PRAR) is over 40
fresh keys. Prints a table, then one line of JSON with its rows and 95 % intervals over subjects and
keys; rates are fractions.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.attack_setting import Setting, add_data_arguments, load_setting
from benchmarks.lfw_all_pairs import parse_shape
from benchmarks.tradeoff import FMR, FRESH_KEYS
from iom.cli.arguments import new_parser, run

if TYPE_CHECKING:
    from iom.attacks.interface import AttackedSystem

SYSTEMS = (
    "grp", "urp", "biohash", "mlphash", "polyprotect", "bloom", "ifo", "sign", "simplex_refined"
)  # fmt: skip
IMAGES = 2000
THRESHOLD_KEYS = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.attacks`."""
    parser = new_parser("python -m benchmarks.attacks", str(__doc__))
    add_data_arguments(parser)
    parser.add_argument(
        "--systems", nargs="*", default=list(SYSTEMS), help=f"default: {' '.join(SYSTEMS)}"
    )
    parser.add_argument("--attacks", nargs="+", help="default: all")
    parser.add_argument("--shape", type=parse_shape, default=(512, 8), help="default: 512x8")
    parser.add_argument("--keep", type=int, default=0, help="where a system has it; default: all")
    parser.add_argument("--hasher", type=Path, help="folder of a trained hasher, attacked as well")
    parser.add_argument("--records", type=int, nargs="+", default=[2, 5, 10])
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from iom.attacks import ATTACKS
    from iom.evaluation.attack_report import attack_rows, format_attacks
    from iom.evaluation.attack_scores import Keys, measuring_keys, operating_threshold

    setting = load_setting(arguments, samples=4)
    keys = Keys(
        measuring_keys(arguments.seed, "old", arguments.old_keys),
        measuring_keys(arguments.seed, "fresh", FRESH_KEYS),
        measuring_keys(arguments.seed, "records", max(arguments.records) - 1),
    )
    labels = setting.pairs.subjects[:IMAGES].astype("int64")
    rows = []
    for system in _systems(arguments, setting):
        threshold = operating_threshold(
            system,
            setting.faces[:IMAGES],
            labels,
            fmr=FMR,
            keys=measuring_keys(arguments.seed, "threshold", THRESHOLD_KEYS),
        )
        for row in attack_rows(
            [(system, threshold)],
            arguments.attacks or list(ATTACKS),
            setting.victims,
            keys,
            records=arguments.records,
            seed=arguments.seed,
        ):
            rows.append(row)
            print(format_attacks([row]).splitlines()[-1], flush=True)
    print(format_attacks(rows))
    print(json.dumps({"rows": [row.to_dict() for row in rows]}))
    return 0


def _systems(arguments: argparse.Namespace, setting: Setting) -> Iterator["AttackedSystem"]:
    from iom.attacks.disclosure import attacked_hasher, attacked_protection
    from iom.baselines import BASELINES
    from iom.config.hashing import HasherConfig
    from iom.lookup import lookup

    size = setting.faces.shape[1]
    length, alphabet = arguments.shape
    code = HasherConfig(code_length=length, alphabet_size=alphabet, keep=arguments.keep)
    for name in arguments.systems:
        protection = lookup(BASELINES, name, "baseline")(size, code, arguments.seed)
        yield attacked_protection(name, protection, size)
    if arguments.hasher:
        from iom.models.keras_face_hasher import KerasFaceHasher

        yield attacked_hasher("learned", KerasFaceHasher.load(arguments.hasher))


if __name__ == "__main__":
    raise SystemExit(main())
