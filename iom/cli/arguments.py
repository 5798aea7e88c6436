"""What every command shares: `--config`, `--set`, and errors told in one line."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from iom.errors import IomError

USER_ERROR = 2
INTERRUPTED = 130


def new_parser(program: str, description: str, *, epilog: str = "") -> argparse.ArgumentParser:
    """Parser whose help shows defaults and keeps the line breaks of `epilog`."""
    return argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_config_arguments(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Add `--config FILE` and `--set section.key=value`."""
    parser.add_argument(
        "--config",
        type=Path,
        default=default,
        required=default is None,
        metavar="FILE",
        help="YAML configuration" + (f" (default: {default})" if default else ""),
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one setting; may be given several times",
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--output DIR` and `--resume`."""
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of the run"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --output where it stopped"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(
    command: Callable[[argparse.Namespace], int],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse and run; a user's mistake becomes one line on standard error and exit code 2."""
    arguments = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its log is for its developers
    try:
        return command(arguments)
    except IomError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as stop:
        print(_interrupted(str(stop), arguments, parser.prog, argv), file=sys.stderr)
        return INTERRUPTED


def _interrupted(
    reason: str, arguments: argparse.Namespace, program: str, argv: Sequence[str] | None
) -> str:
    """What happened and, for a run that can be continued, the command that does it."""
    reason = reason or "interrupted"
    if not hasattr(arguments, "resume"):
        return reason
    given = [text for text in (sys.argv[1:] if argv is None else argv) if text != "--resume"]
    start = ["python", program] if program.endswith(".py") else program.split()
    return f"{reason}; continue with: {shlex.join([*start, *given, '--resume'])}"
