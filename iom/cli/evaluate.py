"""Evaluate a system: `iom evaluate --config FILE --output DIR`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import Answer, add_config_arguments, new_parser, run
from iom.errors import ConfigError

EPILOG = """\
--output writes report.json, report.csv, report.png and config.yaml and prints a table
--report computes more (search, unlinkability, attacks; configuration: report.*) and writes one HTML
page that needs no network, report.json with everything in it, CSV files and LaTeX tables

systems (scenario.systems):
  float    the embedding itself, cosine distance: no protection, the accuracy to lose as little of
  grp      a data-agnostic Index-of-Max code; the other baselines go by their names too
  learned  the trained hasher in the folder `hasher`; others by the names that `hashers` gives them
scenarios:
  stolen_key  all codes under one common key, as when the impostor holds the victim's key
  own_key     each subject under a secret key of its own

examples:
  iom evaluate --config smoke/evaluate --output runs/evaluation
  iom evaluate --config evaluate/lfw --output runs/lfw
  iom evaluate --config evaluate/lfw --report runs/lfw_report
  iom evaluate --config evaluate/lfw --output runs/lfw \\
      --set scenario.systems='[float, grp]' --set scenario.keys=10
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom evaluate`."""
    parser = new_parser(
        "iom evaluate",
        "Verification accuracy of the float embedding, of data-agnostic codes and of the learned "
        "codes, with the keys stolen and with the keys secret.",
        epilog=EPILOG,
        answers=True,
    )
    add_config_arguments(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the figures")
    parser.add_argument("--report", type=Path, metavar="DIR", help="folder of the full report, with an HTML page")
    parser.add_argument("--with-images", action="store_true", help="show the hardest pairs' images in the page")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return run(_evaluate, parser, argv)


def _evaluate(arguments: argparse.Namespace) -> Answer:
    from iom._files import check_output
    from iom.config.loading import load_config
    from iom.config.schema import EvaluateConfig

    config = load_config(EvaluateConfig, arguments.config, overrides=arguments.overrides)

    if arguments.output is None and arguments.report is None:
        raise ConfigError("expected --output DIR, --report DIR or both")
    if arguments.with_images and arguments.report is None:
        raise ConfigError("--with-images goes with --report DIR")
    for folder in filter(None, (arguments.output, arguments.report)):
        check_output(folder)

    from iom.evaluation.evaluate import prepare
    from iom.evaluation.report.collect import collect
    from iom.evaluation.report.text import terminal_text
    from iom.evaluation.report.write import thumbnails, write_figures, write_report

    progress, full = not arguments.quiet, arguments.report is not None
    inputs = prepare(config, full=full, progress=progress)
    data = collect(config, inputs, full=full, progress=progress)
    if arguments.output:
        write_figures(data, arguments.output)
    print(terminal_text(data))
    if arguments.output:
        print(f"report: {arguments.output / 'report.json'}")
    page = None
    if full:
        pairs = data.sections.hardest_pairs if arguments.with_images else []
        page = write_report(data, arguments.report, images=thumbnails(inputs.benchmark, pairs))
        print("\n".join(f"- {sentence.text}" for sentence in data.summary))
        print(f"page: {page}")
    return Answer({"output": arguments.output, "page": page, "rows": data.to_json()["rows"]})
