"""The gallery's commands: `iom init`, `iom enroll`, `iom verify`, ..."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from iom.cli.arguments import Answer, new_parser, run
from iom.pretrained import BUNDLED

PLACES = """\
the record store and the key store are two places, best on two machines; both are given by options
or by the environment variables IOM_GALLERY and IOM_KEYS. The passphrase of a key file comes from
--passphrase-file, from IOM_PASSPHRASE, or is asked for. docs/gallery.md tells more.

record stores  sqlite:///path.db  postgresql://...
key stores     file:PATH  file:PATH?key-file=PATH  environment:NAME?file=PATH
               command:PROGRAM ARGUMENTS?file=PATH

examples:
"""


def main(argv: Sequence[str]) -> int:
    """Entry point of the gallery's commands; the first argument is one of `COMMANDS`."""
    name, *given = argv
    command = COMMANDS[name]
    examples = "".join(f"  iom {name}{f' {line}' if line else ''}\n" for line in command.examples)
    parser = new_parser(
        f"iom {name}", f"{command.summary[0].upper()}{command.summary[1:]}.", epilog=PLACES + examples, answers=True
    )
    _add_places(parser)
    command.add(parser)
    return run(lambda arguments: _answer(name, arguments), parser, given)


def _answer(name: str, arguments: argparse.Namespace) -> Answer:
    from iom.cli.gallery_commands import RUN

    return RUN[name](arguments)


def _add_places(parser: argparse.ArgumentParser) -> None:
    environment = os.environ
    parser.add_argument(
        "--gallery",
        metavar="URL",
        default=environment.get("IOM_GALLERY", "sqlite:///gallery.db"),
        help="record store (default: IOM_GALLERY, or sqlite:///gallery.db)",
    )
    parser.add_argument(
        "--keys",
        metavar="URL",
        default=environment.get("IOM_KEYS", "file:gallery.keys"),
        help="key store (default: IOM_KEYS, or file:gallery.keys)",
    )
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its first line opens the key store")
    parser.add_argument("--application", default="default", metavar="NAME", help="tenant (default: default)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_hasher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hasher",
        metavar="NAME_OR_PATH",
        default=os.environ.get("IOM_HASHER", BUNDLED),
        help=f"folder of a trained hasher, artefact of iom deploy, or a name (default: IOM_HASHER, or {BUNDLED})",
    )
    parser.add_argument("--weights", metavar="NAME_OR_FILE", help="embedder (default: the one the hasher names)")


def _add_fuse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fuse",
        choices=("none", "centroid", "majority"),
        default="none",
        help="several images of a subject: a reference each, or one of their mean vector or of the "
        "majority of their symbols (default: none)",
    )


def _init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key-mode",
        choices=("subject", "application"),
        default="subject",
        help="a key for each record, or one for all: faster to search, worth more to a thief (default: subject)",
    )
    parser.add_argument("--masked", action="store_true", help="store codes under one-time masks")
    parser.add_argument("--threshold", type=int, metavar="N", help="differing positions (default: as calibrated)")
    _add_hasher(parser)


def _enroll(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", nargs="?", metavar="SUBJECT", help="subject id")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="aligned faces")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="enrol all of DIR/SUBJECT/*; a second run goes on")
    parser.add_argument("--another", action="store_true", help="add to a subject that is enrolled already")
    parser.add_argument(
        "--allow-revoked",
        action="store_true",
        help="bring a subject back that was revoked (default: refuse; with --folder: leave out)",
    )
    _add_fuse(parser)
    _add_hasher(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", metavar="SUBJECT", help="subject id")
    parser.add_argument("image", type=Path, metavar="IMAGE", help="aligned face")
    _add_hasher(parser)


def _identify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="aligned face")
    parser.add_argument("--top", type=int, default=0, metavar="N", help="most subjects")
    parser.add_argument("--threshold", type=int, metavar="N", help="differing positions")
    parser.add_argument("--closed", action="store_true", help="the nearest, whether they match or not")
    _add_hasher(parser)


def _revoke(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", metavar="SUBJECT", help="subject id")
    parser.add_argument("--slot", type=int, metavar="N", help="only this reference")


def _renew(parser: argparse.ArgumentParser) -> None:
    _revoke(parser)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="aligned faces")
    _add_fuse(parser)
    _add_hasher(parser)


def _rotate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--retire", action="store_true", help="revoke all that is under older keys, at once")


def _set_threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("threshold", type=int, metavar="N", help="differing positions")


def _file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the exchange file")


def _stats(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(application=None)  # all


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accept",
        action="store_true",
        help="an older copy of the record store was put back on purpose: tell of it no longer",
    )


def _migrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--new-keys",
        type=Path,
        metavar="FILE",
        help="file of the new key store (default: the old one's name with .v2 behind it)",
    )


def _nothing(parser: argparse.ArgumentParser) -> None:
    """Options of every command are enough."""


class Command(NamedTuple):
    """A command: what it is for, its own options, and examples of what follows its name."""

    summary: str
    add: Callable[[argparse.ArgumentParser], None]
    examples: Sequence[str]


COMMANDS: dict[str, Command] = {
    "init": Command(
        "make a gallery, or another application in it",
        _init,
        ("--gallery sqlite:///door.db --keys file:door.keys", "--application gate --key-mode application --masked"),
    ),
    "enroll": Command(
        "enrol a subject, or a folder of subjects",
        _enroll,
        (
            "alice alice_1.jpg alice_2.jpg",
            "alice alice_3.jpg --another",
            "--folder PEOPLE          # PEOPLE/SUBJECT/*.jpg",
        ),
    ),
    "verify": Command(
        "compare an image with a subject (exit code 1: no match)",
        _verify,
        ("alice probe.jpg", "alice probe.jpg --json"),
    ),
    "identify": Command(
        "find out who is in an image (exit code 1: nobody)", _identify, ("probe.jpg", "probe.jpg --top 3 --closed")
    ),
    "revoke": Command("refuse a subject's template for ever", _revoke, ("alice", "alice --slot 1")),
    "renew": Command(
        "give a subject a new template under a new key", _renew, ("alice alice_4.jpg", "alice alice_4.jpg --slot 1")
    ),
    "rotate": Command(
        "give an application with a common key a new one",
        _rotate,
        ("--application gate", "--application gate --retire"),
    ),
    "set-threshold": Command(
        "change the largest distance that is a match", _set_threshold, ("380", "380 --application gate")
    ),
    "export": Command("write an application to a file, without keys", _file, ("door.iomx --application gate",)),
    "import": Command("read a file that iom export wrote", _file, ("door.iomx",)),
    "stats": Command(
        "count subjects and references, of all applications or of one", _stats, ("", "--application gate --json")
    ),
    "check": Command(
        "find damage and changes from outside in both stores (exit code 1: there are some)",
        _check,
        ("", "--json", "--accept          # after an older copy was put back on purpose"),
    ),
    "erase": Command("overwrite what revoked templates left behind", _nothing, ("",)),
    "migrate": Command(
        "convert a gallery that an older version made", _migrate, ("--gallery sqlite:///door.db --keys file:door.keys",)
    ),
}
