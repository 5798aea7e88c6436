"""LFW's 6,000 pairs: float embedding, GRP codes and learned codes, with the keys stolen.

    python -m benchmarks.lfw_pairs

Ends with one line of JSON. `*_mean` and `*_std` are over keys; rates are fractions.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command_line import add_data_option, new_parser, run

CONFIG = Path("configs/evaluate/lfw.yaml")
CODE_METRICS = {"eer": "eer", "fnmr_at_fmr_1e-3": "fnmr_1e3"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.lfw_pairs`."""
    parser = new_parser("python -m benchmarks.lfw_pairs", str(__doc__))
    parser.add_argument("--config", type=Path, default=CONFIG, help="default: %(default)s")
    add_data_option(parser)
    parser.add_argument("--hasher", default="", help="folder of a trained hasher, if another one")
    parser.add_argument("--keys", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the keys; default: %(default)s")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from iom.config import EvaluateConfig, load_config

    data = arguments.data
    overrides = [
        f"benchmark.root={json.dumps(str(data / 'lfw_112x112'))}",
        f"benchmark.path={json.dumps(str(data / 'lists' / 'lfw_pairs.txt'))}",
        f"scenario.keys={arguments.keys}",
        "scenario.bootstrap=0",
        f"seed={arguments.seed}",
    ]
    if arguments.hasher:
        overrides.append(f"hasher={json.dumps(arguments.hasher)}")
    config = load_config(EvaluateConfig, arguments.config, overrides=overrides)

    from iom.evaluation.evaluate import evaluate
    from iom.evaluation.report.text import terminal_text

    report = evaluate(config, progress=True)
    print(terminal_text(report))
    figures = {
        "float_accuracy": report.row("float", "none", "accuracy").value,
        "float_eer": report.row("float", "none", "eer").value,
    }
    for system in ("grp", "learned"):
        for metric, name in CODE_METRICS.items():
            row = report.row(system, "stolen_key", metric)
            figures[f"{system}_{name}_mean"] = row.value
            spread = report.spread(system, "stolen_key", metric)
            figures[f"{system}_{name}_std"] = spread.std if spread else 0.0
        figures[f"{system}_bits"] = _bits(report.systems[system])
    figures["keys"] = arguments.keys
    print(json.dumps(figures))
    return 0


def _bits(system: dict[str, int]) -> int:
    """Stored bits of a code: systems are only to be compared at equal ones."""
    return int(system["code_length"] * (system["alphabet_size"] - 1).bit_length())


if __name__ == "__main__":
    raise SystemExit(main())
