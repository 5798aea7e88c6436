"""Evaluate a system: `python evaluate.py --config FILE --output DIR`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import add_config_arguments, new_parser, run

EPILOG = """\
writes report.json, report.csv, report.png and config.yaml to the output folder and prints a table

systems (scenario.systems):
  float    the embedding itself, cosine distance: no protection, the accuracy to lose as little of
  grp      a data-agnostic Index-of-Max code; the other baselines go by their names too
  learned  the trained hasher in the folder `hasher`; others by the names that `hashers` gives them
scenarios:
  stolen_key  all codes under one common key, as when the impostor holds the victim's key
  own_key     each subject under a secret key of its own

examples:
  python evaluate.py --config configs/smoke/evaluate.yaml --output runs/evaluation
  python evaluate.py --config configs/evaluate/lfw.yaml --output runs/lfw
  python evaluate.py --config configs/evaluate/lfw.yaml --output runs/lfw \\
      --set scenario.systems='[float, grp]' --set scenario.keys=10
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `evaluate.py`."""
    parser = new_parser(
        "evaluate.py",
        "Verification accuracy of the float embedding, of data-agnostic codes and of the learned "
        "codes, with the keys stolen and with the keys secret.",
        epilog=EPILOG,
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of the report"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return run(_evaluate, parser, argv)


def _evaluate(arguments: argparse.Namespace) -> int:
    from iom.config.loading import load_config
    from iom.config.schema import EvaluateConfig

    config = load_config(EvaluateConfig, arguments.config, overrides=arguments.overrides)

    from iom.evaluation.evaluate import evaluate
    from iom.evaluation.report import prepare_folder, write_report
    from iom.evaluation.table import format_table

    prepare_folder(arguments.output)
    report = evaluate(config, progress=not arguments.quiet)
    write_report(report, arguments.output)
    print(format_table(report))
    print(f"report: {arguments.output / 'report.json'}")
    return 0
