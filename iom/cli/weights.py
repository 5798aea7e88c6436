"""Known weights: which are here, and whether a file is what it is said to be."""

import argparse
import sys
from collections.abc import Sequence

from iom.cli.arguments import new_parser, run

EXAMPLES = """examples:
  iom weights list
  iom weights check mobilefacenet_y1.ms1m
  iom weights check path/to/model.onnx
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    parser = new_parser("weights", "List and check the weights of backbones.", epilog=EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the entries of the manifest, and which are here")
    check = commands.add_parser("check", help="load weights and try them on faces of nobody")
    check.add_argument("weights", metavar="NAME_OR_FILE", help="architecture.tag, or a model file")
    check.add_argument(
        "--no-faces", action="store_true", help="do not try the stated input on faces"
    )
    return run(_dispatch, parser, argv)


def _dispatch(arguments: argparse.Namespace) -> int:
    return _list() if arguments.command == "list" else _check(arguments)


def _list() -> int:
    from iom.errors import WeightsError
    from iom.models.weights.entries import locate, read_manifest

    entries = read_manifest()
    width = max(len(name) for name in entries)
    for name, entry in sorted(entries.items()):
        try:
            place = str(locate(entry, verify=False)[0])
        except WeightsError:
            place = f"missing; get it from {entry.source}"
        print(f"{name:{width}}  {entry.statement.embedding_size:4d}-d  {place}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from iom.models.weights.face_check import check_on_faces
    from iom.models.weights.manifest import load_backbone_model

    loaded = load_backbone_model(arguments.weights, check=False)
    print(f"name            {loaded.name}")
    print(f"sha256          {loaded.fingerprint}")
    print(
        f"input           {loaded.input.colour_order} {loaded.input.range}, {loaded.input_size} px"
    )
    print(f"embedding size  {loaded.embedding_size}")
    if arguments.no_faces:
        return 0
    outcome = check_on_faces(loaded.predict, loaded.input, source=loaded.name)
    print("separation of synthetic subjects (d', higher is better), and the evidence for the input")
    for way, separation in outcome.separation.items():
        evidence = outcome.evidence.get(way)
        note = "as stated" if evidence is None else f"t = {evidence:+.1f}"
        print(f"  {way:18s} {separation:6.2f}  {note}")
    print("confirmed" if outcome.is_confirmed else "not refuted, but this network cannot tell all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
