"""Known weights: which are here, and whether a file is what it is said to be."""

import argparse
import sys
from collections.abc import Sequence

from iom.cli.arguments import Answer, add_json, new_parser, run

EXAMPLES = """examples:
  iom weights list
  iom weights check mobilefacenet_y1.ms1m
  iom weights check path/to/model.onnx
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    parser = new_parser("iom weights", "List and check the weights of backbones.", epilog=EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True)
    add_json(commands.add_parser("list", help="the entries of the manifest, and which are here"))
    check = commands.add_parser("check", help="load weights and try them on faces of nobody")
    check.add_argument("weights", metavar="NAME_OR_FILE", help="architecture.tag, or a model file")
    check.add_argument("--no-faces", action="store_true", help="do not try the stated input on faces")
    add_json(check)
    return run(_dispatch, parser, argv)


def _dispatch(arguments: argparse.Namespace) -> Answer:
    return _list() if arguments.command == "list" else _check(arguments)


def _list() -> Answer:
    from iom.errors import WeightsError
    from iom.pretrained.manifest import locate, read_manifest

    entries = read_manifest()
    width = max(len(name) for name in entries)
    lines, rows = [], []
    for name, entry in sorted(entries.items()):
        size, path = entry.statement.embedding_size, None
        try:
            path = locate(entry, verify=False)[0]
            place = str(path)
        except WeightsError:
            place = f"missing; get it from {entry.source}"
        lines.append(f"{name:{width}}  {size:4d}-d  {place}")
        rows.append({"name": name, "embedding_size": size, "path": path, "source": entry.source})
    return Answer({"weights": rows}, "\n".join(lines))


def _check(arguments: argparse.Namespace) -> Answer:
    from iom.pretrained.face_check import check_on_faces
    from iom.pretrained.weights import load_backbone_model

    loaded = load_backbone_model(arguments.weights, check=False)
    stated = f"{loaded.input.colour_order} {loaded.input.range}"
    lines = [
        f"name            {loaded.name}",
        f"sha256          {loaded.fingerprint}",
        f"input           {stated}, {loaded.input_size} px",
        f"embedding size  {loaded.embedding_size}",
    ]
    facts = {
        "name": loaded.name,
        "sha256": loaded.fingerprint,
        "input": stated,
        "input_size": loaded.input_size,
        "embedding_size": loaded.embedding_size,
    }
    if arguments.no_faces:
        return Answer(facts, "\n".join(lines))
    outcome = check_on_faces(loaded.predict, loaded.input, source=loaded.name)
    lines.append("separation of synthetic subjects (d', higher is better), and the evidence for the input")
    for way, separation in outcome.separation.items():
        evidence = outcome.evidence.get(way)
        note = "as stated" if evidence is None else f"t = {evidence:+.1f}"
        lines.append(f"  {way:18s} {separation:6.2f}  {note}")
    lines.append("confirmed" if outcome.is_confirmed else "not refuted, but this network cannot tell all")
    facts |= {"separation": outcome.separation, "is_confirmed": outcome.is_confirmed}
    return Answer(facts, "\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
