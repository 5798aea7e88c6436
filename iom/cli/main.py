"""The command `iom`: every command of this package behind one name."""

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import iom
from iom._registry import did_you_mean
from iom.cli.arguments import EXIT_CODE_HELP, new_parser, run
from iom.cli.gallery import COMMANDS as GALLERY_COMMANDS
from iom.errors import ConfigError

_NOT_COMMANDS = {"__init__", "arguments", "main", "serving"}
_PARTS = "gallery"  # files that start with this are the gallery's commands and their parts


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"iom {iom.__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name in GALLERY_COMMANDS:
        from iom.cli.gallery import main as gallery_main

        return gallery_main(arguments)
    if name not in modules():
        parser = new_parser("iom", "", answers=True)
        return run(lambda _: _refuse(name), parser, [text for text in rest if text == "--json"])
    return int(importlib.import_module(f"iom.cli.{name.replace('-', '_')}").main(rest))


def _refuse(name: str) -> NoReturn:
    hint = did_you_mean(name, [*GALLERY_COMMANDS, *modules()])
    raise ConfigError(f"no command {name[:64]!a}{hint}; see iom --help")


def modules() -> dict[str, Path]:
    """Command to file, for the commands that have a file of their own."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return {
        path.stem.replace("_", "-"): path
        for path in files
        if path.stem not in _NOT_COMMANDS and not path.stem.startswith(_PARTS)
    }


def _help() -> str:
    own = {name: _summary(path) for name, path in modules().items()}
    width = max(map(len, [*GALLERY_COMMANDS, *own]))
    lines = ["usage: iom COMMAND ...", "", "Cancellable face templates.", "", "the gallery:"]
    lines += [
        f"  {name:{width}}  {each.summary[0].upper()}{each.summary[1:]}" for name, each in GALLERY_COMMANDS.items()
    ]
    lines += ["", "training, evaluation and the rest:"]
    lines += [f"  {name:{width}}  {text}" for name, text in own.items()]
    lines += ["", "exit codes:"]
    lines += [f"{code:>5}  {text}" for code, text in EXIT_CODE_HELP.items()]
    lines += ["", "iom COMMAND --help tells more; with --json a command that answers something"]
    return "\n".join([*lines, "prints one JSON object, of an error too. iom --version."])


def _summary(path: Path) -> str:
    """First sentence of a file's docstring; the file is read, not imported."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n")[0].split(": `")[0].rstrip(".")


if __name__ == "__main__":
    raise SystemExit(main())
