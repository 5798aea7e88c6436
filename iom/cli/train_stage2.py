"""Train a hasher: `iom train-stage2 --config FILE --output DIR`."""

import argparse
from collections.abc import Sequence

from iom.cli.arguments import Answer, add_config_arguments, add_run_arguments, new_parser, run

EPILOG = """\
the output folder holds the best hasher (hasher.keras, hasher.json with its decision threshold),
the last one in last/, config.yaml, metrics.jsonl and the resumable state; pass it to iom evaluate
as --set hasher=DIR

examples:
  iom train-stage2 --config smoke/stage2 --output runs/smoke2
  iom train-stage2 --config stage2/bundled --output runs/hasher --resume
  iom train-stage2 --config stage2/base --output runs/mine \\
      --set data.root=faces --set hasher.code_length=256
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom train-stage2`."""
    parser = new_parser(
        "iom train-stage2",
        "Stage 2: train a hasher from embedding and key to an Index-of-Max code on a folder "
        "<root>/<subject>/<image>, and calibrate its decision threshold on held-out subjects.",
        epilog=EPILOG,
        answers=True,
    )
    add_config_arguments(parser)
    add_run_arguments(parser)
    return run(_train, parser, argv)


def _train(arguments: argparse.Namespace) -> Answer:
    from iom._files import check_output
    from iom.config.loading import load_config
    from iom.config.schema import Stage2Config

    config = load_config(Stage2Config, arguments.config, overrides=arguments.overrides)
    check_output(arguments.output)

    from iom.training.hasher import train_hasher

    train_hasher(
        config,
        arguments.output,
        resume=arguments.resume,
        progress=not arguments.quiet,
        report=lambda line: print(line, flush=True),
    )
    return Answer({"best_hasher": arguments.output}, f"best hasher: {arguments.output}")
