"""The gallery's commands: `iom init`, `iom enroll`, `iom verify`, ..."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from iom.cli.arguments import new_parser, run
from iom.pretrained import BUNDLED

COMMANDS = {
    "init": "make a gallery, or another application in it",
    "enroll": "enrol a subject, or a folder of subjects",
    "verify": "compare an image with a subject (exit code 1: no match)",
    "identify": "find out who is in an image (exit code 1: nobody)",
    "revoke": "refuse a subject's template for ever",
    "renew": "give a subject a new template under a new key",
    "rotate": "give an application with a common key a new one",
    "export": "write an application to a file, without keys",
    "import": "read such a file",
    "stats": "count subjects and references",
    "check": "find damage in both stores (exit code 1: there is some)",
    "erase": "overwrite what revoked templates left behind",
}
EPILOG = """\
the record store and the key store are two places, best on two machines; both are given by options
or by the environment variables IOM_GALLERY and IOM_KEYS. The passphrase of a key file comes from
--passphrase-file, from IOM_PASSPHRASE, or is asked for

record stores  sqlite:///path.db  postgresql://...  milvus://...
key stores     file:PATH  file:PATH?key-file=PATH  environment:NAME?file=PATH
               command:PROGRAM ARGUMENTS?file=PATH

examples:
  iom init --gallery sqlite:///door.db --keys file:door.keys
  iom enroll alice alice_1.jpg alice_2.jpg --gallery sqlite:///door.db --keys file:door.keys
  iom verify alice probe.jpg --gallery sqlite:///door.db --keys file:door.keys
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the gallery's commands; the first argument is the command."""
    parser = new_parser("iom", "Enrol, verify, identify, revoke, renew.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _ARGUMENTS.get(name, lambda _: None)(command)
        _add_places(command)
    return run(_command, parser, argv)


def _command(arguments: argparse.Namespace) -> int:
    from iom.cli.gallery_commands import RUN

    return RUN[arguments.command](arguments)


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
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="its first line opens the key store"
    )
    parser.add_argument(
        "--application", default="default", metavar="NAME", help="tenant (default: default)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_hasher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hasher",
        metavar="NAME_OR_PATH",
        default=os.environ.get("IOM_HASHER", BUNDLED),
        help=f"folder of a trained hasher, or its name (default: IOM_HASHER, or {BUNDLED})",
    )
    parser.add_argument(
        "--weights", metavar="NAME_OR_FILE", help="embedder (default: the one the hasher names)"
    )


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
        help="a key for each record, or one for all: faster to search, worth more to a thief "
        "(default: subject)",
    )
    parser.add_argument("--masked", action="store_true", help="store codes under one-time masks")
    parser.add_argument(
        "--threshold", type=int, metavar="N", help="differing positions (default: as calibrated)"
    )
    _add_hasher(parser)


def _enroll(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", nargs="?", metavar="SUBJECT", help="subject id")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="aligned faces")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="enrol all of DIR/SUBJECT/*; a second run goes on",
    )
    parser.add_argument(
        "--another", action="store_true", help="add to a subject that is enrolled already"
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
    parser.add_argument(
        "--closed", action="store_true", help="the nearest, whether they match or not"
    )
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
    parser.add_argument(
        "--retire", action="store_true", help="revoke all that is under older keys, at once"
    )


def _file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the exchange file")


_ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "init": _init,
    "enroll": _enroll,
    "verify": _verify,
    "identify": _identify,
    "revoke": _revoke,
    "renew": _renew,
    "rotate": _rotate,
    "export": _file,
    "import": _file,
}


if __name__ == "__main__":
    raise SystemExit(main())
