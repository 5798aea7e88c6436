"""From one kind of data to another: `iom convert FROM TO --kind A:B`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iom.cli.arguments import Answer, goes_on_when_repeated, new_parser, run

EPILOG = """\
kinds:
  folder:tfrecord     <subject>/<image> to TFRecord shards, to train from (data.root)
  recordio:folder     train.rec + train.idx (+ property) of MXNet / InsightFace
  recordio:tfrecord
  tfrecord:folder     our shards
  bin:pairs           InsightFace .bin to a folder with images/ and pairs.txt
  pairs:bin
  carray:pairs        bcolz folder with its _list.npy
  carray:bin

examples:
  iom convert faces shards --kind folder:tfrecord
  iom convert faces_emore/train.rec faces --kind recordio:folder --workers 4
  iom convert lfw.bin lfw_pairs --kind bin:pairs

What was written is read again and compared. Start the same command again to go on where it stopped.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom convert`."""
    parser = new_parser("iom convert", "Convert data sets of faces.", epilog=EPILOG, answers=True)
    parser.add_argument("source", type=Path, metavar="FROM")
    parser.add_argument("target", type=Path, metavar="TO")
    parser.add_argument("--kind", required=True, metavar="A:B", help="what to what, see below")
    parser.add_argument("--size", type=int, default=112, help="side of an image (default: 112)")
    parser.add_argument("--per-shard", type=int, default=4096, metavar="N", help="images a shard (default: 4096)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--skip-damaged", action="store_true", help="leave bad images out, count and list them")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return run(_convert, parser, argv)


def _convert(arguments: argparse.Namespace) -> Answer:
    from iom._files import check_output
    from iom.data.formats.conversions import convert
    from iom.errors import ConfigError

    for name in ("size", "per_shard", "workers"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: expected at least 1")
    check_output(arguments.target)
    first, _, second = arguments.kind.partition(":")
    with goes_on_when_repeated():
        manifest = convert(
            (first, second),
            arguments.source,
            arguments.target,
            size=arguments.size,
            per_shard=arguments.per_shard,
            workers=arguments.workers,
            skip_damaged=arguments.skip_damaged,
            progress=not arguments.quiet,
        )
    what = f"{manifest['images']:,} images"
    if "subjects" in manifest:
        what += f" of {len(manifest['subjects']):,} subjects"
    if "pairs" in manifest:
        what += f", {manifest['pairs']:,} pairs"
    lines = [f"wrote {what} to {arguments.target}, read back equal"]
    lines += [f"note: {note}" for note in manifest.get("notes", [])]
    if manifest.get("skipped"):
        lines.append(f"left out {len(manifest['skipped'])}, first: {manifest['skipped'][0]}")
    facts: dict[str, Any] = {name: manifest[name] for name in ("images", "pairs") if name in manifest}
    return Answer(
        {
            "target": arguments.target,
            **facts,
            "subjects": len(manifest.get("subjects", ())),
            "notes": manifest.get("notes", []),
            "skipped": manifest.get("skipped", []),
        },
        "\n".join(lines),
    )


if __name__ == "__main__":
    raise SystemExit(main())
