"""Reports side by side: `iom compare A/report.json B/report.json --output DIR`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import Answer, new_parser, run
from iom.errors import ConfigError

EPILOG = """\
writes comparison.html (needs no network), comparison.csv, .tex and .svg, and prints the table

example:
  iom compare runs/before runs/after/report.json --output runs/compared
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom compare`."""
    parser = new_parser("iom compare", "Put several reports of iom evaluate side by side.", epilog=EPILOG, answers=True)
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORT", help="a report.json or its folder")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--different-benchmarks",
        action="store_true",
        help="allow reports on different benchmarks, whose figures cannot be compared",
    )
    return run(_compare, parser, argv)


def _compare(arguments: argparse.Namespace) -> Answer:
    if len(arguments.reports) < 2:
        raise ConfigError("compare: expected two reports or more")

    from iom._files import check_output

    check_output(arguments.output)

    from iom.evaluation.report.data import read_report
    from iom.evaluation.report.write import DIFF_PAGE, check_same_benchmark, report_names, write_diff

    names = report_names(arguments.reports)
    reports = {name: read_report(path) for name, path in zip(names, arguments.reports, strict=True)}
    if not arguments.different_benchmarks:
        check_same_benchmark(reports)
    table = write_diff(reports, arguments.output)
    page = arguments.output / DIFF_PAGE
    return Answer({"page": page, "columns": table.header, "rows": table.rows}, f"{table.markdown()}\npage: {page}")


if __name__ == "__main__":
    raise SystemExit(main())
