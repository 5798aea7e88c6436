"""Show the whole pipeline on three faces: `iom demo`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import Answer, new_parser, run

DEFAULT_WEIGHTS = "iresnet_slim.bundled"
DEFAULT_SEED = 2
EPILOG = """\
Without --images the faces are synthetic: drawn from a statistical face model (docs/face_model.md).
Own images must be aligned 112x112 faces (JPEG or PNG): A and B of one person, C of another.
The keys are fresh in each run and are never shown, so the distances change a little every time.

examples:
  iom demo
  iom demo --images anna_1.png anna_2.png ben_1.png --output runs/mine
  iom demo --weights mobilefacenet_y1.ms1m --hasher runs/stage2
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom demo`."""
    parser = new_parser(
        "iom demo",
        "Hash two images of one person and one of another, compare the codes, change the key, and "
        "compare again. Prints the distances and decisions and writes a picture.",
        epilog=EPILOG,
        answers=True,
    )
    parser.add_argument(
        "--images",
        type=Path,
        nargs=3,
        metavar=("A", "B", "C"),
        help="aligned faces: A and B of one person, C of another (default: synthetic faces)",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME_OR_PATH",
        help=f"embedder: a name of `iom weights list` or a file (default: the hasher's own, or {DEFAULT_WEIGHTS})",
    )
    parser.add_argument(
        "--hasher",
        type=Path,
        metavar="NAME_OR_PATH",
        help="folder of a trained hasher, artefact of iom deploy, or a name (default: the one "
        "known by name that belongs to the embedder)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/demo"),
        metavar="PATH",
        help="folder, or .png file, for the picture (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, help="of the faces, never of the keys (default: %(default)s)"
    )
    parser.add_argument("--verbose", action="store_true", help="print what the hasher consists of")
    return run(_demo, parser, argv)


def _demo(arguments: argparse.Namespace) -> Answer:
    from iom._files import check_output

    is_file = arguments.output.suffix.lower() == ".png"
    check_output(arguments.output, folder=not is_file)

    from iom.evaluation.demo import demo_faces, demonstrate, draw_demo, find_hasher
    from iom.models.face_hasher import load

    # Images first: a wrong file is told at once, not after seconds of loading weights.
    images = demo_faces(arguments.images, seed=arguments.seed)
    weights, count = arguments.weights, len(images)
    if arguments.hasher is None:
        hasher = find_hasher(weights or DEFAULT_WEIGHTS, batch_size=count)
    else:
        hasher = load(arguments.hasher, weights=weights or "", batch_size=count)
    shown = demonstrate(images, hasher)
    if arguments.verbose:
        print(hasher.summary())
    path = arguments.output if is_file else arguments.output / "demo.png"
    draw_demo(shown, images, path)
    return Answer({"picture": path, **shown.to_dict()}, f"{shown.text()}\n\npicture: {path}")
