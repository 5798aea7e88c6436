"""Parsers, answers as text or JSON, errors in one line and exit codes, the same in all commands."""

import argparse
import contextlib
import dataclasses
import json
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from iom._tensorflow_log import silence
from iom.errors import (
    ConfigError,
    FaceError,
    IomError,
    KeyKindWarning,
    KeyMaterialError,
    NotEnrolledError,
    RevokedError,
    StoreError,
)

OK = 0
NO = 1
"""A question that is answered with no: no match, nobody found, problems found."""
USER_ERROR = 2
BUG = 70
"""An error that nobody foresaw; it comes with its traceback."""
EXIT_CODES: dict[type[BaseException], int] = {
    NotEnrolledError: 3,
    RevokedError: 4,
    FaceError: 5,
    StoreError: 6,
    KeyMaterialError: 6,
    IomError: USER_ERROR,
    OSError: USER_ERROR,
    MemoryError: USER_ERROR,
    KeyboardInterrupt: 130,
}
"""Exit code of each kind of error; the first kind that fits counts."""
EXIT_CODE_HELP = {
    OK: "done; match",
    NO: "no match, nobody found, problems found",
    USER_ERROR: "wrong arguments, configuration or input; a file cannot be read or written",
    3: "the subject is not enrolled",
    4: "the subject was revoked",
    5: "an image cannot be used as a face",
    6: "record store or key store: missing, damaged, wrong passphrase or key",
    BUG: "an error of the program, with its traceback",
    130: "interrupted",
}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command answers.

    Attributes:
        facts: The object that `--json` prints.
        text: Lines for people; empty where the command has printed them already.
        code: Exit code.
    """

    facts: Mapping[str, Any]
    text: str = ""
    code: int = OK


class _Parser(argparse.ArgumentParser):
    """Raises what is wrong with the arguments; argparse itself would print the usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def new_parser(program: str, description: str, *, epilog: str = "", answers: bool = False) -> argparse.ArgumentParser:
    """Parser whose help keeps the line breaks of `epilog`.

    Args:
        program: `iom COMMAND`; where a script of another name was started, its name is shown.
        description: First lines of the help.
        epilog: Last lines of the help.
        answers: The command returns an `Answer`: add `--json`.
    """
    parser = _Parser(
        prog=_script() or program,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if answers:
        add_json(parser)
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`, for a command that returns an `Answer`."""
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, errors too")


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
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output where it stopped")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


@contextlib.contextmanager
def goes_on_when_repeated() -> Iterator[None]:
    """Ctrl-C says that the same command, started again, goes on where it was stopped."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; start the same command again to go on") from None


def exit_code(error: BaseException) -> int:
    """Exit code of an error; `BUG` for one that is no user's mistake."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), BUG)


def run(
    command: Callable[[argparse.Namespace], Answer | int],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, run and print the answer; a user's mistake becomes one line or one JSON object.

    Under `--json` standard output holds that object alone: what a command prints meanwhile goes
    to standard error.
    """
    given = sys.argv[1:] if argv is None else list(argv)
    in_json = "--json" in given
    arguments = argparse.Namespace()
    silence()
    try:
        arguments = parser.parse_args(given)
        in_json = getattr(arguments, "json", False) is True
        shown = contextlib.redirect_stdout(sys.stderr) if in_json else contextlib.nullcontext()
        with shown, _warnings_in_one_line():
            answer = command(arguments)
        if isinstance(answer, int):
            return answer
        if in_json:
            print(json.dumps(answer.facts, default=_plain))
        elif answer.text:
            print(answer.text)
        return answer.code
    except (IomError, OSError, MemoryError) as error:
        return _refuse(error, _message(error), in_json=in_json)
    except KeyboardInterrupt as stop:
        return _refuse(stop, _interrupted(str(stop), arguments, parser.prog, given), in_json=in_json)
    except Exception as error:
        traceback.print_exc()
        return _refuse(error, str(error), in_json=True) if in_json else BUG


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Warnings of this package as a line on standard error, without the place in the code."""
    show_others = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, KeyKindWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            show_others(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("default", KeyKindWarning)
        warnings.showwarning = show
        yield


def _refuse(error: BaseException, message: str, *, in_json: bool) -> int:
    code = exit_code(error)
    if in_json:
        told = {"type": type(error).__name__, "message": message, "exit_code": code}
        print(json.dumps({"error": told | vars(error)}, default=_plain))
    else:
        prefix = "" if isinstance(error, KeyboardInterrupt) else "error: "
        print(f"{prefix}{message}", file=sys.stderr)
    return code


def _message(error: BaseException) -> str:
    """What is wrong, in one line."""
    text = str(error)
    if isinstance(error, MemoryError):
        text = f"out of memory: {text}" if text else "out of memory"
    elif isinstance(error, OSError):
        places = [str(place) for place in (error.filename, error.filename2) if place is not None]
        reason = error.strerror or text or type(error).__name__
        text = f"{' -> '.join(places)}: {reason}" if places else reason
    return " ".join(text.split())


def _plain(value: Any) -> Any:
    """What JSON has no type for: paths, NumPy's numbers and arrays."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _script() -> str:
    """Name of the script that was started, such as `evaluate.py`; empty for `iom` itself."""
    started = Path(sys.argv[0])
    is_ours = Path(__file__).parent in started.absolute().parents
    return "" if started.suffix != ".py" or started.stem == "__main__" or is_ours else started.name


def _interrupted(reason: str, arguments: argparse.Namespace, program: str, given: Sequence[str]) -> str:
    """What happened and, for a run that can be continued, the command that does it."""
    reason = reason or "interrupted"
    if not hasattr(arguments, "resume"):
        return reason
    rest = [text for text in given if text != "--resume"]
    start = ["python", program] if program.endswith(".py") else program.split()
    return f"{reason}; continue with: {shlex.join([*start, *rest, '--resume'])}"
