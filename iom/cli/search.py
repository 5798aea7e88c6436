"""Grid search on cached embeddings: `iom search --config FILE --output DIR`."""

import argparse
from collections.abc import Sequence

from iom.cli.arguments import Answer, add_config_arguments, add_run_arguments, new_parser, run

EPILOG = """\
the output folder holds the table (sweep.md, sweep.csv, sweep.json, rewritten after each row),
the plot sweep.png, rows.jsonl with what is measured, and runs/ with the trained hashers; --resume
keeps finished rows and continues an interrupted training

rows are measured on the held-out subjects of the stage 2 configuration's data section, with the
keys stolen; a test set is looked at only where `evaluate` names one

examples:
  iom search --config search/smoke --output runs/smoke/search
  iom search --config search/code_shapes --output runs/code_shapes
  iom search --config search/keep --output runs/keep --set keys=20
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom search`."""
    parser = new_parser(
        "iom search",
        "Train and measure every configuration of a grid on cached embeddings, in one process: "
        "one table and one picture.",
        epilog=EPILOG,
        answers=True,
    )
    add_config_arguments(parser)
    add_run_arguments(parser)
    return run(_search, parser, argv)


def _search(arguments: argparse.Namespace) -> Answer:
    from iom._files import check_output
    from iom.config.loading import load_config
    from iom.config.search import SearchConfig

    config = load_config(SearchConfig, arguments.config, overrides=arguments.overrides)
    check_output(arguments.output)

    from iom.evaluation.sweep import run_sweep, sweep_table

    rows = run_sweep(
        config,
        arguments.output,
        resume=arguments.resume,
        progress=not arguments.quiet,
        report=lambda line: print(line, flush=True),
    )
    table, picture = arguments.output / "sweep.md", arguments.output / "sweep.png"
    return Answer(
        {"table": table, "picture": picture, "rows": rows},
        f"{sweep_table(rows).markdown()}\ntable and picture: {table}, {picture}",
    )


if __name__ == "__main__":
    raise SystemExit(main())
