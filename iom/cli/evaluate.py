"""Evaluate a system: `iom evaluate --config FILE --output DIR`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iom.cli.arguments import Answer, add_config_arguments, new_parser, run
from iom.errors import ConfigError

if TYPE_CHECKING:
    from iom.config.schema import EvaluateConfig
    from iom.evaluation.evaluate import Prepared
    from iom.evaluation.report.result_files import Report

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

    from iom.evaluation.evaluate import pair_report, prepare
    from iom.evaluation.report.result_files import report_tree, write_report
    from iom.evaluation.report.result_table import format_table

    progress = not arguments.quiet
    if arguments.report:
        from iom.evaluation.report.attacks import check_attacks

        check_attacks(config)
    prepared = prepare(config, progress=progress)
    report = pair_report(config, prepared, progress=progress)
    if arguments.output:
        write_report(report, arguments.output)
    print(format_table(report))
    tree, page = report_tree(report), None
    if arguments.output:
        print(f"report: {arguments.output / 'report.json'}")
    if arguments.report:
        page = _report_fully(arguments, config, prepared, report)
    return Answer({"output": arguments.output, "page": page, "rows": tree["rows"]})


def _report_fully(
    arguments: argparse.Namespace, config: "EvaluateConfig", prepared: "Prepared", report: "Report"
) -> Path:
    """Write the report of `--report`, print its sentences, and return its page."""
    from iom.evaluation.report.collect import full_tree
    from iom.evaluation.report.hardest_pairs import thumbnails
    from iom.evaluation.report.write import PAGE, write_full_report

    tree = full_tree(config, prepared, report, progress=not arguments.quiet)
    images = {}
    if arguments.with_images:
        pairs = tree["sections"]["worst_pairs"]
        names = [pair[side] for pair in pairs for side in ("left", "right")]
        images = thumbnails(prepared.benchmark, names)
    write_full_report(tree, config, arguments.report, images=images)
    print("\n".join(f"- {sentence['text']}" for sentence in tree["summary"]))
    print(f"page: {arguments.report / PAGE}")
    return Path(arguments.report / PAGE)
