"""Parsers and errors of the benchmarks: what is wrong with their arguments or data is one line, as for `iom`."""

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn

from iom.cli._command import guarded
from iom.errors import ConfigError


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
    """Parse, run, and return the exit code."""
    return guarded(lambda: benchmark(parser.parse_args(argv)))
