"""Show the whole pipeline on three faces: `iom demo`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iom.cli.arguments import Answer, new_parser, run
from iom.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from iom.evaluation.demo import Demonstration

DEFAULT_WEIGHTS = "iresnet_slim.bundled"
DEFAULT_SEED = 2
EPILOG = """\
Without --images the faces are of nobody: drawn from a statistical face model (docs/face_model.md).
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
        help="aligned faces: A and B of one person, C of another (default: faces of nobody)",
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
    # Images first: a wrong file is told at once, not after seconds of loading.
    images = _images(arguments.images, arguments.seed)

    from iom.evaluation.demo import demonstrate, find_hasher
    from iom.keys import TransformKey
    from iom.models.face_hasher import load

    weights, count = arguments.weights, len(images)
    if arguments.hasher is None:
        hasher = find_hasher(weights or DEFAULT_WEIGHTS, batch_size=count)
    else:
        hasher = load(arguments.hasher, weights=weights or "", batch_size=count)
    demonstration = demonstrate(
        hasher.embed(images), hasher, before=TransformKey.generate(), after=TransformKey.generate()
    )
    if arguments.verbose:
        print(hasher.summary())
    path = _draw(demonstration, images, arguments.output)
    scenes = [
        {"title": scene.title, "dist_positive": scene.dist_positive, "dist_negative": scene.dist_negative}
        for scene in demonstration.scenes
    ]
    return Answer(
        {
            "picture": path,
            "code_length": demonstration.code_length,
            "threshold": demonstration.threshold,
            "scenes": scenes,
        },
        f"{_text(demonstration)}\n\npicture: {path}",
    )


def _draw(demonstration: "Demonstration", images: "NDArray[np.uint8]", output: Path) -> Path:
    from iom.evaluation.demo_picture import draw_demo

    path = output if output.suffix.lower() == ".png" else output / "demo.png"
    try:
        draw_demo(demonstration, images, path)
    except OSError as error:
        raise DataError(f"cannot write the picture {path}: {error.strerror or error}") from error
    return path


def _images(paths: Sequence[Path] | None, seed: int) -> "NDArray[np.uint8]":
    """Faces A, B and C, `(3, 112, 112, 3)`."""
    if paths is not None:
        from iom.photos.images import read_images

        return read_images(paths)

    from iom.synthetic import load_face_model

    images, _ = load_face_model().sample(2, 2, seed=seed)
    return images[:3]


def _text(demonstration: "Demonstration") -> str:
    length, threshold = demonstration.code_length, demonstration.threshold
    lines = [
        f"codes of {length} symbols over {demonstration.alphabet_size} values; match when at "
        f"most {threshold} differing positions (calibrated at FMR {demonstration.fmr:g})",
        f"cosine distance of the embeddings: positive {demonstration.cosine_positive:.3f}, "
        f"negative {demonstration.cosine_negative:.3f}",
    ]
    for scene in demonstration.scenes:
        lines += ["", scene.title]
        for name, distance, meaning in (
            ("dist_positive", scene.dist_positive, "A and B, one person"),
            ("dist_negative", scene.dist_negative, "A and C, two persons"),
        ):
            decision = "match" if distance <= threshold else "no match"
            lines.append(f"  {name} = {distance:4d} of {length}   {decision:8}   ({meaning})")
    return "\n".join(lines)
