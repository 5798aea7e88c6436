"""Write a folder of synthetic subjects: `iom synthesize --output DIR`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import Answer, new_parser, run

EPILOG = """\
examples:
  iom synthesize --output runs/faces
  iom synthesize --output runs/faces --subjects 200 --images 8 --seed 7

The faces are of nobody (docs/face_model.md). Train nothing on them that is evaluated on LFW.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom synthesize`."""
    parser = new_parser(
        "iom synthesize",
        "Write aligned 112x112 faces of subjects who do not exist, as "
        "<output>/<subject>/<image>.png: a small data set for smoke runs and tests.",
        epilog=EPILOG,
        answers=True,
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--subjects", type=int, default=40, help="default: 40")
    parser.add_argument("--images", type=int, default=6, help="images of each (default: 6)")
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return run(_write, parser, argv)


def _write(arguments: argparse.Namespace) -> Answer:
    from iom._files import check_output
    from iom.synthetic import write_folder

    check_output(arguments.output)
    write_folder(
        arguments.output, arguments.subjects, arguments.images, seed=arguments.seed, progress=not arguments.quiet
    )
    count = arguments.subjects * arguments.images
    return Answer(
        {"output": arguments.output, "subjects": arguments.subjects, "images": count},
        f"wrote {count} faces of {arguments.subjects} synthetic subjects to {arguments.output}",
    )


if __name__ == "__main__":
    raise SystemExit(main())
