"""Histories of several runs in one picture: `iom curves RUN [RUN ...]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import Answer, new_parser, run

EPILOG = """\
examples:
  iom curves runs/first runs/second --output curves.png
  iom curves runs/heads/* --output heads.svg

Losses, figures of verification and learning rate by epoch, a panel each, a line for each run.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom curves`."""
    parser = new_parser(
        "iom curves",
        "Draw the learning curves of one or several runs of stage 1 or 2 into one picture.",
        epilog=EPILOG,
        answers=True,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run, with its metrics.jsonl")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="picture, .png or .svg")
    return run(_draw, parser, argv)


def _draw(arguments: argparse.Namespace) -> Answer:
    from iom.errors import DataError

    if arguments.output.suffix.lower() not in (".png", ".svg"):
        raise DataError(f"{arguments.output}: expected a name ending in .png or .svg")

    from iom._files import check_output

    check_output(arguments.output, folder=False)

    from iom.training.curves import draw_curves
    from iom.training.run_dir import read_records

    records = {}
    for folder in arguments.runs:
        rows = read_records(folder / "metrics.jsonl")
        if not rows:
            raise DataError(f"{folder}: expected a run with an epoch or more in its metrics.jsonl, found none")
        name = folder.name if folder.name not in records else str(folder)
        records[name] = rows
    draw_curves(arguments.output, records)
    return Answer({"picture": arguments.output, "runs": list(records)}, f"{arguments.output}: {len(records)} runs")


if __name__ == "__main__":
    sys.exit(main())
