"""Parsers and errors of the benchmarks: what is wrong with their arguments or data is one line, as for `iom`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from iom._files import check_data_folder, data_folder
from iom.cli._command import guarded
from iom.errors import ConfigError, WeightsError
from iom.pretrained import search_folders


class _Parser(argparse.ArgumentParser):
    """Raises what is wrong with the arguments; argparse itself would print the usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def new_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Parser of `program`, such as `python -m benchmarks.attacks`, with the line breaks of `description`."""
    formatter = argparse.RawDescriptionHelpFormatter
    return _Parser(prog=program, description=description, formatter_class=formatter)


def run(
    benchmark: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> int:
    """Parse, run, and return the exit code; `--data` must be a folder, but for `--synthetic`."""
    return guarded(lambda: benchmark(_checked(parser.parse_args(argv))))


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Let `--data` name the folder of prepared data."""
    text = "folder of prepared data, of docs/reproduce.md; by default the one that IOM_DATA names"
    parser.add_argument("--data", type=Path, default=data_folder(), help=text)


def weights_file(pattern: str) -> Path:
    """The first file of `pattern`, such as `yunet/*.onnx`, in the folders that hold weights.

    Raises:
        WeightsError: There is none.
    """
    folders = search_folders()
    found = next((path for folder in folders for path in sorted(folder.glob(pattern))), None)
    if found is None:
        raise WeightsError(f"no weights {pattern} in {', '.join(map(str, folders))}; IOM_WEIGHTS names another folder")
    return found


def _checked(arguments: argparse.Namespace) -> argparse.Namespace:
    if "data" in arguments and not getattr(arguments, "synthetic", False):
        check_data_folder(arguments.data)
    return arguments
