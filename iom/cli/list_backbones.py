"""All backbones with their parameters and multiply-adds."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from iom.cli.arguments import new_parser, run
from iom.errors import ConfigError

EXAMPLES = """examples:
  iom list-backbones
  iom list-backbones --filter efficientnet_lite --input-size 224
  iom list-backbones --filter mobile --head GDC --json

MADD: multiplications, each with its addition, of all convolutions and dense layers for one image;
"FLOPs" of others are about twice that. Running statistics count as parameters, the head is counted.
narrow: the width of a convolution is no multiple of 16; with TensorFlow 2.21 on a CPU with AVX-512,
train such a network with TF_ENABLE_ONEDNN_OPTS=0 in the environment, or it may crash.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    parser = new_parser("list_backbones", "List the backbones with their cost.", epilog=EXAMPLES)
    parser.add_argument(
        "--filter", default="", metavar="TEXT", help="only names that contain this text"
    )
    parser.add_argument(
        "--input-size", type=int, default=112, metavar="PIXELS",
        help="side of the square image (default: 112)",
    )  # fmt: skip
    parser.add_argument("--embedding-size", type=int, default=512, metavar="D", help="default: 512")
    parser.add_argument("--head", default="", help="E, GDC or GAP (default: each network's own)")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each backbone")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return run(_list, parser, argv)


def _list(arguments: argparse.Namespace) -> int:
    for option in ("input_size", "embedding_size"):
        if getattr(arguments, option) < 1:
            raise ConfigError(
                f"--{option.replace('_', '-')}: expected at least 1, "
                f"received {getattr(arguments, option)}"
            )
    settings = {"input_size": arguments.input_size, "embedding_size": arguments.embedding_size}
    if arguments.head:
        settings["head"] = arguments.head
    names = _names(arguments.filter, arguments.head)
    rows = list(_rows(names, settings, progress=not arguments.quiet))
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
        return 0
    width = max(len(name) for name in names)
    print(f"{'name':{width}}  parameters (M)  MADD (M)  narrow")
    for row in rows:
        if "error" in row:
            print(f"{row['name']:{width}}  {row['error']}")
            continue
        print(
            f"{row['name']:{width}}  {row['parameters'] / 1e6:14.2f}  "
            f"{row['multiply_adds'] / 1e6:8.0f}  {'narrow' if row['narrow'] else '-'}"
        )
    return 0


def _names(part: str, head: str) -> list[str]:
    from iom.lookup import lookup
    from iom.models.backbones import BACKBONES
    from iom.models.heads import HEADS

    if head:
        lookup(HEADS, head, "head")
    names = [name for name in BACKBONES if part in name]
    if not names:
        known = ", ".join(sorted(BACKBONES))
        raise ConfigError(f"--filter: no backbone's name contains '{part}' (names: {known})")
    return names


def _rows(
    names: Sequence[str], settings: dict[str, Any], *, progress: bool
) -> Iterator[dict[str, Any]]:
    """A row for each backbone; one that cannot be built at this size says why."""
    import dataclasses

    import keras
    from tqdm import tqdm

    from iom.models.backbones import build_backbone
    from iom.models.complexity import measure

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
