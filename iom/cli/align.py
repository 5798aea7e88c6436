"""From photographs to aligned faces: `iom align PHOTOS OUTPUT`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import Answer, goes_on_when_repeated, new_parser, run

EPILOG = """\
examples:
  iom align photos faces --workers 4
  iom align photos faces --detector yunet --weights yunet.onnx --which all
  iom align photos faces --points landmarks.csv      # no detector needed

Start the same command again to go on where it stopped. Beside the faces lie report.json, report.csv
(what was not found, or needs a look) and landmarks.csv (all faces found, for --points).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom align`."""
    parser = new_parser(
        "iom align",
        "Find the faces of a folder of photographs and align them to 112x112, keeping the folders.",
        epilog=EPILOG,
        answers=True,
    )
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of photographs")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="a new folder, or one to go on with")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--detector", default="mtcnn", help="mtcnn, yunet or yunet_onnx")
    source.add_argument("--points", type=Path, metavar="FILE", help="landmarks that are known already (CSV)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="the detector's ONNX (yunet, yunet_onnx)")
    parser.add_argument("--which", default="largest", help="of several faces: largest, all or centre")
    parser.add_argument("--min-score", type=float, metavar="X", help="lowest score (default: the detector's own)")
    parser.add_argument(
        "--min-size", type=float, default=32.0, metavar="PIXELS",
        help="smallest side, in the photograph, of what becomes the face (default: 32)",
    )  # fmt: skip
    parser.add_argument("--format", default="jpg", help="jpg (quality 95, the default) or png")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return run(_align, parser, argv)


def _align(arguments: argparse.Namespace) -> Answer:
    from iom._files import check_output, sha256_of
    from iom.errors import ConfigError
    from iom.photos.align import read_landmarks
    from iom.photos.pipeline import PhotoSettings, align_photos

    if arguments.workers < 1:
        raise ConfigError(f"expected --workers 1 or more, received {arguments.workers}")
    check_output(arguments.output)
    points = read_landmarks(arguments.points) if arguments.points else None
    given = arguments.points or arguments.weights
    with goes_on_when_repeated():
        report = align_photos(
            arguments.photos,
            arguments.output,
            settings=PhotoSettings(
                detector="points" if arguments.points else arguments.detector,
                faces=arguments.which,
                min_score=arguments.min_score,
                min_size=arguments.min_size,
                source=sha256_of(given) if given and given.is_file() else "",
            ),
            format=arguments.format,
            weights=arguments.weights,
            points=points,
            workers=arguments.workers,
            progress=not arguments.quiet,
        )
    kinds = ("aligned", "no_face", "too_small", "damaged", "too_large", "bad_landmarks")
    counts = ", ".join(f"{report[kind]} {kind.replace('_', ' ')}" for kind in kinds if report[kind])
    return Answer(
        {"output": arguments.output, **report},
        f"{report['photographs']} photographs: {counts}; {report['several_faces']} with several "
        f"faces; {report['faces_written']} faces in {arguments.output} (see report.csv there)",
    )


if __name__ == "__main__":
    raise SystemExit(main())
