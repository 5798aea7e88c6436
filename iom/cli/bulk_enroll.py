"""Enrol a large set of aligned faces on several workers, resumable: `iom bulk-enroll`."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from iom.cli.arguments import NO, OK, Answer, goes_on_when_repeated, new_parser, run
from iom.cli.gallery import _add_hasher, _add_places

EPILOG = """\
sources    folder    SOURCE/SUBJECT/*.jpg
           list      a text file, each line IMAGE<tab>SUBJECT, paths from its folder
           tfrecord  shards of iom convert FACES SHARDS --kind folder:tfrecord
engines    ray       Ray Data: workers on this machine, or on the cluster that RAY_ADDRESS names
           here      in this process

workers only embed; codes are made, and keys are held, by this process alone. Every image becomes a
reference of its subject. Started again after it was stopped, the command enrols what is missing.

example:
  iom bulk-enroll people/ --gallery sqlite:///door.db --keys file:door.keys --workers 2
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `iom bulk-enroll`."""
    parser = new_parser("iom bulk-enroll", str(__doc__).split(": `")[0] + ".", epilog=EPILOG, answers=True)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="what is to be enrolled")
    parser.add_argument("--kind", default="folder", help="of source (default: %(default)s)")
    parser.add_argument("--engine", default="ray", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--batch", type=int, default=2048, metavar="N",
        help="references of a transaction (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="FILE", help="default: SOURCE.enrolment.jsonl")
    _add_places(parser)
    _add_hasher(parser)
    return run(_enroll, parser, argv)


def _enroll(arguments: argparse.Namespace) -> Answer:
    from iom._files import check_output, list_images
    from iom.cli.gallery_access import open_gallery
    from iom.cli.gallery_commands import _hasher
    from iom.errors import ConfigError
    from iom.gallery.bulk import WorkerSettings, enroll_in_bulk, open_engine, read_rows

    if arguments.workers < 1 or arguments.batch < 1:
        raise ConfigError("expected --workers and --batch of at least 1")
    source = arguments.source.absolute()
    report = arguments.report or source.with_name(source.name + ".enrolment.jsonl")
    check_output(report, folder=False)
    engine = open_engine(arguments.engine)
    rows = read_rows(arguments.kind, arguments.source)
    if arguments.kind == "folder" and (linked := list_images(source, depth=1).linked_folders):
        print(f"note: {source}: {linked} links to folders are not followed", file=sys.stderr)
    hasher = _hasher(arguments)
    weights = hasher.weights
    settings = WorkerSettings(
        str(Path(weights).absolute()) if Path(weights).exists() else weights,
        hasher.embedder_fingerprint,
        workers=arguments.workers,
    )
    with open_gallery(arguments, hasher) as gallery, goes_on_when_repeated():
        done = enroll_in_bulk(
            gallery,
            arguments.application,
            rows,
            engine,
            settings,
            report=report,
            batch=arguments.batch,
            progress=not arguments.quiet,
        )
    lines = [f"enrolled {done.subjects} subjects, {done.references} references"]
    for count, text in (
        (done.present, "subjects were enrolled already"),
        (done.revoked, "subjects were revoked and stay away; iom renew brings one back"),
        (done.failed_images, f"images failed, see {report}"),
        (done.failed_subjects, "subjects have no image that can be used"),
    ):
        if count:
            lines.append(f"{count} {text}")
    return Answer(
        {"application": arguments.application, **dataclasses.asdict(done), "report": report},
        "\n".join(lines),
        NO if done.failed_subjects else OK,
    )


if __name__ == "__main__":
    raise SystemExit(main())
