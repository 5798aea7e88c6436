"""Make a transform key and write its text to a file that only its owner can read."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import Answer, new_parser, run

EPILOG = """\
the text in the file is the secret. Keep it apart from codes: who has both has much of the face, who
loses it has codes that nothing can be compared with.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom make-key`."""
    parser = new_parser("iom make-key", "Make a transform key.", epilog=EPILOG, answers=True)
    parser.add_argument("file", type=Path, metavar="FILE", help="a new file")
    return run(_make, parser, argv)


def _make(arguments: argparse.Namespace) -> Answer:
    from iom._files import write_secret
    from iom.errors import DataError
    from iom.keys import TransformKey

    try:
        if not arguments.file.parent.is_dir():
            raise DataError(f"{arguments.file}: cannot be written: no folder {arguments.file.parent}")
        write_secret(arguments.file, TransformKey.generate().to_text() + "\n")
    except FileExistsError as error:
        raise DataError(f"{arguments.file} is there already; a key is never overwritten") from error
    except OSError as error:
        raise DataError(f"{arguments.file}: cannot be written: {error.strerror}") from error
    return Answer(
        {"file": arguments.file}, f"a new key in {arguments.file}; it is the secret: keep it apart from codes"
    )


if __name__ == "__main__":
    raise SystemExit(main())
