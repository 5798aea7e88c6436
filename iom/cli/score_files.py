"""Score files of other toolboxes: `iom score-files evaluate FILE ...`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import Answer, add_config_arguments, add_json, new_parser, run

EPILOG = """\
formats: four (claimed_id real_id test_label score), five (claimed_id model_label real_id test_label
score), csv (header with bio_ref_subject_id, probe_subject_id, score and, for identification,
bio_ref_reference_id and probe_reference_id). Scores are similarities unless --distances is given.

examples:
  iom score-files evaluate scores-dev.txt
  iom score-files evaluate scores.csv --json
  iom score-files export --config evaluate/synthetic --output runs/scores
"""
FORMAT_NAMES = ("four", "five", "csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom score-files`."""
    parser = new_parser(
        "iom score-files",
        "Evaluate score files of other toolboxes with our metrics, and write ours for theirs.",
        epilog=EPILOG,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    evaluating = commands.add_parser("evaluate", help="EER, FNMR at FMR; identification on request")
    evaluating.add_argument("files", type=Path, nargs="+", metavar="FILE")
    evaluating.add_argument("--format", choices=FORMAT_NAMES, default="", help="default: guessed")
    evaluating.add_argument("--distances", action="store_true", help="lower scores are more alike")
    evaluating.add_argument(
        "--identification", action="store_true", help="CMC and open set too; needs each probe once with each reference"
    )
    add_json(evaluating)
    exporting = commands.add_parser("export", help="write the scores of an evaluation")
    add_config_arguments(exporting)
    exporting.add_argument("--output", type=Path, required=True, metavar="DIR")
    exporting.add_argument("--format", choices=FORMAT_NAMES, default="five")
    add_json(exporting)
    return run(_command, parser, argv)


def _command(arguments: argparse.Namespace) -> Answer:
    return _evaluate(arguments) if arguments.command == "evaluate" else _export(arguments)


def _evaluate(arguments: argparse.Namespace) -> Answer:
    from iom.errors import DataError
    from iom.evaluation.score_files import read_scores, table_figures

    lines, found = [], []
    for path in arguments.files:
        table = read_scores(path, arguments.format, higher_is_closer=not arguments.distances)
        try:
            figures = dict(table_figures(table, identification=arguments.identification))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        found.append({"file": path, "comparisons": len(table), **figures})
        lines.append(f"{path}: {len(table)} comparisons, EER and other rates as fractions")
        lines += [f"  {name:28} {value:.6g}" for name, value in figures.items()]
    return Answer({"files": found}, "\n".join(lines))


def _export(arguments: argparse.Namespace) -> Answer:
    from iom._files import check_output
    from iom.config.loading import load_config
    from iom.config.schema import EvaluateConfig

    config = load_config(EvaluateConfig, arguments.config, overrides=[*arguments.overrides, "scenario.bootstrap=0"])
    check_output(arguments.output)

    from iom.evaluation.evaluate import prepare
    from iom.evaluation.report.collect import score_systems
    from iom.evaluation.score_files import write_system_scores

    inputs = prepare(config, progress=True)
    scores = score_systems(config, inputs, progress=True)
    paths = list(write_system_scores(inputs.benchmark, scores, arguments.output, arguments.format))
    return Answer({"files": paths}, "\n".join(map(str, paths)))


if __name__ == "__main__":
    raise SystemExit(main())
