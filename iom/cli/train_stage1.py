"""Train a backbone: `iom train-stage1 --config FILE --output DIR`."""

import argparse
from collections.abc import Sequence

from iom.cli.arguments import Answer, add_config_arguments, add_run_arguments, new_parser, run

EPILOG = """\
examples:
  iom train-stage1 --config smoke/stage1 --output runs/smoke1
  iom train-stage1 --config stage1/bundled --output runs/bundled --resume
  iom train-stage1 --config stage1/base --output runs/mine --set data.root=faces
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom train-stage1`."""
    parser = new_parser(
        "iom train-stage1",
        "Stage 1: train an embedding network (ArcFace, optionally distilled from a teacher) on a "
        "folder <root>/<subject>/<image>.",
        epilog=EPILOG,
        answers=True,
    )
    add_config_arguments(parser)
    add_run_arguments(parser)
    return run(_train, parser, argv)


def _train(arguments: argparse.Namespace) -> Answer:
    from iom._files import check_output
    from iom.config.loading import load_config
    from iom.config.schema import Stage1Config

    config = load_config(Stage1Config, arguments.config, overrides=arguments.overrides)
    check_output(arguments.output)

    from iom.training.backbone import train_backbone

    best = train_backbone(
        config,
        arguments.output,
        resume=arguments.resume,
        progress=not arguments.quiet,
        report=lambda line: print(line, flush=True),
    )
    return Answer({"best_model": best}, f"best model: {best}")
