"""Is a data set sound: `iom check-data PATH`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import NO, OK, Answer, new_parser, run

EPILOG = """\
examples:
  iom check-data faces
  iom check-data shards --json > report.json        # all findings
  iom check-data faces_emore/train.rec
  iom check-data lfw.bin

Exit code 0: nothing found; 1: problems found; 2: wrong use.
"""
SHOWN = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom check-data`."""
    parser = new_parser(
        "iom check-data",
        "Report corrupt, repeated, wrongly sized and wrongly labelled images of a data set.",
        epilog=EPILOG,
        answers=True,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of subjects, shards, train.rec or .bin")
    parser.add_argument("--size", type=int, default=112, help="side of an image (default: 112)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return run(_check, parser, argv)


def _check(arguments: argparse.Namespace) -> Answer:
    from iom.data.check import PROBLEMS, check_data
    from iom.errors import ConfigError

    if arguments.size < 1 or arguments.workers < 1:
        raise ConfigError("--size and --workers: expected at least 1")
    count, findings = check_data(
        arguments.path, size=arguments.size, workers=arguments.workers, progress=not arguments.quiet
    )
    lines = [f"{arguments.path}: {count:,} images, {len(findings):,} problems"]
    for kind, meaning in PROBLEMS.items():
        own = [finding for finding in findings if finding.kind == kind]
        if not own:
            continue
        lines.append(f"{kind:13} {len(own):7,}  {meaning}")
        lines += [f"{'':22} {each.place} {each.detail}".rstrip() for each in own[:SHOWN]]
        if len(own) > SHOWN:
            lines.append(f"{'':22} ...")
    rows = [{"kind": each.kind, "place": each.place, "detail": each.detail} for each in findings]
    return Answer({"path": arguments.path, "images": count, "findings": rows}, "\n".join(lines), NO if findings else OK)


if __name__ == "__main__":
    raise SystemExit(main())
