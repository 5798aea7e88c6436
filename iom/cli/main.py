"""The command `iom`."""

from collections.abc import Sequence

import click

import iom
from iom.cli import cards, data, deal, deploy, evaluate, gallery, split, train  # noqa: F401  (they declare the commands)
from iom.cli._command import EXIT_CODES, root, run

TITLES = ("Gallery", "Cards", "Service", "Train", "Data", "Evaluate")
root.sections = {
    "Try it": [root.commands[name] for name in ("demo", "verify", "faces")],
    **{title: root.sections[title] for title in TITLES},
}
root.renamed = {"search": "sweep"}
root.epilog = "\n".join(
    [
        "exit codes:",
        *(f"{code:>5}  {EXIT_CODES[code][1]}" for code in sorted(EXIT_CODES)),
        "",
        "iom COMMAND --help tells more; with --json a command that answers something",
        "prints one JSON object, of an error too. iom --version.",
        "",
    ]
)
click.version_option(iom.__version__, message="iom %(version)s")(root)


def main(argv: Sequence[str] | None = None, *, script: str = "", command: str = "") -> int:
    """Run `iom`, and return its exit code; `script`, such as "evaluate.py", was started in place of `command`."""
    if command:
        return run(root.commands[command], argv, program=script)
    return run(root, argv)
