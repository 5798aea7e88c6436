"""All backbones with their parameters and multiply-adds."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from typing import Any

from iom.cli.arguments import Answer, new_parser, run
from iom.errors import ConfigError

TABLE = "backbones.json"
"""In `iom.models`: what `iom list-backbones --measure --json` prints."""
MEASURED_AT = {"input_size": 112, "embedding_size": 512}
EXAMPLES = """examples:
  iom list-backbones
  iom list-backbones --filter mobile --json
  iom list-backbones --filter efficientnet_lite --input-size 224
  iom list-backbones --filter mobile --head GDC

Figures of the default sizes and heads come from a stored table; others, and all with --measure, are
measured by building each network, which takes a second or two each.

MADD: multiplications, each with its addition, of all convolutions and dense layers for one image;
"FLOPs" of others are about twice that. Running statistics count as parameters, the head is counted.
narrow: the width of a convolution is no multiple of 16; with TensorFlow 2.21 on a CPU with AVX-512,
train such a network with TF_ENABLE_ONEDNN_OPTS=0 in the environment, or it may crash.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    parser = new_parser("iom list-backbones", "List the backbones with their cost.", epilog=EXAMPLES, answers=True)
    parser.add_argument("--filter", default="", metavar="TEXT", help="only names that contain this text")
    parser.add_argument(
        "--input-size", type=int, default=MEASURED_AT["input_size"], metavar="PIXELS",
        help="side of the square image (default: 112)",
    )  # fmt: skip
    parser.add_argument(
        "--embedding-size", type=int, default=MEASURED_AT["embedding_size"], metavar="D",
        help="default: 512",
    )  # fmt: skip
    parser.add_argument("--head", default="", help="E, GDC or GAP (default: each network's own)")
    parser.add_argument("--measure", action="store_true", help="build the networks and count, use no table")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return run(_list, parser, argv)


def stored_rows() -> list[dict[str, Any]]:
    """The stored table: a row for each backbone, with its own head, at `MEASURED_AT`."""
    text = resources.files("iom.nn.backbones").joinpath(TABLE).read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = json.loads(text)["backbones"]
    return rows


def _list(arguments: argparse.Namespace) -> Answer:
    settings = {name: getattr(arguments, name) for name in MEASURED_AT}
    for option, value in settings.items():
        if value < 1:
            raise ConfigError(f"--{option.replace('_', '-')}: expected at least 1, received {value}")
    if arguments.measure or arguments.head or settings != MEASURED_AT:
        if arguments.head:
            settings["head"] = arguments.head
        names = _names(arguments.filter, arguments.head)
        rows = list(_measured(names, settings, progress=not arguments.quiet))
    else:
        known = {row["name"]: row for row in stored_rows()}
        rows = [known[name] for name in _chosen(known, arguments.filter)]
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'name':{width}}  parameters (M)  MADD (M)  narrow"]
    for row in rows:
        if "error" in row:
            lines.append(f"{row['name']:{width}}  {row['error']}")
            continue
        lines.append(
            f"{row['name']:{width}}  {row['parameters'] / 1e6:14.2f}  "
            f"{row['multiply_adds'] / 1e6:8.0f}  {'narrow' if row['narrow'] else '-'}"
        )
    return Answer({"backbones": rows}, "\n".join(lines))


def _names(part: str, head: str) -> list[str]:
    from iom._registry import lookup
    from iom.nn.backbones.blocks import HEADS
    from iom.nn.backbones.registry import BACKBONES

    if head:
        lookup(HEADS, head, "head")
    return _chosen(BACKBONES, part)


def _chosen(known: Iterable[str], part: str) -> list[str]:
    names = [name for name in known if part in name]
    if not names:
        raise ConfigError(f"--filter: no backbone's name contains '{part}' (names: {', '.join(sorted(known))})")
    return names


def _measured(names: Sequence[str], settings: dict[str, Any], *, progress: bool) -> Iterator[dict[str, Any]]:
    """A row for each backbone; one that cannot be built at this size says why."""
    import dataclasses

    import keras
    from tqdm import tqdm

    from iom.nn.backbones.complexity import measure
    from iom.nn.backbones.registry import build_backbone

    for name in tqdm(names, desc="building", unit="backbone", disable=not progress):
        try:
            # No weight is drawn: the largest networks would take gigabytes.
            with keras.StatelessScope(initialize_variables=False):
                complexity = measure(build_backbone(name, **settings))
        except ConfigError as error:
            yield {"name": name, "error": " ".join(str(error).split())}
            continue
        yield {"name": name, **settings, **dataclasses.asdict(complexity)}
        keras.backend.clear_session()


if __name__ == "__main__":
    sys.exit(main())
