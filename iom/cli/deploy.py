"""Export a hasher with its backbone to other runtimes, each artefact tried in its own."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import Answer, new_parser, run
from iom.export.formats import FORMATS
from iom.pretrained import BUNDLED, hasher_path

EPILOG = """\
An artefact goes from raw RGB pixels and the order of a key to the integer code. The key is never in
it. Beside it come a manifest (.json) and the hash alone (.head.npz); the three belong together.
After each export the artefact is run by its own runtime on faces and compared with the hasher; one
that loses more than its format may is an error, and nothing of it stays.

examples:
  iom deploy --to onnx openvino --output exported
  iom deploy --hasher DIR --to litert_int8 --faces FOLDER --pairs FILE --calibration FOLDER
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom deploy`."""
    parser = new_parser(
        "iom deploy", "Export a hasher and its backbone to other runtimes.", epilog=EPILOG, answers=True
    )
    parser.add_argument(
        "--hasher", default=BUNDLED, metavar="NAME_OR_PATH", help="trained hasher (default: %(default)s)"
    )
    parser.add_argument(
        "--weights", default="", metavar="NAME_OR_FILE",
        help="embedder (default: the one the hasher names)",
    )  # fmt: skip
    parser.add_argument(
        "--to", nargs="+", default=["onnx"], choices=list(FORMATS), metavar="FORMAT",
        help=f"any of {', '.join(FORMATS)} (default: onnx)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("exported"), metavar="DIR")
    parser.add_argument("--name", default="", help="of the artefacts (default: the hasher's)")
    parser.add_argument("--faces", type=Path, metavar="DIR", help="aligned faces of --pairs, for the check")
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE",
        help="list of pairs; without one synthetic faces are used and no EER is measured",
    )  # fmt: skip
    parser.add_argument(
        "--check-pairs", type=int, default=600, metavar="N",
        help="pairs of the list to try; 0 takes all (default: 600)",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", type=Path, metavar="DIR",
        help="aligned faces to choose the ranges of integers on, other ones than --faces",
    )  # fmt: skip
    parser.add_argument("--calibration-faces", type=int, default=64, metavar="N", help="(default: 64)")
    return run(_export, parser, argv)


def _export(arguments: argparse.Namespace) -> Answer:
    from iom._files import check_output
    from iom.errors import ConfigError

    check_output(arguments.output)

    from iom.export.check import calibration_faces, faces_of_pairs, synthetic_faces
    from iom.export.context import load_source
    from iom.export.exporter import Exporter, check_targets

    if (arguments.faces is None) != (arguments.pairs is None):
        raise ConfigError("--faces and --pairs go together: a list of pairs and its folder")
    check_targets(arguments.to)
    source = load_source(arguments.hasher, weights=arguments.weights)
    size = source.input_size
    faces = (
        faces_of_pairs(arguments.pairs, arguments.faces, size=size, max_pairs=arguments.check_pairs)
        if arguments.pairs
        else synthetic_faces(size)
    )
    calibration = calibration_faces(arguments.calibration, arguments.calibration_faces, size=size)
    exporter = Exporter(source, calibration=calibration, faces=faces)
    name = arguments.name or hasher_path(arguments.hasher).name
    rows = []
    for target in arguments.to:
        for manifest in exporter.export([target], arguments.output, name=name).values():
            check = manifest.check
            assert check is not None  # noqa: S101  (an export without one does not return)
            rate = "" if check.eer is None else f", EER {check.eer:.2%} ({check.source_eer:.2%})"
            print(f"{target}: {check.equal_symbols:.2%} equal symbols{rate} -> {arguments.output}")
            rows.append({"format": target, "name": name, **dataclasses.asdict(check)})
    return Answer({"output": arguments.output, "artefacts": rows})
